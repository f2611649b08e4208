"""Training data that goes bad: an error that names it, or rows that are left out, counted and few."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.load import load
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.scoring.evaluate import evaluate_run
from shardrec.trainer.scoring.predict import predict_rows
from shardrec.trainer.training.train_run import train_run
from tests.trainer.recorded import assert_same_checkpoint, train, train_in_processes
from tests.trainer.small_run import run_file, table, write_data

ROWS, GROUP = 3000, 500
OVER = "data.max_bad_fraction=0.5"
EXACT = (OVER, "model.mlp.dropout=0")


def damage(file: Path, *groups: int) -> None:
    """Flips the last byte of row groups' first columns."""
    data, metadata = bytearray(file.read_bytes()), pq.ParquetFile(file).metadata
    for group in groups:
        column = metadata.row_group(group).column(0)
        start = column.dictionary_page_offset or column.data_page_offset
        data[start + column.total_compressed_size - 1] ^= 1
    file.write_bytes(data)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The files of a small run, whose pages have checksums."""
    folder = write_data(tmp_path / "data", ROWS)
    for file in folder.rglob("*.parquet"):
        pq.write_table(pq.read_table(file), file, row_group_size=GROUP, write_page_checksum=True)
    return folder


@pytest.fixture
def path(data: Path, tmp_path: Path) -> Path:
    return run_file(tmp_path / "run.yaml", data, trainer={"checkpoint": {"every_steps": 1, "keep": 99}})


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    return [r for r in RunFolder.open(run).records() if r["kind"] == kind]


def test_by_default_a_damaged_row_group_ends_the_run_by_its_name(data: Path, path: Path) -> None:
    damage(data / "train/1.parquet", 2)
    with pytest.raises(UserError, match=r"train/1\.parquet: row group 2 cannot be decoded \(.*; the file is corrupt"):
        train(path)


def test_rows_that_are_left_out_are_left_out_alike_by_any_workers_and_counted(data: Path, path: Path) -> None:
    damage(data / "train/1.parquet", 1)
    bad = set(range(ROWS // 2 + GROUP, ROWS // 2 + 2 * GROUP))
    runs = [train(path, EXACT), train(path, (*EXACT, "data.readers=2", f"run={path.parent}/readers"))]
    runs += train_in_processes(2, path, (*EXACT, f"run={path.parent}/two"))
    for run in runs:
        for epoch in (0, 1):
            steps = run["batches"][epoch * 13 : (epoch + 1) * 13]
            assert sorted(r for rows in steps for r in rows) == [r for r in range(ROWS + 1) if r not in bad]
        assert run["left_out"] == {"train": 2 * GROUP} and run["rows"] == 2 * (ROWS + 1 - GROUP)
        assert run["batches"] == runs[0]["batches"]
    assert runs[1]["losses"] == runs[0]["losses"] == pytest.approx(runs[2]["losses"], rel=1e-5)
    of_steps = [r.get("left_out", 0) for r in records(path.parent / "run", "train")]
    assert of_steps == sorted(of_steps) and of_steps[12] == GROUP and of_steps[-1] == 2 * GROUP
    messages = next((path.parent / "run").glob("logs/*/messages.txt"), None)
    assert messages is None or "train/1.parquet (row group 1)" in messages.read_text()


def test_a_run_that_goes_on_leaves_out_the_same(data: Path, path: Path) -> None:
    """Bit for bit, also where its first steps were made while all rows could be read."""
    damage(data / "train/0.parquet", 0, 2)
    whole = train(path, (OVER, f"run={path.parent}/whole"))
    train(path, (OVER, "trainer.max_steps=5"))
    rest = train(path, (OVER,), resume=True)
    assert rest["batches"] == whole["batches"][5:]
    assert rest["left_out"] == whole["left_out"] == {"train": 2 * 2 * GROUP}
    last = RunFolder.open(path.parent / "run").steps()[-1]
    assert_same_checkpoint(*(path.parent / run / f"checkpoints/step-{last}" for run in ("run", "whole")))


def test_batches_of_which_no_row_can_be_read_change_nothing(data: Path, path: Path) -> None:
    """In order of the files, whole batches are missing; they count as steps all the same."""
    in_order = (OVER, "data.order=time", "data.lanes=null", "trainer.epochs=1", "data.global_batch_size=100")
    damage(data / "train/0.parquet", 0)
    summary = train(path, in_order)
    assert [len(batch) for batch in summary["batches"]] == [0] * 5 + [100] * 25 + [1]
    folder = RunFolder.open(path.parent / "run")
    assert_same_checkpoint(folder.checkpoint(1), folder.checkpoint(5))
    assert summary["steps"] == 31 and summary["left_out"] == {"train": 500}


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.long)])
def test_too_many_rows_end_a_run_by_the_names_of_what_is_bad(data: Path, path: Path, ranks: int) -> None:
    damage(data / "train/0.parquet", 1)
    damage(data / "train/1.parquet", 0, 2)
    allowed = "data.max_bad_fraction=0.4"
    with pytest.raises(Exception, match=r"rows cannot be read, over data\.max_bad_fraction of 0\.4: ") as caught:
        train(path, (allowed,)) if ranks == 1 else train_in_processes(2, path, (allowed,))
    said = str(caught.value)
    assert "of 3,001 rows" in said and "train/1.parquet (row groups 0, 2)" in said
    assert "row group 1 cannot be decoded" in said and "write these files again, or allow for more" in said
    assert (
        train(path, ("data.max_bad_fraction=0.5", f"run={path.parent}/allowed"))["left_out"]["train"] == 2 * 3 * GROUP
    )


def test_evaluation_counts_what_it_leaves_out_and_prediction_leaves_out_nothing(data: Path, path: Path) -> None:
    damage(data / "validation/0.parquet", 0)
    (data / "test/0.parquet").unlink()
    pq.write_table(table(750, seed=200), data / "test/0.parquet", row_group_size=GROUP, write_page_checksum=True)
    damage(data / "test/0.parquet", 1)
    summary = train_run(load(path, ("data.max_bad_fraction=0.7",)), quiet=True)
    assert summary and summary["left_out"] == {"validation": GROUP, "test": 250}
    assert json.loads((path.parent / "run/summary.json").read_text())["left_out"] == summary["left_out"]
    assert [r["left_out"] for r in records(path.parent / "run", "validation")] == [GROUP] * 2
    found = evaluate_run(path.parent / "run", quiet=True)
    assert found and found["left_out"] == {"validation": GROUP, "test": 250}
    with pytest.raises(UserError, match=r"test/0\.parquet: row group 1 cannot be decoded"):
        predict_rows(path.parent / "run", (str(data / "test"),), path.parent / "scores.parquet", quiet=True)


def test_an_evaluation_that_lacks_too_many_rows_is_none(data: Path, path: Path) -> None:
    damage(data / "validation/0.parquet", 0)
    with pytest.raises(UserError, match=r"500 of 750 rows cannot be read, over data\.max_bad_fraction of 0\.5"):
        train_run(load(path, (OVER,)), quiet=True)
