"""Logs in the layout of the Open Bandit Dataset: small ones, and the published sample where its wheel is."""

import gzip
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.prepare.commands import app
from shardrec.data_pipeline.prepare.importers.open_bandit import BanditProtocol, prepare_open_bandit
from shardrec.data_pipeline.prepare.steps.preparation import Output
from shardrec.data_pipeline.prepare.steps.source import Inputs
from tests import ROOT

HEADER = ",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1"
AFFINITIES = ",".join(f"user-item_affinity_{i}" for i in range(3))
ITEMS = ",item_id,item_feature_0,item_feature_1,item_feature_2\n0,0,0.5,a,x\n1,1,-1.25,b,x\n2,2,3.0,a,y\n"
SAMPLE = "obp/dataset/obd"


def line(i: int, **changed: object) -> str:
    second = (i * 7) % 20  # out of order
    fields = {
        "number": i,
        "timestamp": f"2019-11-24 00:00:{second:02}.50{i:04}+00:00",
        "item": i % 3,
        "position": 1 + i % 2,
        "click": int(i % 5 == 0),
        "propensity": 0.25 + i / 100,
        "user": f"u{i % 4}",
        "other": f"v{i % 3}",
        "first": i,
        "second": 0.5,
        "third": -1,
    }
    return ",".join(str(value) for value in (fields | changed).values())


def log(folder: Path, lines: list[str], name: str = "men.csv", items: str = ITEMS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join([f"{HEADER},{AFFINITIES}", *lines]) + "\n")
    (folder / "item_context.csv").write_text(items)
    return folder


@pytest.fixture
def men(tmp_path: Path) -> Path:
    return log(tmp_path / "men", [line(i) for i in range(20)])


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder).to_pylist()
    return found


def test_a_log_becomes_rows_in_the_order_of_time(men: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = prepare_open_bandit(Inputs([men]), Output(out), BanditProtocol(by_time=True, candidates=True))
    assert report.tally.rows == {"train": 16, "validation": 2, "test": 2}
    assert "rows that were not in the order of time" in str(report)
    found = [row for split in ("train", "validation", "test") for row in rows(out / split)]
    order = sorted(range(20), key=lambda i: (i * 7) % 20)
    users = [None, *pq.read_table(out / "vocabularies" / "user_feature_0.parquet")["value"].to_pylist()]
    kinds = [None, *pq.read_table(out / "vocabularies" / "item_feature_1.parquet")["value"].to_pylist()]
    assert kinds == [None, "a", "b"]
    for i, row in zip(order, found, strict=True):
        assert row["time"].isoformat(" ") == f"2019-11-24 00:00:{(i * 7) % 20:02}.50{i:04}+00:00"
        assert (row["item_id"], row["position"], row["click"]) == (i % 3, 1 + i % 2, i % 5 == 0)
        assert row["propensity"] == 0.25 + i / 100 and row["affinity"] == (i, 0.5, -1)[i % 3]
        assert users[row["user_feature_0"]] in (f"u{i % 4}", None)
        assert row["item_feature_0"] == (0.5, -1.25, 3)[i % 3] and kinds[row["item_feature_1"]] == "aba"[i % 3]
        assert row["candidates"] == [0, 1, 2] and row["candidates_affinity"] == [i, 0.5, -1]
        assert [kinds[k] for k in row["candidates_item_feature_1"]] == ["a", "b", "a"]
    schema = Schema.load(out / "schema.yaml")
    assert (schema.propensity, schema.time, schema.labels[0].name) == ("propensity", "time", "click")
    assert {f.name: f.role for f in schema.features if f.place == "now"} == {
        "user_feature_0": "user",
        "user_feature_1": "user",
        "position": "context",
        "item_id": "item",
        "item_feature_0": "item",
        "item_feature_1": "item",
        "item_feature_2": "item",
        "affinity": "user_item",
    }
    assert schema.places("candidate")["affinity"] == "candidates_affinity"
    assert all(schema.raw()[name].ids.kind == "vocabulary" for name in ("user_feature_0", "item_feature_2"))


def test_splits_go_by_hash_or_by_files(men: Path, tmp_path: Path) -> None:
    other = log(tmp_path / "other", [line(i, item=2) for i in range(6)], name="part.csv.gz")
    (other / "part.csv.gz").write_bytes(gzip.compress((other / "part.csv.gz").read_bytes()))
    run = CliRunner().invoke(app, ["open-bandit", str(tmp_path / "a"), str(men), "--test", str(other)])
    assert run.exception is None and "candidates" not in pq.read_table(tmp_path / "a" / "test").column_names
    assert [len(rows(tmp_path / "a" / split)) for split in ("train", "test")] == [20, 6]
    assert {row["item_id"] for row in rows(tmp_path / "a" / "test")} == {2}
    CliRunner().invoke(app, ["open-bandit", str(tmp_path / "b"), str(men), str(other)], catch_exceptions=False)
    parts = [rows(tmp_path / "b" / split) for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == 26 and len(parts[0]) < 26
    assert all(part == sorted(part, key=lambda row: row["time"]) for part in parts)


BAD = {
    "zero": ({"propensity": 0}, "column 'propensity_score': found 0.0, expected a probability above 0, at most 1"),
    "negative": ({"propensity": -0.5}, "column 'propensity_score': found -0.5, expected a probability"),
    "over 1": ({"propensity": 1.5}, "column 'propensity_score': found 1.5, expected a probability"),
    "missing": ({"propensity": ""}, "column 'propensity_score': found an empty field, expected a number"),
    "nan": ({"propensity": "nan"}, "column 'propensity_score': found nan, expected a probability"),
    "click": ({"click": 2}, "column 'click': found 2, expected 0 or 1"),
    "item": ({"item": 3}, "column 'item_id': found 3, expected an item of the campaign, 0 to 2"),
    "time": ({"timestamp": "yesterday"}, "column 'timestamp': found 'yesterday', expected a time with its offset"),
    "zone": ({"timestamp": "2019-11-24 00:00:01"}, "column 'timestamp': found '2019-11-24 00:00:01', expected a time"),
    "position": ({"position": -1}, "column 'position': found -1, expected a position"),
    "affinity": ({"second": "inf"}, "column 'user-item_affinity_1': found inf, expected a finite number"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_row_is_one_line(bad: str, tmp_path: Path) -> None:
    changed, expected = BAD[bad]
    folder = log(tmp_path / "men", [line(i, **(changed if i == 4 else {})) for i in range(9)])
    with pytest.raises(UserError) as error:
        prepare_open_bandit(Inputs([folder], patterns=("*.csv",)), Output(tmp_path / "out"))
    assert str(error.value).startswith(f"{folder}/men.csv, line 6, {expected}")
    assert not (tmp_path / "out").exists()


def test_files_that_do_not_belong_together(men: Path, tmp_path: Path) -> None:
    def refused(*folders: Path) -> str:
        with pytest.raises(UserError) as error:
            prepare_open_bandit(Inputs(folders, patterns=("*.csv",)), Output(tmp_path / "out"))
        return str(error.value)

    hashed = log(tmp_path / "hashed", [line(0)], items=ITEMS.replace("a,x", "c,x"))
    assert "item 0 has item_feature_1 'c', but 'a' in" in refused(men, hashed)
    fewer = log(tmp_path / "fewer", [line(0)], items=ITEMS.rpartition("2,2")[0])
    assert "men.csv, line 1: found 3 columns of affinities, expected 2" in refused(fewer)
    odd = log(tmp_path / "odd", [line(0)], items=ITEMS.replace("1,1,-", "1,7,-"))
    assert "item_context.csv, line 3, column 'item_id': found 7, expected 1: items are 0, 1, 2" in refused(odd)
    (men / "men.csv").write_text((men / "men.csv").read_text().replace("propensity_score", "pscore"))
    assert "men.csv, line 1: unknown column 'propensity_score'" in refused(men)
    (men / "item_context.csv").unlink()
    assert "no item_context.csv in this folder" in refused(men)


def sample() -> Path:
    """The wheel of obp 0.4.1, which carries 6 x 10,000 rows: `pip download obp==0.4.1 --no-deps -d FOLDER`."""
    for place in (os.environ.get("OBP_WHEEL_FOLDER", ""), ROOT.parent / "shared" / "data" / "obp"):
        if wheels := sorted(Path(place).glob("obp-0.4.1-*.whl")) if place else []:
            return wheels[0]
    pytest.skip("no wheel of obp 0.4.1; name its folder by OBP_WHEEL_FOLDER")


def test_the_published_sample(tmp_path: Path) -> None:
    campaign = f"{SAMPLE}/random/women"
    with zipfile.ZipFile(sample()) as wheel:
        wheel.extractall(tmp_path, [n for n in wheel.namelist() if n.startswith(campaign) and n.endswith(".csv")])
    everything = BanditProtocol(fractions={"train": 1.0})
    report = prepare_open_bandit(Inputs([tmp_path / campaign]), Output(tmp_path / "out"), everything)
    assert report.tally.rows["train"] == 10_000 and report.tally.labels["click"]["train"] == (46, 10_000)
    table = pq.read_table(tmp_path / "out" / "train")
    assert np.allclose(table["propensity"].to_numpy(), 1 / 46) and set(table["item_id"].to_pylist()) == set(range(46))
    assert not report.notes  # they are in the order of time as published
