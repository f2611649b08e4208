"""A check runs its sections in the order of their worth, each in a process of its own and within its time."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.benchmarks.gpu_check.plan import Section, chosen
from shardrec.trainer.benchmarks.gpu_check.process import SectionProcess
from shardrec.trainer.benchmarks.gpu_check.record import LOG, Found, Record
from shardrec.trainer.benchmarks.gpu_check.sections.task import Task

WRITING_SECONDS = 5.0
"""That the end of a check may take, beyond its sections."""


def check_gpu(
    folder: Path,
    device: Literal["cpu", "cuda"],
    *,
    small: bool,
    names: tuple[str, ...],
    minutes: float,
    progress: Callable[[str], None] = lambda line: None,
) -> Record:
    """Returns what was found, which also lies in `folder` as JSON and as a page, complete after each figure.

    small: sizes for a CPU, with all of the time for any section. names: sections; none: all. Raises UserError where
    there is no such device or section, and for full sizes on a CPU.
    """
    sections = chosen(names)
    _check_device(device, small)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOG).write_text("")
    settings: dict[str, Any] = {"device": device, "small": small, "minutes": minutes}
    record = Record(folder, settings, [Found(section.name, section.title) for section in sections])
    record.write()
    deadline = time.monotonic() + 60 * minutes - WRITING_SECONDS
    with tempfile.TemporaryDirectory(prefix="shardrec-gpu-check-") as scratch:
        _run_all(record, sections, Path(scratch), deadline, progress)
    return record


def _check_device(device: str, small: bool) -> None:
    if device == "cpu":
        if not small:
            raise UserError("--device cpu: full sizes are for a GPU; add --small")
        return
    import torch

    if not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here; for a dry run: --device cpu --small")


def _run_all(
    record: Record, sections: Sequence[Section], scratch: Path, deadline: float, progress: Callable[[str], None]
) -> None:
    log = record.folder / LOG
    ready = [SectionProcess(log, scratch / "stacks-0.txt")]
    try:
        for number, (section, found) in enumerate(zip(sections, record.sections, strict=True)):
            left = deadline - time.monotonic()
            if left < section.least:
                found.state, found.error = "left out", f"{max(0.0, left):.0f} s were left"
            else:
                process = ready.pop()
                if number + 1 < len(sections):
                    ready.append(SectionProcess(log, scratch / f"stacks-{number + 1}.txt"))
                found.state = "running"
                task = _task(record, section, scratch, left)
                process.run(found, task, record.write)
            record.write()
            progress(
                f"{section.title}: {found.state}, {found.seconds:.0f} s" + (f": {found.error}" * bool(found.error))
            )
    finally:
        for process in ready:
            process.end()
        record.write()


def _task(record: Record, section: Section, scratch: Path, left: float) -> Task:
    own = scratch / section.name
    own.mkdir()
    small = record.settings["small"]
    return Task(record.settings["device"], small, record.folder, own, left if small else min(section.seconds, left))
