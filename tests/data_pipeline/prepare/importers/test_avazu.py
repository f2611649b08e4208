"""Avazu's lines: with and without header, with and without click."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.importers.avazu import COLUMNS, prepare_avazu, recipe
from shardrec.data_pipeline.prepare.steps.preparation import Output
from shardrec.data_pipeline.prepare.steps.source import Inputs
from shardrec.data_pipeline.prepare.steps.splits import HashSplit, TimeSplit


def line(i: int, hour: str, click: int | None = 0) -> str:
    fields = [f"1000016934911786{i:04d}", *([] if click is None else [str(click)]), hour]
    return ",".join([*fields, "1005", str(i % 2), *[f"{i % 3:08x}"] * 19]) + "\n"


HEADER = ",".join(COLUMNS) + "\n"
# 2014-10-21 was a Tuesday
HOURS = ["14102100", "14102123", "14102200", "14102611", "14103023", "14103100"]


def test_header_or_not_click_or_not(tmp_path: Path) -> None:
    (tmp_path / "train").write_text(HEADER + "".join(line(i, h, i % 2) for i, h in enumerate(HOURS)))
    (tmp_path / "dev").write_text("".join(line(i, h, 1) for i, h in enumerate(HOURS[:3])))
    (tmp_path / "test").write_text(HEADER.replace("click,", "") + "".join(line(i, HOURS[0], None) for i in range(4)))
    (tmp_path / "bare").write_text("".join(line(i, HOURS[0], None) for i in range(2)))
    out = tmp_path / "out"
    inputs = Inputs([tmp_path / "train"], [tmp_path / "dev"], [tmp_path / "test", tmp_path / "bare"])
    report = prepare_avazu(inputs, recipe(HashSplit(), min_count=1), Output(out))
    assert report.tally.rows == {"train": 6, "validation": 3, "test": 6}
    rows = pq.read_table(out / "train").to_pylist()
    assert [(r["hour"], r["weekday"]) for r in rows] == [(0, 1), (23, 1), (0, 2), (11, 6), (23, 3), (0, 4)]
    assert [r["click"] for r in rows] == [0, 1] * 3
    assert rows[0]["id"] == "10000169349117860000"
    assert report.schema.keys == ("id",) and len(report.schema.sparse) == 23
    assert pq.read_table(out / "test").column("click").null_count == 6


def test_split_by_time(tmp_path: Path) -> None:
    (tmp_path / "train").write_text(HEADER + "".join(line(i, h) for i, h in enumerate(reversed(HOURS))))
    split = TimeSplit(column="hour", cuts=(14102200, 14103100))
    report = prepare_avazu(Inputs([tmp_path / "train"]), recipe(split, num_ids=10), Output(tmp_path / "out"))
    assert report.tally.rows == {"train": 2, "validation": 3, "test": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (line(0, "14102100") + line(1, "14102150"), "line 2, column 'hour': found 14102150, expected YYMMDDHH"),
        (HEADER + line(0, "14102100", None), "line 2: found 23 fields, expected 24"),
        (line(0, "14102100", None), "no column click"),
        ("1,2,3\n", "line 1: found 3 fields, expected 24"),
        (HEADER.replace("C14", "D14") + line(0, "14102100"), "line 1: unknown column 'C14'"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(UserError, match=message):
        prepare_avazu(Inputs([tmp_path / "x"]), recipe(HashSplit()), Output(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_real_lines(shared_data: Path, tmp_path: Path) -> None:
    files = [[shared_data / "avazu_small" / f"{name}.csv.gz"] for name in ("train", "dev", "test")]
    report = prepare_avazu(Inputs(files[0], files[1], files[2]), recipe(HashSplit()), Output(tmp_path / "out"))
    assert report.tally.rows == {"train": 8_087, "validation": 480, "test": 432}
    total, count = (sum(x) for x in zip(*report.tally.labels["click"].values(), strict=True))
    assert total / count == pytest.approx(0.173, abs=1e-3)
    rows = pq.read_table(tmp_path / "out" / "train", columns=["hour", "weekday"])
    assert set(rows.column("hour").to_pylist()) == {0} and set(rows.column("weekday").to_pylist()) == {1}
