"""Checkpoints that are damaged or forged: each command that reads one says so in a line, or reads what was written."""

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import shardrec
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.checkpoints.contents import checkpoint_contents
from shardrec.trainer.checkpoints.manifest import MANIFEST, read_manifest, write_manifest
from shardrec.trainer.tables.export import export_table
from tests.fuzzing.broken_bytes import mutated as broken
from tests.fuzzing.mutations import flipped, mutated
from tests.trainer.dynamic_runs import SETTINGS, write_raw_data
from tests.trainer.recorded import train
from tests.trainer.small_run import run_file


@cache
def small_run() -> Path:
    """Returns a finished run with fixed and dynamic tables, made once a process."""
    folder = Path(mkdtemp(prefix="shardrec-fuzzing-"))
    write_raw_data(folder / "data")
    settings = SETTINGS | {"trainer": {"max_steps": 2, "epochs": 1, "tensorboard": False}}
    train(run_file(folder / "run.yaml", folder / "data", **settings))
    return folder / "run"


def manifest(draw: random.Random) -> None:
    """Forges a manifest: one thing in it is another, with its checksum. Raises for anything but a line of error."""
    with _copied() as run:
        at = _checkpoint(run)
        content = mutated(read_manifest(at), draw)
        try:
            json.dumps(content).encode()
        except (ValueError, UnicodeEncodeError):
            return  # JSON has no such value
        write_manifest(at / MANIFEST, content)
        _read(run)


def damaged_file(draw: random.Random) -> None:
    """Damages one file of a run folder. Raises for anything but a line, and for a checkpoint's that none tells of."""
    with _copied() as run:
        file = draw.choice([path for path in sorted(run.rglob("*")) if path.is_file() and "logs" not in path.parts])
        before = file.read_bytes()
        file.unlink()  # it may be a hard link
        file.write_bytes(flipped(before, draw) if draw.random() < 0.5 else broken(before, draw))
        shown = _read(run)
        same_text = file.name == MANIFEST and _json(file.read_bytes()) == _json(before)  # with other spaces
        if file.is_relative_to(_checkpoint(run)) and file.read_bytes() != before and not same_text:
            assert not shown, f"{file.relative_to(run)} differs, which nothing noticed"


def _read(run: Path) -> bool:
    """Reads all of a run by each command; returns whether `checkpoint show` found nothing wrong."""
    fine = []
    for command in (checkpoint_contents, _evaluate, _export):
        try:
            command(run)
            fine.append(command)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000, str(error)[:4000]
    return checkpoint_contents in fine


def _evaluate(run: Path) -> None:
    with shardrec.open(run) as model:
        model.evaluate()


def _export(run: Path) -> None:
    export_table(run, "deep/user", run.with_name("out"))


def _json(text: bytes) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


@contextmanager
def _copied() -> Iterator[Path]:
    with TemporaryDirectory(prefix="shardrec-fuzzing-") as folder:
        yield Path(shutil.copytree(small_run(), Path(folder, "run")))


def _checkpoint(run: Path) -> Path:
    return next((run / "checkpoints").glob("step-*"))
