"""libfm and svmlight lines against a plain parser."""

import gzip
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import IdFeature, IdListFeature
from shardrec.data_pipeline.prepare.importers.libfm import parse_field_map, prepare_libfm
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report
from shardrec.data_pipeline.prepare.steps.source import Inputs
from shardrec.data_pipeline.prepare.steps.splits import HashSplit

TRAIN_ONLY = HashSplit(fractions={"train": 1.0})


def prepared(tmp_path: Path, text: str, name: str = "out", **more: Any) -> tuple[Report, list[dict[str, Any]]]:
    path = tmp_path / "x.libfm"
    path.write_text(text)
    report = prepare_libfm(Inputs([path]), Output(tmp_path / name, overwrite=True), TRAIN_ONLY, **more)
    return report, pq.read_table(tmp_path / name / "train").to_pylist()


def test_a_field_map_gives_a_feature_per_field(tmp_path: Path) -> None:
    text = "1 0:1 10:1 13:1 20:0.5\r\n-1  2:1 21:1 22:2 \n1 1:1 # a comment 9:9\n"
    fields = {"user": 0, "tag": 10, "price": 20}
    report, found = prepared(tmp_path, text, field_map=fields)
    assert found == [
        {"user": 0, "tag": [0, 3], "price": [0], "price_weights": [0.5], "label": 1.0},
        {"user": 2, "tag": [], "price": [1, 2], "price_weights": [1.0, 2.0], "label": -1.0},
        {"user": 1, "tag": [], "price": [], "price_weights": [], "label": 1.0},
    ]
    kinds = [(type(f), f.num_embeddings) for f in report.schema.sparse]
    assert kinds == [(IdFeature, 10), (IdListFeature, 10), (IdListFeature, 3)]
    assert [(x.name, x.threshold) for x in report.schema.labels] == [("label", 0.5), ("target", None)]


def test_a_field_that_some_lines_lack_gets_a_missing_row(tmp_path: Path) -> None:
    report, found = prepared(tmp_path, "1 0:1 5:1\n0 1:1\n", field_map={"a": 0, "b": 5})
    assert [r["b"] for r in found] == [0, 1]
    assert report.schema["b"].num_embeddings == 2


def test_fields_are_told_by_position_where_lines_are_equally_long(tmp_path: Path) -> None:
    report, found = prepared(tmp_path, "1 0:1 7:1\n-1 3:1 9:1\n")
    assert [(r["field_1"], r["field_2"]) for r in found] == [(0, 0), (3, 2)]
    assert [f.num_embeddings for f in report.schema.sparse] == [4, 3]
    assert [f.table_name for f in report.schema.sparse] == ["field_1", "field_2"]


def test_positions_of_overlapping_ids_share_a_table(tmp_path: Path) -> None:
    report, found = prepared(tmp_path, "1 0:1 7:1\n-1 8:1 2:1\n")
    assert [(r["field_1"], r["field_2"]) for r in found] == [(0, 7), (8, 2)]
    assert [(f.table_name, f.num_embeddings) for f in report.schema.sparse] == [("features", 9)] * 2


@pytest.mark.parametrize("text", ["1.5 3:1 7:1\n2 8:1\n", "1.5 3:1 7:1\n2 8:1 9:0.25\n"])
def test_other_files_become_one_id_list(tmp_path: Path, text: str) -> None:
    report, found = prepared(tmp_path, text)
    assert [r["features"] for r in found] == [[3, 7], [8] if "9" not in text else [8, 9]]
    assert found[0]["label"] == 1.5
    assert [x.name for x in report.schema.labels] == ["label"]
    if "0.25" in text:
        assert [r["features_weights"] for r in found] == [[1, 1], [1, 0.25]]
    else:
        assert "features_weights" not in found[0]


def test_query_ids_are_the_group(tmp_path: Path) -> None:
    report, found = prepared(tmp_path, "3 qid:7 1:0.5\n0 qid:9 1:1 2:2\n")
    assert report.schema.group == "query"
    assert [(r["query"], r["features"], r["features_weights"]) for r in found] == [(7, [1], [0.5]), (9, [1, 2], [1, 2])]
    with pytest.raises(UserError, match="some lines have one `qid:` and others not"):
        prepared(tmp_path, "3 qid:7 1:0.5\n0 1:1 2:2\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 3:1\n1 4\n", r"line 2, column 'id:value': found '4', expected id:value"),
        ("1 3:1\n1 a:1\n", r"line 2, column 'id': found 'a', expected an integer"),
        ("1 3:1\n1 3:1\n1 4:x 5:1\n", r"line 3, column 'value': found 'x', expected a number"),
        ("1 3:1\nyes 3:1\n", r"line 2, column 'label': found 'yes', expected a number"),
        ("1 3:1\n1 -3:1\n", r"line 2: found id -3, expected ids from 0 on"),
        ("1 3:nan\n", r"line 1, column 'features_values': found nan, expected a finite weight"),
        ("", "is empty"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepared(tmp_path, text)
    assert not (tmp_path / "out").exists()


def test_field_maps(tmp_path: Path) -> None:
    assert parse_field_map("user:0,item:957") == {"user": 0, "item": 957}
    file = tmp_path / "fields"
    file.write_text("user 0\nitem,957\n")
    assert parse_field_map(str(file)) == {"user": 0, "item": 957}
    for wrong, message in (
        ("user:0,item", "expected a name and the first id"),
        ("user:5,item:3", "ascending"),
        ("a:1,a:2", "names of their own"),
        (str(tmp_path / "none"), "cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            parse_field_map(wrong)


def test_random_files_equal_a_plain_parser(tmp_path: Path) -> None:
    chance = random.Random(1)
    expected = []
    files = []
    for part in range(3):
        lines = []
        for _ in range(400):
            ids = [chance.randrange(100) for _ in range(chance.randrange(5))]
            values = [chance.randrange(1, 9) / 4 for _ in ids]
            label = chance.randrange(3)
            expected.append((label, ids, values))
            lines.append(" ".join([str(label), *(f"{i}:{v}" for i, v in zip(ids, values, strict=True))]))
        files.append(tmp_path / f"{part}.svm.gz")
        files[-1].write_bytes(gzip.compress("\n".join(lines).encode()))
    prepare_libfm(Inputs(files), Output(tmp_path / "out"), TRAIN_ONLY)
    found = pq.read_table(tmp_path / "out" / "train").to_pylist()
    assert [(r["label"], r["features"], r["features_weights"]) for r in found] == expected
