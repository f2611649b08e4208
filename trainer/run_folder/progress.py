"""The leading worker writes how far a run is into a small file, and the process that the user started shows it.

A file, since the two are different processes (of different machines, perhaps) that share the run folder. Writing is
limited to a few times a second and never fails a run.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from shardrec.data_pipeline.files.whole_files import whole_file
from shardrec.trainer.run_folder.terminal import messages
from shardrec.trainer.run_folder.worker_lines import WorkerLines

PROGRESS = "progress.json"
TRAINING = "training"
"""The phase whose steps are the run's."""

_WRITE_SECONDS = 0.2
_POLL_SECONDS = 0.25
_LINE_SECONDS = 10.0  # between lines where the output is not a terminal


@dataclass(frozen=True)
class Event:
    """An event is what the leading worker is doing.

    steps: how many this phase will have; rate: samples a second; trained: steps of training made so far.
    """

    phase: str
    step: int = 0
    steps: int | None = None
    epoch: int | None = None
    loss: float | None = None
    rate: float | None = None
    trained: int = 0

    @property
    def figures(self) -> str:
        """Returns what is known beside the count of steps."""
        known = {
            "epoch {}": self.epoch,
            "loss {:.4f}": self.loss,
            "{:,.0f} samples/s": self.rate or None,  # 0: nothing measured yet
        }
        return "  ".join(shape.format(value) for shape, value in known.items() if value is not None)


class ProgressFile:
    """The leading worker says here how far it is. With `enabled` false (the other workers) nothing is written.

    current: what this worker does, the leading one or another.
    """

    def __init__(self, logs: str | Path, *, enabled: bool = True) -> None:
        self._path = Path(logs) / PROGRESS
        self._enabled = enabled
        self.current = "starting"
        self._phase: str | None = None
        self._next = 0.0
        self._trained = 0

    def phase(self, name: str) -> None:
        """Says that something without steps begins."""
        self.current = name
        self.write(Event(name, trained=self._trained))

    def step(
        self,
        phase: str,
        step: int,
        steps: int | None = None,
        *,
        epoch: int | None = None,
        loss: float | None = None,
        rate: float | None = None,
    ) -> None:
        """Says that `step` of `steps` is done."""
        self.current = phase
        if self._enabled:
            if phase == TRAINING:
                self._trained = step
            self.write(Event(phase, step, steps, epoch, loss, rate, self._trained))

    def counter(self, phase: str, steps: int | None = None) -> Callable[[int], None]:
        """Begins a phase, and returns the function that takes the number of steps done."""
        self.step(phase, 0, steps)
        return lambda done: self.step(phase, done, steps)

    def write(self, event: Event) -> None:
        """Replaces the last event; at most five times a second, but for a phase's first and last step."""
        last = event.steps is not None and event.step >= event.steps
        if not self._enabled or (event.phase == self._phase and time.monotonic() < self._next and not last):
            return
        self._phase = event.phase
        self._next = time.monotonic() + _WRITE_SECONDS
        try:
            with whole_file(self._path, synced=False) as temporary:
                temporary.write_text(json.dumps(asdict(event)))
        except OSError:
            pass  # a full disk or a slow share shall stop checkpoints, not this


def steps_done(logs: Path) -> int:
    """Returns how many steps of training were made by the last word of a launch, a fifth of a second ago or earlier."""
    try:
        return int(json.loads((logs / PROGRESS).read_text())["trained"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


class ProgressView:
    """The view shows what the leading worker writes: a bar on a terminal, else a line a phase and every ten seconds.

    first: what is shown until something is written.
    """

    def __init__(
        self,
        logs: str | Path,
        *,
        console: Console | None = None,
        quiet: bool = False,
        first: str = "starting workers",
    ) -> None:
        self._path = Path(logs) / PROGRESS
        self._console = console or messages()
        self._quiet, self._first = quiet, first
        self.said = WorkerLines(logs, self._console)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "ProgressView":
        if not self._quiet:
            self._path.unlink(missing_ok=True)  # an earlier run's
            self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()

    def _watch(self) -> None:
        shown = _Bar(self._console) if self._console.is_terminal else _Lines(self._console)
        event = Event(self._first)
        with shown:
            shown.show(event)
            while not self._stop.wait(_POLL_SECONDS):
                event = self._read() or event
                shown.show(event)
                self.said.show()
            shown.show(self._read() or event)

    def _read(self) -> Event | None:
        try:
            return Event(**json.loads(self._path.read_text()))
        except (OSError, ValueError, TypeError):
            return None


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: Event | None = None
        self._next = 0.0

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def show(self, event: Event) -> None:
        now = time.monotonic()
        new_phase = self._last is None or event.phase != self._last.phase
        if event == self._last or (now < self._next and not new_phase):
            return
        self._last, self._next = event, now + _LINE_SECONDS
        count = f"{event.step}/{event.steps}" if event.steps else ""
        self._console.print("  ".join(filter(None, (event.phase, count, event.figures))), markup=False, highlight=False)


class _Bar:
    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            redirect_stdout=False,  # what others print goes where it went before: to a log, past this terminal
            redirect_stderr=False,
        )
        self._phase: str | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        if self._task is None or event.phase != self._phase:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._phase = event.phase
            self._task = self._progress.add_task(event.phase, total=event.steps, figures="")
        self._progress.update(self._task, completed=event.step, total=event.steps, figures=event.figures)
