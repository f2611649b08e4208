"""Ratings as rows of items and of users: what is known, what is asked, and that single ratings are split alike."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import Origin
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.data_pipeline.prepare.commands import app
from shardrec.data_pipeline.prepare.importers.movielens import prepare_movielens
from shardrec.data_pipeline.prepare.importers.ratings import FRACTIONS, Axis, prepare_ratings
from shardrec.data_pipeline.prepare.steps.preparation import Output
from shardrec.data_pipeline.prepare.steps.splits import HashSplit, RowNumbers
from shardrec.data_pipeline.reading.index import DataSet

USERS, MOVIES = 30, 12
Single = dict[str, set[tuple[int, int, float]]]  # split -> (user, movie, rating)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Half of all pairs rated; MovieLens' files of users and movies, for the form of single ratings."""
    r = np.random.default_rng(0)
    rated = np.argwhere(r.random((USERS, MOVIES)) < 0.5)
    made = tmp_path / "source"
    made.mkdir()
    (made / "ratings.dat").write_text(
        "".join(f"{10 + u}::{100 + m}::{r.integers(1, 6)}::{t}\n" for t, (u, m) in enumerate(rated))
    )
    (made / "users.dat").write_text("".join(f"{10 + u}::F::1::10::48067\n" for u in range(USERS)))
    (made / "movies.dat").write_text("".join(f"{100 + m}::Movie (1995)::Drama\n" for m in range(MOVIES)))
    return made


def single(out: Path) -> Single:
    """The rows of `prepare movielens`."""
    columns = ["user_id", "movie_id", "rating"]
    return {
        split: {tuple(row[c] for c in columns) for row in pq.read_table(out / split, columns=columns).to_pylist()}
        for split in FRACTIONS
    }


def lists(out: Path, axis: Axis, feature: str) -> Single:
    """The ratings of `prepare ratings`, one by one; ids that training lacks are 0."""
    key = {"item": "movie_id", "user": "user_id"}[axis]
    (vocabulary,) = (out / "vocabularies").iterdir()
    raw = [0, *pq.read_table(vocabulary)["value"].to_pylist()]
    found: Single = {}
    for split in FRACTIONS:
        found[split] = set()
        for row in pq.read_table(out / split).to_pylist():
            for i, rating in zip(row[feature], row[f"{feature}_ratings"], strict=True):
                pair = (raw[i], row[key]) if axis == "item" else (row[key], raw[i])
                found[split].add((*pair, rating))
    return found


def with_unknown(rows: set[tuple[int, int, float]], known: set[int], axis: Axis) -> Counter:
    """The ratings with the listed ids that are not `known` made 0."""
    at = 0 if axis == "item" else 1
    return Counter(tuple(0 if i == at and v not in known else v for i, v in enumerate(row)) for row in rows)


@pytest.mark.parametrize("axis", ["item", "user"])
@pytest.mark.parametrize("seed", [0, 3])
def test_known_and_asked_ratings(folder: Path, tmp_path: Path, axis: Axis, seed: int) -> None:
    """Also: the same split as that of single ratings with equal fractions and seed."""
    fractions = {"train": 0.5, "validation": 0.2, "test": 0.3}
    split = HashSplit(columns=("user_id", "movie_id"), seed=seed, fractions=fractions)
    prepare_movielens(folder, Output(tmp_path / "single"), split)
    output = Output(tmp_path / "out", row_group_rows=4)
    report = prepare_ratings(folder, output, axis, fractions, seed)
    expected, asked = single(tmp_path / "single"), lists(tmp_path / "out", axis, "asked")
    assert all(expected.values()) and sum(map(len, expected.values())) > 100
    known = {row[0 if axis == "item" else 1] for row in expected["train"]}
    rated = lists(tmp_path / "out", axis, "rated")
    for name in FRACTIONS:
        assert Counter(asked[name]) == with_unknown(expected[name], known, axis)
        assert rated[name] <= expected["train"]
        for row in pq.read_table(tmp_path / "out" / name).to_pylist():
            row_id = row["movie_id" if axis == "item" else "user_id"]
            of_row = [r for r in expected["train"] if r[1 if axis == "item" else 0] == row_id]
            assert len(row["rated"]) == len(of_row) and row["asked"]
    assert rated["train"] == asked["train"] == expected["train"]
    total = np.mean([r for _, _, r in expected["test"]])
    assert f"mean rating {total:.4f}" in str(report)


def test_ids_and_rows_that_training_lacks(tmp_path: Path) -> None:
    pairs = [(u, m) for u in range(9) for m in range(9)]
    split = HashSplit(columns=("user_id", "movie_id"), fractions={"train": 0.9, "test": 0.1})
    table = pa.table({"user_id": [u for u, _ in pairs], "movie_id": [m for _, m in pairs]})
    held_out = split.codes(table.to_batches()[0], RowNumbers(0, 0, len(table)), Origin("source")) == 2
    lonely = pairs[int(held_out.argmax())]  # only its held-out rating is kept of this user
    kept = [p for p in pairs if p[0] != lonely[0] or p == lonely]
    columns = {c: [p[i] for p in kept] for i, c in enumerate(("user_id", "movie_id"))}
    (tmp_path / "source").mkdir()
    pq.write_table(pa.table({**columns, "rating": [4] * len(kept)}), tmp_path / "source/ratings.parquet")
    for axis in ("item", "user"):
        prepare_ratings(tmp_path / "source", Output(tmp_path / axis), axis, dict(split.fractions))
    (alone,) = [r for r in pq.read_table(tmp_path / "user/test").to_pylist() if r["user_id"] == lonely[0]]
    assert alone["rated"] == alone["rated_ratings"] == [] and alone["asked_ratings"] == [4]
    items = pq.read_table(tmp_path / "item/test").to_pylist()
    assert [0 in r["asked"] for r in items] == [r["movie_id"] == lonely[1] for r in items]
    assert not any(0 in r["rated"] for r in items)


def test_a_loader_reads_them_with_and_without_labels(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_ratings(folder, Output(out))
    schema = Schema.load(out / "schema.yaml")
    assert not schema.labels and schema.keys == ("movie_id",)
    rows = pq.read_table(out / "test").to_pylist()
    blind = tmp_path / "blind.parquet"
    pq.write_table(pq.read_table(out / "test").drop_columns(["asked_ratings"]), blind)
    for path, used in ((out / "test", schema), (blind, schema.unlabelled())):
        options: dict[str, Any] = {"folder": out, "global_batch_size": 64, "order": "file", "prefetch": 0}
        (batch,) = Loader(DataSet.open(str(path)), used, **options).epoch(0)
        assert batch.weighted_ids.keys() == ["rated", "asked"] and not batch.labels
        asked = batch.weighted_ids["asked"]
        assert asked.lengths().tolist() == [len(r["asked"]) for r in rows]
        expected = [v if used is schema else np.nan for r in rows for v in r["asked_ratings"]]
        np.testing.assert_array_equal(asked.weights().numpy(), expected)
        rated = batch.weighted_ids["rated"].weights().tolist()
        assert rated == [v for r in rows for v in r["rated_ratings"]]


def test_wrong_input(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        prepare_ratings(tmp_path / "none", Output(tmp_path / "out"))
    ratings = folder / "ratings.dat"
    ratings.write_text("1::7::5::1\n2::7::4::2\n1::7::3::9\n")
    for axis in ("item", "user"):
        with pytest.raises(UserError, match="user 1 has rated movie 7 twice"):
            prepare_ratings(folder, Output(tmp_path / "out"), axis)
    assert not (tmp_path / "out").exists()


def test_the_command(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["ratings", str(folder), str(tmp_path / "out"), "--as", "user", "--seed", "1"])
    assert done.exit_code == 0, done.output
    assert "mean rating" in done.output
    assert Schema.load(tmp_path / "out/schema.yaml").keys == ("user_id",)


@pytest.mark.parametrize(("axis", "rows"), [("item", 3706), ("user", 6040)])
def test_real_1m(shared_data: Path, tmp_path: Path, axis: Axis, rows: int) -> None:
    out = tmp_path / "out"
    report = prepare_ratings(shared_data / "ml-1m", Output(out), axis)
    assert rows - 30 < report.tally.rows["train"] <= rows
    counts = {name: report.tally.labels["rating"][name][1] for name in FRACTIONS}
    assert sum(counts.values()) == 1_000_209
    for name, share in FRACTIONS.items():
        assert counts[name] == pytest.approx(1_000_209 * share, rel=0.02)
    vocabulary = pq.read_table(next((out / "vocabularies").iterdir()))
    assert vocabulary["count"].to_pylist() == sorted(vocabulary["count"].to_pylist(), reverse=True)
    assert sum(vocabulary["count"].to_pylist()) == counts["train"]


def test_a_folder_of_parquet_files_is_read_as_spark_writes_it(tmp_path: Path) -> None:
    parts = tmp_path / "source" / "ratings.parquet"
    parts.mkdir(parents=True)
    (parts / "_SUCCESS").write_text("")
    for part in range(3):
        columns = {"user_id": [part, part + 10], "movie_id": [1, 2], "rating": [5, 3]}
        pq.write_table(pa.table(columns), parts / f"part-{part}.parquet")
    report = prepare_ratings(tmp_path / "source", Output(tmp_path / "out"), fractions={"train": 1.0})
    assert report.tally.labels["rating"]["train"] == (24.0, 6)


def test_a_rating_that_is_empty_is_refused(folder: Path, tmp_path: Path) -> None:
    with (folder / "ratings.dat").open("a") as file:
        file.write("\n10::::3::1\n")
    lines = len((folder / "ratings.dat").read_text().splitlines())
    with pytest.raises(UserError, match=f"line {lines}, column 'movie_id': found an empty field, expected an integer"):
        prepare_ratings(folder, Output(tmp_path / "out"))
