"""Criteo's lines: labels, integers, categories; with and without labels."""

import gzip
from math import floor, log
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.importers.criteo import CATEGORIES, INTEGERS, PATTERNS, prepare_criteo, recipe
from shardrec.data_pipeline.prepare.steps.preparation import Output
from shardrec.data_pipeline.prepare.steps.source import Inputs
from shardrec.data_pipeline.prepare.steps.splits import HashSplit

ALL = HashSplit(fractions={"train": 1.0})


def line(label: int | None, integers: list[int | None], categories: list[str]) -> str:
    fields = [str(v) if v is not None else "" for v in (*integers, *categories)]
    return "\t".join(fields if label is None else [str(label), *fields]) + "\n"


LINES = [
    line(int(i % 3 == 0), [None if i % 4 == 0 else i - 2 + k for k in range(13)], [f"{i % 5:08x}", "", *["aa"] * 24])
    for i in range(40)
]


def test_terabyte_days_and_an_unlabeled_test_file(tmp_path: Path) -> None:
    days = tmp_path / "days"
    days.mkdir()
    for day in (0, 2, 10):
        (days / f"day_{day}.gz").write_bytes(gzip.compress("".join(LINES[:20]).encode()))
    test = tmp_path / "test.txt"
    test.write_text("".join(text.split("\t", 1)[1] for text in LINES[20:30]))
    out = tmp_path / "out"
    report = prepare_criteo(Inputs([days], test=[test], patterns=PATTERNS), recipe(min_count=5), Output(out))
    assert report.tally.rows == {"train": 60, "test": 10}
    assert pq.read_table(out / "test").column("label").null_count == 10
    rows = pq.read_table(out / "train").to_pylist()
    assert [r["label"] for r in rows] == [float(i % 3 == 0) for i in range(20)] * 3
    assert [r["I1"] for r in rows[:20]] == [None if i % 4 == 0 else i - 2 for i in range(20)]
    assert report.schema["C1"].num_embeddings == 5 + 2  # five values, the unknown, the missing
    assert {r["C2"] for r in rows} == {report.schema["C2"].num_embeddings - 1} == {1}
    assert len(report.schema.sparse) == 26 and len(report.schema.dense) == 13


def test_rare_values_share_row_0(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("".join(line(0, [1] * 13, [("often" if i else "rare"), *["x"] * 25]) for i in range(10)))
    prepare_criteo(Inputs([path]), recipe(min_count=2, split=ALL), Output(tmp_path / "out"))
    rows = pq.read_table(tmp_path / "out" / "train").to_pylist()
    assert [r["C1"] for r in rows] == [0] + [1] * 9


def test_hashed_categories_and_bucketized_integers(tmp_path: Path) -> None:
    integers = [-5, -1, 0, 1, 2, 3, 4, 5, 10, 100, 10_000, 2**31 - 1, None]
    path = tmp_path / "train.txt"
    path.write_text(line(1, integers, ["a"] * 26))
    made = recipe(num_ids=100, numbers="bucketize", split=ALL)
    report = prepare_criteo(Inputs([path]), made, Output(tmp_path / "out"))
    row = pq.read_table(tmp_path / "out" / "train").to_pylist()[0]

    def bucket(v: int | None) -> int:
        if v is None:
            return report.schema["I1"].num_embeddings - 1
        return 4 + floor(log(v) ** 2) if v > 2 else max(v + 1, -1) + 1

    assert [row[n] for n in INTEGERS] == [bucket(v) for v in integers]
    assert len({row[n] for n in CATEGORIES}) == 1 and report.schema["C1"].num_embeddings == 101
    assert not (tmp_path / "out" / "vocabularies").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\t2\n", "line 1: found 2 fields, expected 40"),
        (LINES[0].split("\t", 1)[1], "line 1: found 39 fields, .* only be a --test file"),
        (LINES[0] + LINES[1].replace("\taa\n", "\n"), "line 2: found 39 fields, expected 40"),
        (LINES[0] + LINES[1].replace("-1", "x", 1), "line 2, column 'I1': found 'x', expected a number"),
        (LINES[0] + "\t" + LINES[1].split("\t", 1)[1], "line 2, column 'label': found null"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "train.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        prepare_criteo(Inputs([path]), recipe(), Output(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_real_lines(shared_data: Path, tmp_path: Path) -> None:
    files = [[shared_data / "criteo_small" / f"{name}.csv.gz"] for name in ("train", "dev", "test")]
    report = prepare_criteo(Inputs(files[0], files[1], files[2]), recipe(min_count=2), Output(tmp_path / "out"))
    assert report.tally.rows == {"train": 7_200, "validation": 409, "test": 391}
    total, count = (sum(x) for x in zip(*report.tally.labels["label"].values(), strict=True))
    assert count == 8_000 and total / count == pytest.approx(0.216, abs=5e-4)
    first = pq.read_table(tmp_path / "out" / "train").slice(0, 1).to_pylist()[0]
    assert [first[n] for n in INTEGERS] == [1, 1, 5, 0, 1382, 4, 15, 2, 181, 1, 2, None, 2]
    assert first["C22"] == report.schema["C22"].num_embeddings - 1
