"""Pairs in files for each split: as lines of words, and delimited."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.prepare.commands import app
from shardrec.data_pipeline.prepare.importers.implicit import LogColumns
from shardrec.data_pipeline.prepare.importers.pairs import PairForm, prepare_pairs
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report
from shardrec.data_pipeline.prepare.steps.source import Inputs
from shardrec.data_pipeline.prepare.steps.text import TextFormat

TRAIN = "ann x y z w v\nbob y x y\n\ncy\ndee w\nann u\n"
VALIDATION = "bob z\ndee x\n"
TEST = "ann q y\nbob w\neve x \n"


def prepared(folder: Path, **options: Any) -> Report:
    for name, text in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        (folder / f"{name}.txt.gz").write_bytes(gzip.compress(text.encode()))
    inputs = Inputs([folder / "train.txt.gz"], [folder / "validation.txt.gz"], [folder / "test.txt.gz"], divided=False)
    return prepare_pairs(inputs, PairForm(), Output(folder / "out"), **options)


def rows(out: Path, split: str) -> list[tuple[str, str, list[str]]]:
    """(user, item, history) of all rows, by value."""
    values = {n: pq.read_table(out / f"vocabularies/{n}.parquet").column("value").to_pylist() for n in ("user", "item")}
    return [
        (values["user"][r["user"] - 1], values["item"][r["item"] - 1], [values["item"][i - 1] for i in r["history"]])
        for r in pq.read_table(out / split).to_pylist()
    ]


def test_rows_and_histories(tmp_path: Path) -> None:
    """A training row's history has the user's other training items, a held-out row's all of them, the latest last."""
    report = prepared(tmp_path, max_length=3)
    train = [
        ("ann", "x", ["w", "v", "u"]),
        ("ann", "y", ["w", "v", "u"]),
        ("ann", "z", ["w", "v", "u"]),
        ("ann", "w", ["z", "v", "u"]),
        ("ann", "v", ["z", "w", "u"]),
        ("ann", "u", ["z", "w", "v"]),
        ("bob", "y", ["x"]),
        ("bob", "x", ["y"]),
        ("dee", "w", []),
    ]
    found = rows(tmp_path / "out", "train")
    assert sorted(found) == sorted(train) and found != train
    assert rows(tmp_path / "out", "validation") == [("bob", "z", ["y", "x"]), ("dee", "x", ["w"])]
    test = [("ann", "q", ["w", "v", "u"]), ("ann", "y", ["w", "v", "u"]), ("bob", "w", ["y", "x"]), ("eve", "x", [])]
    assert rows(tmp_path / "out", "test") == test
    told = str(report)
    assert "4 users, 7 items" in told
    assert "left out: 1" in told  # bob's second y
    assert "users that no training row has: 1;" in told and "items that no training row has: 1;" in told
    assert "held-out pairs that training has too: 1;" in told
    schema = Schema.load(tmp_path / "out" / "schema.yaml")
    assert [f.role for f in schema.features] == ["user", "item", "user"]
    assert schema["history"].num_embeddings == schema["item"].num_embeddings == 8
    assert pq.read_table(tmp_path / "out/vocabularies/item.parquet").column("value").to_pylist()[-1] == "q"


def test_ordered_histories_are_what_was_before(tmp_path: Path) -> None:
    """In the order of lines: of training, then of validation, then of test."""
    prepared(tmp_path, max_length=3, ordered=True)
    before: dict[str, list[str]] = {}
    had: set[tuple[str, str, str]] = set()
    expected: dict[str, list[tuple[str, str, list[str]]]] = {"train": [], "validation": [], "test": []}
    for split, text in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        for user, *items in filter(None, map(str.split, text.splitlines())):
            for item in items:
                if (split, user, item) not in had:
                    had.add((split, user, item))
                    expected[split].append((user, item, before.setdefault(user, [])[-3:]))
                    before[user].append(item)
    assert ("ann", "u", ["z", "w", "v"]) in expected["train"] and ("ann", "y", ["v", "u", "q"]) in expected["test"]
    for split, of_split in expected.items():
        assert sorted(rows(tmp_path / "out", split)) == sorted(of_split)
    with pytest.raises(UserError, match="--ordered: with --max-length 0 there are no histories"):
        prepared(tmp_path, max_length=0, ordered=True)


def test_ordered_by_time_no_row_knows_what_is_held_out_later(tmp_path: Path) -> None:
    """Times of the splits overlap: a training row knows training rows alone, and no row a later one."""
    (tmp_path / "train.csv").write_text("user,item,time\na,1,10\na,2,30\na,3,50\n")
    (tmp_path / "valid.csv").write_text("user,item,time\na,5,40\na,4,20\n")
    inputs = Inputs([tmp_path / "train.csv"], [tmp_path / "valid.csv"], divided=False)
    form = PairForm(TextFormat(), LogColumns("user", "item", "time"))
    prepare_pairs(inputs, form, Output(tmp_path / "out"), ordered=True)
    train = [("a", "1", []), ("a", "2", ["1"]), ("a", "3", ["1", "2"])]
    assert sorted(rows(tmp_path / "out", "train")) == train
    validation = [("a", "4", ["1"]), ("a", "5", ["1", "4", "2"])]
    assert rows(tmp_path / "out", "validation") == validation


def test_validation_pairs_for_a_last_training(tmp_path: Path) -> None:
    prepared(tmp_path, train_with_validation=True, max_length=0)
    out = tmp_path / "out"
    train = pq.read_table(out / "train")
    assert len(train) == 9 + 2 and "history" not in train.column_names
    assert not (out / "validation").exists() and len(pq.read_table(out / "test")) == 4


def test_delimited_pairs_in_time(tmp_path: Path) -> None:
    """Lines come in any order; of a pair that is there twice the earlier one counts."""
    (tmp_path / "log.tsv").write_text("b\t2\t30\t0.5\na\t1\t20\t1\nb\t1\t10\t2\nb\t2\t40\t3\n")
    form = PairForm(
        TextFormat(delimiter="\t", header=False, columns=("who", "what", "when", "how much")),
        LogColumns("who", "what", "when"),
        "how much",
    )
    prepare_pairs(Inputs([tmp_path / "log.tsv"], divided=False), form, Output(tmp_path / "out"))
    assert sorted(rows(tmp_path / "out", "train")) == [("a", "1", []), ("b", "1", ["2"]), ("b", "2", ["1"])]
    assert sorted(pq.read_table(tmp_path / "out/train").column("weight").to_pylist()) == [0.5, 1, 2]
    assert Schema.load(tmp_path / "out/schema.yaml").weight == "weight"


def refused(folder: Path, text: str, form: PairForm) -> str:
    (folder / "pairs.txt").write_text(text)
    with pytest.raises(UserError) as error:
        prepare_pairs(Inputs([folder / "pairs.txt"], divided=False), form, Output(folder / "out"))
    assert not (folder / "out").exists()
    return str(error.value).replace(str(folder), "HERE")


def test_what_is_wrong_is_named_by_file_and_line(tmp_path: Path) -> None:
    delimited = PairForm(TextFormat(), LogColumns("user", "item"), "weight")
    assert refused(tmp_path, "ann\n\n", PairForm()).startswith("HERE/pairs.txt: no pairs to train on")
    assert "HERE/pairs.txt, line 3" in refused(tmp_path, "user,item,weight\na,b,1\na,,1\n", delimited)
    assert "HERE/pairs.txt, line 2" in refused(tmp_path, "user,item,weight\na,b,-1\n", delimited)
    assert "HERE/pairs.txt, line 2" in refused(tmp_path, "user,item,weight\na,b,inf\n", delimited)
    timed = PairForm(TextFormat(), LogColumns("user", "item", "time", "number"))
    assert "line 3, column 'time': found nan" in refused(tmp_path, "user,item,time\na,b,1\na,c,nan\n", timed)
    assert "unknown column 'weight'" in refused(tmp_path, "user,item\na,b\n", delimited)


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("user,item\na,b\na,c\n")
    arguments = ["pairs", str(tmp_path / "pairs.csv"), str(tmp_path / "out")]
    assert CliRunner().invoke(app, [*arguments, "--delimiter", ","]).exit_code == 0
    assert sorted(rows(tmp_path / "out", "train")) == [("a", "b", ["c"]), ("a", "c", ["b"])]
    assert CliRunner().invoke(app, [*arguments, "--delimiter", ",", "--ordered", "--overwrite"]).exit_code == 0
    assert sorted(rows(tmp_path / "out", "train")) == [("a", "b", []), ("a", "c", ["b"])]
    found = CliRunner().invoke(app, [*arguments, "--time", "when"])
    assert isinstance(found.exception, UserError) and "give --delimiter" in str(found.exception)
    found = CliRunner().invoke(app, [*arguments, "--train-with-validation"])
    assert isinstance(found.exception, UserError) and "name their files by --validation" in str(found.exception)
