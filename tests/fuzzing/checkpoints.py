"""Checkpoints that are damaged or forged: each command that reads one says so in a line, or reads what was written."""

import json
import random
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import shardrec
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.checkpoints.contents import checkpoint_contents
from shardrec.trainer.checkpoints.manifest import MANIFEST, read_manifest, write_manifest
from shardrec.trainer.tables.export import export_table
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


def manifest(seed: int, folder: Path) -> None:
    """Forges a manifest: one thing in it is another, and its checksum right."""
    draw = random.Random(seed)
    run = _copied(folder)
    at = _checkpoint(run)
    content = mutated(read_manifest(at), draw)
    try:
        json.dumps(content).encode()
    except (ValueError, UnicodeEncodeError):
        return  # JSON has no such value
    write_manifest(at / MANIFEST, content)
    _read(run, folder / "out")


def bytes_of_files(seed: int, folder: Path) -> None:
    """Damages one file of a run folder; where commands read on, tables are what they were."""
    draw = random.Random(seed)
    run = _copied(folder)
    file = draw.choice([path for path in sorted(run.rglob("*")) if path.is_file() and "logs" not in path.parts])
    before = file.read_bytes()
    file.unlink()  # it may be a hard link
    file.write_bytes(flipped(before, draw))
    contents = _read(run, folder / "out")
    if contents is not None and file.is_relative_to(_checkpoint(run)) and file.read_bytes() != before:
        expected = checkpoint_contents(small_run())
        expected.pop("checkpoint"), contents.pop("checkpoint")
        assert contents == expected, f"{file.relative_to(run)} differs and is read in silence"
        raise AssertionError(f"{file.relative_to(run)} differs, which nothing noticed")


def _read(run: Path, out: Path) -> dict[str, Any] | None:
    """Reads all of a run by each command; returns what `checkpoint show` says, None where that is an error line."""
    shown = None
    for command in (_show, _evaluate, _export):
        try:
            result = command(run, out)
            shown = result if command is _show else shown
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000, str(error)[:4000]
    return shown


def _show(run: Path, out: Path) -> dict[str, Any]:
    return checkpoint_contents(run)


def _evaluate(run: Path, out: Path) -> None:
    with shardrec.open(run) as model:
        model.evaluate()


def _export(run: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    export_table(run, "deep/user", out)


def _copied(folder: Path) -> Path:
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(small_run(), run)
    return run


def _checkpoint(run: Path) -> Path:
    return next((run / "checkpoints").glob("step-*"))
