"""MovieLens as published: small files of the published formats, and the real ones where they are."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.prepare.importers.movielens import prepare_movielens
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report
from shardrec.data_pipeline.prepare.steps.splits import TimeSplit

USERS = "1::F::1::10::48067\n2::M::56::16::70072\n3::M::25::15::55117\n"
MOVIES = (
    "1::Toy Story (1995)::Animation|Children's|Comedy\n2::Le\xe9n: a (b) (1994)::Thriller\n3::No year::Drama|Comedy\n"
)
RATINGS = [(u, m, 1 + (u * m) % 5, 1000 + 10 * u + m) for u in (1, 2, 3) for m in (1, 2, 3)] * 40


@pytest.fixture
def small_1m(tmp_path: Path) -> Path:
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    (folder / "users.dat").write_text(USERS)
    (folder / "movies.dat.gz").write_bytes(gzip.compress(MOVIES.encode("latin-1")))
    (folder / "ratings.dat").write_text("".join("::".join(map(str, r)) + "\n" for r in RATINGS))
    return folder


def rows(out: Path) -> dict[str, list[dict[str, Any]]]:
    return {f.name: pq.read_table(f).to_pylist() for f in out.iterdir() if f.is_dir() and f.name != "vocabularies"}


def values(out: Path, table: str) -> list[Any]:
    return [None, *pq.read_table(out / "vocabularies" / f"{table}.parquet").column("value").to_pylist()]


def test_ratings_are_joined_with_users_and_movies(small_1m: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    split = TimeSplit(column="timestamp", cuts=(1032, 1033))
    prepare_movielens(small_1m, Output(out), split, threshold=3)
    found = rows(out)
    assert [(r["user_id"], r["movie_id"]) for r in found["test"]] == [(3, 3)] * 40
    assert [(r["user_id"], r["movie_id"]) for r in found["validation"]] == [(3, 2)] * 40
    genres, years, genders = values(out, "genres"), values(out, "year"), values(out, "gender")
    for r in found["train"]:
        user, movie = r["user_id"], r["movie_id"]
        assert r["rating"] == 1 + (user * movie) % 5
        assert genders[r["gender"]] == {1: "F", 2: "M", 3: "M"}[user]
        assert r["age"] == {1: 0, 2: 6, 3: 2}[user]
        expected = {1: ["Animation", "Children's", "Comedy"], 2: ["Thriller"], 3: ["Drama", "Comedy"]}[movie]
        assert [genres[g] for g in r["genres"]] == expected
        assert (years[r["year"]] if r["year"] < len(years) else "missing") == {1: 1995, 2: 1994, 3: "missing"}[movie]
    schema = Schema.load(out / "schema.yaml")
    assert [(x.name, x.columns, x.threshold) for x in schema.labels] == [
        ("label", ("rating",), 3),
        ("rating", ("rating",), None),
    ]
    assert schema.keys == ("user_id", "movie_id", "timestamp") and schema.group == "user_id"


def test_default_split_keeps_a_pairs_ratings_together(small_1m: Path, tmp_path: Path) -> None:
    prepare_movielens(small_1m, Output(tmp_path / "out"))
    pairs = [{(r["user_id"], r["movie_id"]) for r in part} for part in rows(tmp_path / "out").values()]
    assert sum(len(p) for p in pairs) == len(set().union(*pairs)) == 9


def test_missing_and_wrong_files(small_1m: Path, tmp_path: Path) -> None:
    out = Output(tmp_path / "out")
    with pytest.raises(UserError, match="no such folder"):
        prepare_movielens(tmp_path / "none", out)
    with pytest.raises(UserError, match=r"no ratings\.dat, ratings\.parquet or u\.data"):
        prepare_movielens(tmp_path, out)
    with pytest.raises(UserError, match=r"no u2\.base"):
        prepare_movielens(small_1m, out, fold=2)
    ratings = small_1m / "ratings.dat"
    ratings.write_text("1::1::5::1\n1::9::5::1\n")
    with pytest.raises(UserError, match=r"ratings\.dat, line 2, column 'movie_id': found 9, expected an id of"):
        prepare_movielens(small_1m, out)
    ratings.write_text("1::1::5::1\n1::1::5\n")
    with pytest.raises(UserError, match=r"ratings\.dat, line 2: found 3 fields, expected 4"):
        prepare_movielens(small_1m, out)
    ratings.unlink()
    pq.write_table(pa.table({"user_id": [1], "movie_id": ["1"], "rating": [5]}), small_1m / "ratings.parquet")
    with pytest.raises(UserError, match="column 'movie_id' is string, but movielens expects integers"):
        prepare_movielens(small_1m, out)
    pq.write_table(pa.table({"user_id": [1], "movie_id": [1], "rating": [5]}), small_1m / "ratings.parquet")
    with pytest.raises(UserError, match="has no column timestamp"):
        prepare_movielens(small_1m, out, TimeSplit(column="timestamp"))
    (small_1m / "ratings.parquet").write_bytes(b"PAR1xxxx")
    with pytest.raises(UserError, match="damaged Parquet file"):
        prepare_movielens(small_1m, out)
    assert not (tmp_path / "out").exists()


def total(report: Report) -> int:
    return sum(report.tally.rows.values())


def test_real_1m(shared_data: Path, tmp_path: Path) -> None:
    report = prepare_movielens(shared_data / "ml-1m", Output(tmp_path / "out"))
    assert total(report) == 1_000_209
    for split, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert report.tally.rows[split] == pytest.approx(1_000_209 * share, rel=0.02)
    ratings = np.concatenate(
        [pq.read_table(f, columns=["rating"]).column(0).to_numpy() for f in (tmp_path / "out").glob("t*")]
        + [pq.read_table(tmp_path / "out" / "validation", columns=["rating"]).column(0).to_numpy()]
    )
    assert np.bincount(ratings.astype(int)).tolist() == [0, 56_174, 107_557, 261_197, 348_971, 226_310]
    assert report.schema["user"].num_embeddings == 6041
    assert report.schema["genres"].num_embeddings == 19
    assert report.schema["movie"].num_embeddings <= 3707
    groups = pq.ParquetFile(next((tmp_path / "out" / "train").glob("*"))).metadata
    assert groups.row_group(0).num_rows == 65_536


def test_real_100k_folds_are_the_official_ones(shared_data: Path, tmp_path: Path) -> None:
    report = prepare_movielens(shared_data / "ml-100k", Output(tmp_path / "a"))
    assert total(report) == 100_000
    report = prepare_movielens(shared_data / "ml-100k", Output(tmp_path / "b"), fold=2)
    assert report.tally.rows["test"] == 20_000 and total(report) == 100_000
    assert 7_500 < report.tally.rows["validation"] < 8_500
    with gzip.open(shared_data / "ml-100k" / "u2.test.gz", "rt") as file:
        expected = [tuple(int(v) for v in line.split()) for line in file]
    found = pq.read_table(tmp_path / "b" / "test")
    assert (
        list(zip(*(found.column(c).to_pylist() for c in ("user_id", "movie_id", "rating", "timestamp")), strict=True))
        == expected
    )
