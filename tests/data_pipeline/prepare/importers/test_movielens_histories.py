"""MovieLens' ratings as histories."""

import gzip
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.prepare.commands import app
from shardrec.data_pipeline.prepare.importers.movielens_histories import prepare_movielens_histories
from shardrec.data_pipeline.prepare.steps.preparation import Output


def test_1m_has_hours_and_first_genres(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text(
        "".join(f"{u}::{m}::{r}::{t}\n" for u in (1, 2) for m, r, t in ((10, 5, 7200), (20, 1, 0), (30, 3, 3600)))
        + "".join(f"3::{m}::2::{t}\n" for t, m in enumerate((40, 50, 20, 10, 30)))
        + "4::60::5::0\n"
    )
    (tmp_path / "movies.dat").write_text("".join(f"{m}::T (1990)::G{m}|Other\n" for m in (10, 20, 30, 40)))
    prepare_movielens_histories(tmp_path, Output(tmp_path / "out"))
    movies = ["?", *pq.read_table(tmp_path / "out" / "vocabularies" / "item.parquet").column("value").to_pylist()]
    genres = ["?", *pq.read_table(tmp_path / "out" / "vocabularies" / "category.parquet").column("value").to_pylist()]
    genres.append(None)
    assert sorted(movies[1:]) == [20, 40, 50, 60] and sorted(genres[1:-1]) == ["G20", "G40"]
    found = [
        (movies[r["item"]], genres[r["category"]], [movies[i] for i in r["item_history"]], r["hour_history"])
        for r in pq.read_table(tmp_path / "out" / "train").to_pylist()
        if r["label"]
    ]
    assert sorted(found) == [(20, "G20", [40, 50], [72, 72]), (50, None, [40], [72])]


def test_ratings_that_have_no_order(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such folder"):
        prepare_movielens_histories(tmp_path / "none", Output(tmp_path / "out"))
    (tmp_path / "u.data").write_text("1\t2\t3\t5\n1\t\t3\t5\n")
    with pytest.raises(
        UserError, match=r"u.data, line 2, column 'movie_id': found an empty field, expected an integer"
    ):
        prepare_movielens_histories(tmp_path, Output(tmp_path / "out"))


def test_real_1m_has_no_timestamps(shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ratings.parquet: has no column timestamp; histories need the order"):
        prepare_movielens_histories(shared_data / "ml-1m", Output(tmp_path / "out"))


def test_real_100k_by_the_command(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "ml-100k"
    result = CliRunner().invoke(app, ["movielens-histories", str(folder), str(tmp_path / "out"), "--max-length", "9"])
    assert result.exception is None, result.output
    assert "100,000 events of 943 users and 1,682 items" in result.output
    rows = {split: pq.read_table(tmp_path / "out" / split).num_rows for split in ("train", "validation", "test")}
    assert rows == {"train": 2 * (100_000 - 3 * 943), "validation": 2 * (943 - 1), "test": 2 * (943 - 3)}
    with gzip.open(folder / "u.data.gz", "rt") as file:
        events = [tuple(map(int, line.split())) for line in file]
    mine = [movie for user, movie, _, _ in sorted(events, key=lambda e: e[3]) if user == 7]
    out = tmp_path / "out"
    users, movies = (
        ["?", *pq.read_table(out / "vocabularies" / f"{table}.parquet").column("value").to_pylist()]
        for table in ("user", "item")
    )
    (row,) = (r for r in pq.read_table(out / "test").to_pylist() if users[r["user"]] == 7 and r["label"])
    assert movies[row["item"]] == mine[-1] and [movies[i] for i in row["item_history"]] == mine[-10:-1]
    assert Schema.load(out / "schema.yaml")["category"].num_embeddings == 1 + 19 + 1
