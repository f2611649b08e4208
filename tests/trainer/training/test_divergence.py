"""Runs that diverge: what they leave is finite, the line names a good checkpoint, and resuming from it trains on."""

import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.checkpoints.contents import checkpoint_contents
from shardrec.trainer.checkpoints.manifest import read_manifest, write_manifest
from shardrec.trainer.config.load import load
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.tables.export import export_table
from shardrec.trainer.training.divergence import Evidence, proportion
from shardrec.trainer.training.train_run import train_run
from shardrec.trainer.training.train_worker import train_worker
from tests.processes import run_processes
from tests.trainer.small_run import run_file, write_data

GOOD = 3  # steps that are made at sane rates


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("good") / "data", rows=600)


@pytest.fixture
def path(data: Path, tmp_path: Path) -> Path:
    every_step = {"max_steps": GOOD, "epochs": 4, "checkpoint": {"every_steps": 1, "keep": 20}}
    return run_file(tmp_path / "run.yaml", data, trainer=every_step)


def refused(path: Path, *overrides: str, resume: bool = False) -> str:
    with pytest.raises(UserError) as error:
        train_run(load(path, overrides), resume=resume, quiet=True)
    assert "\n" not in str(error.value)
    return str(error.value)


def not_finite(checkpoint: Path) -> int:
    contents = checkpoint_contents(checkpoint)
    tables = [values for table in contents["tables"].values() for values in (table, *table["state"].values())]
    return sum(values["not_finite"] for values in (*tables, *contents["tower"].values()))


HALF = "tables.*={dtype: fp16}"
CASES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # settings of the whole run, and those that break it
    "fused, fp16": ((HALF, "optimizer.tables={name: sgd}"), ("optimizer.tables.learning_rate=1e6",)),
    "row-wise": (("optimizer.tables={name: rowwise_adagrad}",), ("optimizer.tables.learning_rate=1e6",)),
    "own kernel, fp16": ((HALF, "optimizer.tables={name: adam}"), ("optimizer.tables.learning_rate=1e6",)),
    "ftrl": (("optimizer.tables={name: ftrl}",), ("optimizer.tables.learning_rate=1e30",)),
    "replicas": (("tables.*={placement: data_parallel}",), ("optimizer.tables.learning_rate=1e30",)),
    "dynamic": (("tables.user={dynamic: {rows: 301}}",), ("optimizer.tables.learning_rate=1e30",)),
    "adam": ((), ("optimizer.tower.learning_rate=1e4",)),
    "sgd": (("optimizer.tower={name: sgd}",), ("optimizer.tower.learning_rate=1e30",)),
    "rmsprop": (("optimizer.tower={name: rmsprop}",), ("optimizer.tower.learning_rate=1e8",)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_advice_trains_on(case: str, path: Path) -> None:
    """Rates are raised after three good steps: the line names the third, and with the old rates that goes on."""
    settings, broken = CASES[case]
    train_run(load(path, settings), quiet=True)
    line = refused(path, *settings, *broken, "trainer.max_steps=9", resume=True)
    assert f"checkpoint step-{GOOD} is good" in line and "--resume" in line and "learning_rate" in line
    folder = RunFolder.open(path.with_suffix(""))
    assert folder.steps() == [1, 2, 3]
    assert not any(not_finite(folder.checkpoint(step)) for step in folder.steps())
    assert not list(folder.checkpoints.glob(".step-*"))
    aside = re.findall(r"step-(\d+)(?=, step| not)", line)
    assert sorted(p.name for p in folder.checkpoints.glob("*.diverged")) == [f"step-{step}.diverged" for step in aside]
    summary = train_run(load(path, [*settings, "trainer.max_steps=9"]), resume=True, quiet=True)
    assert summary and (summary["first_step"], summary["steps"]) == (GOOD, 9)
    assert summary["metrics"]["validation"]["log_loss"] < 2


def test_a_run_without_a_good_checkpoint_leaves_none(path: Path) -> None:
    """Its steps 1 and 2 were saved while the loss was finite."""
    line = refused(path, "optimizer.tables={name: sgd, learning_rate: 1e6}", "trainer.max_steps=9")
    assert "no checkpoint is good" in line and line.endswith("and start anew") and "good, " not in line
    assert not path.with_suffix("").exists()
    assert train_run(load(path), quiet=True)


def test_the_last_good_checkpoint_outlives_newer_ones(path: Path) -> None:
    """Of runs that keep one: until a loss proves the newer one, there are two; at the end there is one."""
    one = "trainer.checkpoint={every_steps: 1, keep: 1}"
    train_run(load(path, [one]), quiet=True)
    folder = RunFolder.open(path.with_suffix(""))
    best = folder.best_step()
    assert folder.steps() == sorted({GOOD, best})
    line = refused(path, one, "optimizer.tables={name: sgd, learning_rate: 1e6}", "trainer.max_steps=9")
    assert "holds a run already" in line
    line = refused(path, one, "optimizer.tower.learning_rate=1e3", "trainer.max_steps=9", resume=True)
    assert f"checkpoint step-{GOOD} is good" in line and GOOD in folder.steps()


def poison(folder: RunFolder, step: int) -> None:
    """Makes a checkpoint what earlier versions saved: whole by its checksums, with an accumulator that is infinite."""
    at = folder.checkpoint(step)
    content = read_manifest(at)
    entry = next(e for e in content["tables"] if e["table"] == "user")
    described, file = entry["tensors"]["accumulator"], at / entry["file"]
    with file.open("r+b") as opened:
        opened.seek(described["start"])
        opened.write(np.float32(np.inf).tobytes())
        opened.seek(described["start"])
        described["crc32"][0] = zlib.crc32(opened.read())
    write_manifest(at / "manifest.json", content)


def test_a_poisoned_checkpoint_is_not_resumed_and_not_exported(path: Path) -> None:
    """No row of it need be read for that; the one before is gone on from."""
    train_run(load(path), quiet=True)
    folder = RunFolder.open(path.with_suffix(""))
    poison(folder, GOOD)
    assert not_finite(folder.checkpoint(GOOD)) == 1
    more = load(path, [f"init_from={folder.path}", f"run={folder.path}-2"])
    (folder.checkpoints / "best").write_text(f"{GOOD}\n")
    with pytest.raises(UserError, match="init_from: 1 value of accumulator of table 'user' is not finite"):
        train_run(more, quiet=True)
    with pytest.raises(UserError, match=r"1 values of table 'user' in rows .* not finite"):
        export_table(folder.path, "user", path.parent / "rows", GOOD, state=True)
    assert not (path.parent / "rows").exists()
    line = refused(path, "trainer.max_steps=6", resume=True)
    assert "checkpoint step-3: 1 value of accumulator of table 'user' is not finite" in line
    assert "checkpoint step-2 is the one before, step-3 not" in line
    assert (folder.checkpoints / "step-3.diverged").is_dir() and folder.steps() == [1, 2]
    summary = train_run(load(path, ["trainer.max_steps=6"]), resume=True, quiet=True)
    assert summary and (summary["first_step"], summary["steps"]) == (2, 6)


def rank_line(rank: int, path: Path, folder: Path) -> str:
    """What a rank of a run is refused with."""
    config = load(path, ["trainer.max_steps=9", "optimizer.tables={name: sgd, learning_rate: 1e30}"])
    try:
        launch(train_worker, config, RunFolder(folder))
    except UserError as error:
        return str(error)
    return "it trained"


def test_all_ranks_stop_with_the_same_line(path: Path) -> None:
    RunFolder.create(load(path), resume=False)
    lines = run_processes(2, rank_line, path, path.with_suffix(""), timeout=240)
    assert lines[0] == lines[1] and "too large to train on, and are not saved" in lines[0]
    assert not list((path.with_suffix("") / "checkpoints").iterdir())


def test_a_gradient_that_overflows_is_named(data: Path, tmp_path: Path) -> None:
    """The loss is finite; what it gives the tower is not, or would not be once squared."""
    labels = Path(shutil.copytree(data, tmp_path / "data"))
    for file in labels.glob("train/*.parquet"):
        table = pq.read_table(file).drop_columns("label")
        pq.write_table(table.append_column("label", pa.array(np.full(len(table), 1e18, np.float32))), file)
    path = run_file(tmp_path / "run.yaml", labels, trainer={"max_steps": 3, "evaluation": {"every_epochs": None}})
    line = refused(path, "model.task=regression")
    assert "step 1: gradients of tables 'user', 'item'" in line
    assert "and the tower are not finite, or above 1e+12" in line
    assert not path.with_suffix("").exists()


def test_a_loss_is_evidence_on_the_checkpoint_before_it() -> None:
    evidence = Evidence()
    evidence.saved(4)
    assert not evidence.judge(3, sound=False) and evidence.judge(4, sound=True)
    for step, sound in ((5, False), (6, False)):
        evidence.saved(step)
        assert evidence.judge(step, sound=sound)
    assert (evidence.sound, evidence.unsound) == (4, [5, 6])
    assert not evidence.judge(6, sound=True)
    evidence.saved(7)
    evidence.judge(7, sound=True)
    assert (evidence.sound, evidence.unsound) == (7, [])


def test_proportions() -> None:
    """Of losses below 1, which a run may begin with, 1 is what counts."""
    assert (proportion(50.0, 0.01), proportion(-50.0, 10.0), proportion(3.0, None)) == (50.0, 5.0, 3.0)
    assert proportion(float("nan"), 1.0) == proportion(float("inf"), 1.0) == float("inf")
