"""A run folder holds everything that evaluate, predict, export and resume need, and is the only checkpoint store.

config.yaml  schema.yaml  vocabularies/  plan.txt  plan.json  metrics.jsonl  launches.jsonl  curves.json  summary.json
report.html  logs/  tensorboard/
calibration.json      once it was calibrated
slices.json           once its report had slices
checkpoints/step-N/   complete or absent
checkpoints/best      a file that names a step

Of a run in a store (`run: s3://...`) `checkpoints/` is there, and `path` is the mirror in which this machine has the
other files (`synced.py`).

A run of stages has a folder of this kind for each of them, and `stages.yaml` and `summary.json` beside these.
"""

import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow.fs import LocalFileSystem, copy_files

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.files.owned_files import (
    MARKER,
    remove_files,
    remove_if_empty,
    remove_made,
    without_waiting,
)
from shardrec.data_pipeline.files.relative_names import within
from shardrec.data_pipeline.files.whole_files import whole_file
from shardrec.data_pipeline.stores.filesystems import opened
from shardrec.data_pipeline.stores.location import Location, StorePath
from shardrec.data_pipeline.stores.mirrors import address, local
from shardrec.trainer.config.load import load, read
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.config.stages import stage_names
from shardrec.trainer.config.trust import note
from shardrec.trainer.run_folder.atomic import write_atomically
from shardrec.trainer.run_folder.lasting import check_lasting
from shardrec.trainer.run_folder.lock import LOCK, check_owned, was_begun
from shardrec.trainer.run_folder.records import append_record, read_records
from shardrec.trainer.run_folder.run_files import CHECKPOINTS, RunFiles
from shardrec.trainer.run_folder.stop_request import REQUESTS, forget_requests
from shardrec.trainer.run_folder.summary_file import read_summary
from shardrec.trainer.run_folder.synced import fetch, fetch_file_of, forget, holds_other_things, withdraw

_FILES = (
    *("config.yaml", "stages.yaml", "schema.yaml", "plan.txt", "plan.json", "metrics.jsonl", "launches.jsonl"),
    *("curves.json", "summary.json", "report.html"),
)
_LOGS = ("driver.log", "rank-*.log", "tracking-*.log", "*.json", "messages.txt")
_WRITTEN = (
    *_FILES,
    *(f"logs/{name}" for name in _LOGS),
    *(f"logs/*-*/{name}" for name in _LOGS),  # of each command
    "tensorboard/events.out.tfevents.*",
    "tracking/*.json",
    *REQUESTS,
    "checkpoints/.step-*.tmp/**/*",
    "checkpoints/best",  # where all that there were were set aside, and removed
)  # before the first checkpoint
_FOLDERS = ("logs", "tensorboard", "tracking", "checkpoints")
_OWN_NAMES = (*_FILES, "calibration.json", "slices.json", *_FOLDERS, MARKER, LOCK)


OF_EVALUATIONS = ("validation", "test", "zero_weights")
"""Kinds of records that an evaluation writes."""

_LARGEST_MARK = 100  # bytes of `checkpoints/best`


@dataclass(frozen=True)
class RunFolder(RunFiles):
    """A run folder is known by its path; its methods say what is in it, and write it."""

    # ------------------------------------------------------------ making and opening

    @classmethod
    def check(cls, config: RunConfig, *, resume: bool) -> None:
        """Raises UserError where the folder of a new run, or of one taken up with `resume`, holds something else."""
        folder = cls(config.run_folder)
        check_lasting("run", folder.path)
        if folder.config_file.exists():
            if not resume:
                raise UserError(
                    f"{folder.address}: holds a run already; continue it with --resume, or name another `run`"
                )
            before = folder.config()
            if before.model != config.model:
                raise UserError(
                    f"{folder.address}: holds a run of another model ({_shown(before.model)}), "
                    f"this one is {_shown(config.model)}; name another `run`"
                )
        elif holds_other_things(folder.path) or (
            folder.path.exists() and not (folder.path.is_dir() and was_begun(folder.path))
        ):
            raise UserError(f"{folder.address}: not a run folder and not empty; name another `run`")
        elif resume:
            raise nothing_to_resume(folder.path)
        folder.check_no_links(_FOLDERS)

    def check_no_links(self, names: Iterable[str]) -> None:
        """Raises UserError where a folder in this one, which is to be written to and pruned, is a link elsewhere."""
        for place in (self.path / name for name in names):
            if place.is_symlink():
                raise UserError(
                    f"{place}: a link to {os.readlink(place)}, through which nothing is written or removed; move what "
                    "it leads to here, or put all of the run folder there"
                )

    def check_owned(self) -> None:
        """Raises UserError where another training has taken this folder over meanwhile."""
        if self.own_logs is not None:
            check_owned(self.path, self.own_logs.name)

    @classmethod
    def create(cls, config: RunConfig, *, resume: bool) -> "RunFolder":
        """Makes the folder of a new run, or takes up the one that is there with `resume`.

        Raises UserError where the folder holds another run or other files.
        """
        cls.check(config, resume=resume)
        folder = cls(config.run_folder)
        folder.logs.mkdir(parents=True, exist_ok=True)
        (folder.path / CHECKPOINTS).mkdir(exist_ok=True)  # of a run in a store, that it is known for a run's
        folder.error_file.unlink(missing_ok=True)
        forget_requests(folder.path)
        if not folder.steps():
            folder.describe(folder.as_begun(config))
        return folder

    def describe(self, config: RunConfig) -> None:
        """Writes what later commands go by. On resume only once the checkpoint was found to fit the new settings."""
        self._keep_schema(config)
        forget(self.summary_file)  # of an end that is not the end any more
        write_atomically(self.config_file, config.dump())
        note(config.model_dump(mode="json", by_alias=True), self.path)

    def as_begun(self, config: RunConfig) -> RunConfig:
        """Returns a configuration with the precision that a run in this folder began with, in the place of `auto`."""
        if config.trainer.precision != "auto" or not self.config_file.exists():
            return config
        begun = read(self.config_file).get("trainer")
        return config.with_precision(begun.get("precision", "auto") if isinstance(begun, Mapping) else "auto")

    def settle(self, config: RunConfig) -> None:
        """Writes down what was left to be settled when this run begins, for all that goes on from it."""
        write_atomically(self.config_file, config.dump())

    @classmethod
    def awaited(cls, config: RunConfig) -> "RunFolder":
        """Waits for the folder that another process is about to create, on the same machine or on shared storage."""
        node = os.environ.get("GROUP_RANK", "0")  # torchrun's, whose first node has rank 0
        folder = cls(config.run_folder, elsewhere=node != "0")
        deadline = time.monotonic() + config.launch.timeout
        while not folder.config_file.exists():
            fetch(folder.path)
            if time.monotonic() > deadline:
                raise UserError(
                    f"{folder.address}: rank 0 has not made this run folder within {config.launch.timeout:.0f} s"
                )
            time.sleep(0.1)
        return folder

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Opens a run folder that is there; of a run of stages that of the last one.

        Raises UserError where there is none, and where the last stage is not finished.
        """
        folder = cls(local(path).resolve())
        fetch(folder.path)
        if folder.stages_file.exists():
            names = stage_names(read(folder.stages_file), str(folder.stages_file))
            finished = [name for name in names if cls(folder.path / name).summary() is not None]
            if names[-1] not in finished:
                stage = f", or name {address(folder.path / finished[-1])}" if finished else ""
                raise UserError(f"{folder.address}: stage {names[-1]} is not finished; resume the run{stage}")
            return cls(folder.path / names[-1])
        if not folder.config_file.exists():
            raise UserError(f"{folder.address if folder.store else path}: not a run folder (no config.yaml in it)")
        return folder

    def discard(self) -> None:
        """Removes what a run wrote that failed before its first checkpoint: there is nothing in it to go on from.

        What else lies in the folder stays, and the folder itself: whose lock made it (`locked`) removes it.
        """
        assert not self.steps()
        withdraw(self.path)
        here = self.path.resolve()  # `run` itself may be a link
        names = [path.relative_to(here).as_posix() for pattern in _WRITTEN for path in here.glob(pattern)]
        with suppress(UserError):  # there may have been no room for it
            names += self.schema().named_files
        remove_files(here, names)
        if not (here / "tracking").is_symlink():
            remove_made(here / "tracking" / "wandb")  # links among its files would stay
            remove_if_empty(here / "tracking")
        unfinished = sorted(here.glob("checkpoints/.step-*.tmp/**"), reverse=True)  # that no file was written to yet
        for folder in (*unfinished, self.logs, self.path / CHECKPOINTS):
            remove_if_empty(folder)

    def config(self, overrides: Iterable[str] = ()) -> RunConfig:
        """Returns the run's resolved configuration; run and schema are where the folder is now."""
        config = load(self.config_file, overrides, vouched=False)
        data = config.data.model_copy(update={"schema_path": str(self.schema_file)})
        return config.model_copy(update={"run": self.address, "data": data})

    def schema(self) -> Schema:
        """Returns the schema that is kept here."""
        return Schema.load(self.schema_file)

    def _keep_schema(self, config: RunConfig) -> None:
        """Copies the schema and the vocabularies that it names, so that predictions need no other folder.

        Those by which rows were prepared are kept where they are there: they tell what the ids mean.
        """
        schema = config.load_schema()
        if config.data.schema_folder == str(self.path):
            return
        schema.save(self.schema_file)
        for path in schema.named_files:
            if PurePosixPath(path).parts[0].casefold() in _OWN_NAMES:  # as some file systems compare them
                raise UserError(f"{config.data.schema_file}: a vocabulary's file is called {path}, as one of a run is")
            target = within(self.path, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with whole_file(target) as temporary:
                    _copy(f"{config.data.schema_folder}/{path}", temporary)
            except FileNotFoundError:
                if path in schema.vocabularies:
                    raise

    # ------------------------------------------------------------ checkpoints

    def steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints, ascending."""
        if self.store is None and not self.checkpoints.exists():
            return []
        names = (re.fullmatch(r"step-(0|[1-9][0-9]{0,18})", p.name) for p in self.checkpoints.iterdir())
        return sorted(int(m[1]) for m in names if m and (self.checkpoints / m[0] / "manifest.json").exists())

    def checkpoint(self, step: int) -> Location:
        """Returns the folder of a step's checkpoint."""
        return self.checkpoints / f"step-{step}"

    def best_step(self) -> int | None:
        """Returns the step that `checkpoints/best` names, if its checkpoint is there."""
        mark = self.checkpoints / "best"
        try:
            if isinstance(mark, StorePath):
                step = int(mark.read_bytes()[:_LARGEST_MARK])
            else:
                with open(mark, "rb", opener=without_waiting) as file:
                    step = int(file.read(_LARGEST_MARK))
        except (FileNotFoundError, IsADirectoryError, ValueError):
            return None
        return step if step in self.steps() else None

    def choose_step(self, step: int | None = None) -> int:
        """Returns the step asked for, else the best, else the last. Raises UserError where there is none."""
        steps = self.steps()
        if step is None:
            best = self.best_step()
            step = max(steps, default=None) if best is None else best
        if step not in steps:
            present = ", ".join(map(str, steps)) or "none"
            wanted = f" of step {step}" if step is not None else ""
            raise UserError(f"{self.checkpoints}: no complete checkpoint{wanted}; there is: {present}")
        return step

    def mark_best(self, step: int) -> None:
        """Makes `checkpoints/best` name a step."""
        mark = self.checkpoints / "best"
        if isinstance(mark, StorePath):
            mark.write_text(f"{step}\n")
        else:
            write_atomically(mark, f"{step}\n")

    # ------------------------------------------------------------ records

    def summary(self) -> dict[str, Any] | None:
        """Returns the summary of a run that is over, by its own word; None while it is not."""
        return read_summary(self.summary_file)

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Appends one line to metrics.jsonl."""
        append_record(self.metrics_file, kind, step, values)

    def records(self) -> list[dict[str, Any]]:
        """Returns all complete lines of metrics.jsonl. Raises UserError for one that is no record."""
        return read_records(self.metrics_file)

    def forget_records_after(self, step: int, *, is_evaluated: bool = True) -> None:
        """Drops what was recorded after `step`, and of its evaluation where that is to be made again.

        What a store has was sent before the step's checkpoint was made, by whichever machine rank 0 was on.
        """
        fetch_file_of(self.metrics_file)
        kept = [r for r in self.records() if r["step"] <= step and r["kind"] != "end"]
        if not is_evaluated:
            kept = [r for r in kept if r["step"] < step or r["kind"] not in OF_EVALUATIONS]
        write_atomically(self.metrics_file, "".join(json.dumps(r) + "\n" for r in kept))


def nothing_to_resume(path: Path) -> UserError:
    """Returns the error of a --resume where there is no run."""
    return UserError(
        f"{path}: holds no run to go on with; leave --resume out to start one, or say --resume auto, which does either"
    )


def _copy(source: str, target: Path) -> None:
    filesystem, path = opened(source) if "://" in source else (LocalFileSystem(), source)
    copy_files(path, str(target), source_filesystem=filesystem)


def _shown(model: dict[str, Any]) -> str:
    settings = {k: v for k, v in model.items() if k != "name"}
    return f"{model['name']} {settings}" if settings else str(model["name"])
