"""`shardrec compare` trains several models of one run file, each under several seeds, on the same data.

Every run is an ordinary one with its own folder, OUT/MODEL/seed-K, trained in a process apart, so that a crash costs
one run. What is finished stays: the same command again goes on where it stopped.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from shardrec.data_pipeline.errors import LoggedError, UserError
from shardrec.data_pipeline.reading.index import Fingerprint, fingerprints
from shardrec.data_pipeline.stores.mirrors import address
from shardrec.trainer.comparison.scoreboard import Outcome, Scoreboard
from shardrec.trainer.config.differences import first_difference
from shardrec.trainer.config.load import load, read
from shardrec.trainer.config.paths import absolute_folder
from shardrec.trainer.config.sections import SPLITS, Paths, RunConfig
from shardrec.trainer.config.stages import resolve_stages
from shardrec.trainer.launch.backends import check_launches_workers
from shardrec.trainer.launch.parent import end_with_parent
from shardrec.trainer.run_folder.command_logs import command_name
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.interruption import telling_how_to_go_on
from shardrec.trainer.run_folder.lasting import check_lasting
from shardrec.trainer.run_folder.lock import locked
from shardrec.trainer.run_folder.synced import fetch, in_step
from shardrec.trainer.run_folder.terminal import messages


@dataclass(frozen=True)
class Entry:
    """An entry is one run of a comparison."""

    model: str
    seed: int
    config: RunConfig

    @property
    def folder(self) -> RunFolder:
        """Returns the run's folder, which need not be there yet."""
        return RunFolder(self.config.run_folder)

    @property
    def title(self) -> str:
        """Says which run it is, to people."""
        return f"{self.model}, seed {self.seed}"


def compare_models(
    run_file: Path,
    models: Sequence[str],
    seeds: int,
    overrides: Iterable[str],
    out: Path | None,
    quiet: bool = False,
    after_run: Callable[[Path], None] = lambda out: None,
) -> Scoreboard:
    """Trains every model under every seed; `out` (default: the run file's `run`) gets the tables after each run.

    models: variants of the file, or names of `MODELS` (none: all variants). Runs that fail are part of the result.
    after_run: is called with the comparison's folder after each run that was trained, and where all were there, once.
    Raises UserError for what is wrong with the comparison as a whole, before anything is trained.
    """
    models = list(dict.fromkeys(models)) or list(read(run_file).get("variants") or ())
    if not models:
        raise UserError(f"{run_file}: has no `variants` to compare; name models with --models a,b,c")
    key, named = ("run", "`run`") if out is None else ("--out", "--out")
    out = load(run_file, overrides, variant=models[0]).run_folder.parent if out is None else absolute_folder(out)
    check_lasting(key, out)
    fetch(out)
    Scoreboard.check_writable(out)
    entries = [_entry(run_file, model, seed, overrides, out) for seed in range(seeds) for model in models]
    for entry in entries:
        fetch(entry.folder.path)
    _check(entries)
    leading = entries[0].config.trainer.selection_metric
    board, console, any_trained = Scoreboard(models, seeds, leading), messages(), False
    told = telling_how_to_go_on(out, out, way_on="the same command goes on")
    with told, locked(out, command_name("compare"), named=named), in_step(out), _Workplace() as workplace:
        for number, entry in enumerate(entries, start=1):
            trained = (outcome := _earlier(entry)) is None
            if outcome is None:
                if not quiet:
                    console.print(f"{entry.title} ({number} of {len(entries)})")
                outcome = workplace.train(entry, quiet)
            if outcome.failure is not None and not quiet:
                console.print(f"failed: {outcome.failure}", soft_wrap=True, markup=False)
            board.add(outcome)
            board.write(out)
            if trained or (number == len(entries) and not any_trained):
                after_run(out)
            any_trained |= trained
    return board


def _entry(run_file: Path, model: str, seed: int, overrides: Iterable[str], out: Path) -> Entry:
    config = load(run_file, (*overrides, f"trainer.seed={seed}"), variant=model)
    return Entry(model, seed, config.model_copy(update={"run": address(out / model / f"seed-{seed}")}))


def _check(entries: Sequence[Entry]) -> None:
    """Raises UserError where the runs would not be comparable with one another, or with those that are there."""
    first, fingerprints = entries[0], _Fingerprints()
    for entry in entries:
        check_launches_workers(entry.config.launch, "compare")
        for split in SPLITS:
            a, b = (e.config.data.split(split) for e in (first, entry))
            if a != b:
                raise UserError(
                    f"models are compared on the same rows, but the {split} rows of {first.model!r} are {a} and "
                    f"those of {entry.model!r} are {b}"
                )
        for place in (entry.folder.path.parent, entry.folder.path):
            if place.is_symlink():
                raise UserError(f"{place}: a link, through which no run is trained; name another --out, or its target")
        begun = _begun(entry.folder)
        if begun is not None and (change := first_difference(load(begun), entry.config)):
            raise UserError(
                f"{entry.folder.path}: holds a run of other settings ({change.key} was {change.before}, "
                f"now {change.now}); ask for the same, or name another --out"
            )
        fingerprints.check(entry)


class _Fingerprints:
    """Fingerprints of the splits as they are on disk, each read once."""

    def __init__(self) -> None:
        self._known: dict[Paths, tuple[Fingerprint, ...]] = {}

    def check(self, entry: Entry) -> None:
        """Raises UserError where a run is finished whose rows have changed since; others find out when they go on."""
        recorded = (entry.folder.summary() or {}).get("data")
        if recorded is None:
            return
        data = [entry.config, *resolve_stages(entry.config).values()][-1].data
        for split in SPLITS:
            paths = data.split(split)
            if paths is not None and paths not in self._known:
                self._known[paths] = fingerprints(paths)
            saved = recorded.get(split)
            same = saved is None if paths is None else any(f.matches(saved) for f in self._known[paths])
            if not same:
                raise UserError(
                    f"{entry.folder.path}: its {split} rows have changed since it was finished; remove it, or name "
                    "another --out"
                )


def _begun(folder: RunFolder) -> Path | None:
    """Returns the resolved run file of a run, or of a run of stages, that has begun; None where none has."""
    return next((file for file in (folder.config_file, folder.stages_file) if file.exists()), None)


def _earlier(entry: Entry) -> Outcome | None:
    """Returns what a finished run came to; None where the run is still to be made or to be ended."""
    summary = entry.folder.summary()
    return Outcome(entry.model, entry.seed, summary) if summary else None


class _Workplace:
    """A workplace is a process in which runs are trained one after another.

    A new one takes over where it has died, or where a run went down otherwise than by an error of its user's: after a
    CUDA error nothing more can be computed on a GPU in the process that met it.
    """

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "_Workplace":
        return self

    def __exit__(self, *error: object) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def train(self, entry: Entry, quiet: bool) -> Outcome:
        """Trains one run from its last checkpoint on, or from the start."""
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent)
        try:
            self._pool.submit(train_one, entry.config, entry.folder.path.parent.parent, quiet).result()
        except LoggedError as error:
            self._leave()  # what went down may have taken a GPU's state with it, and holds its tables
            return Outcome(entry.model, entry.seed, failure=str(error))
        except UserError as error:
            return Outcome(entry.model, entry.seed, failure=str(error))
        except BrokenProcessPool:
            self._leave()
            return Outcome(entry.model, entry.seed, failure="its process died" + _told(entry))
        except Exception as error:
            self._leave()
            line = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return Outcome(entry.model, entry.seed, failure=line + _told(entry))
        return Outcome(entry.model, entry.seed, entry.folder.summary())


def _told(entry: Entry) -> str:
    """Says where a run that went down left its last words."""
    logs = sorted(entry.folder.path.glob("**/logs/**/driver.log"), key=os.path.getmtime)
    return f"; see {logs[-1]}" if logs else ""


def train_one(config: RunConfig, group: Path, quiet: bool) -> None:
    """Trains one run of the comparison in the folder `group`, in this process."""
    from shardrec.trainer.launch.freed_memory import give_back_freed_memory
    from shardrec.trainer.reports.after_training import reported
    from shardrec.trainer.training.train_run import train_run

    try:
        goes_on = _begun(RunFolder(config.run_folder)) is not None
        with reported(config) as report:
            train_run(config, resume=goes_on, quiet=quiet, group=group, at_end=report)
    finally:
        give_back_freed_memory()  # the next run needs it
