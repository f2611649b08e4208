"""MovieLens 1M and 100K are read as published and joined: a rating's row has its user's and movie's features.

1M: `ratings.dat` (or `ratings.parquet` with user_id, movie_id, rating), `users.dat`, `movies.dat`. 100K: `u.data` or an
official fold `uN.base`, `uN.test`; `u.user`, `u.item`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shardrec.data_pipeline.errors import UserError, shortened
from shardrec.data_pipeline.features.arrow_values import Origin, Place, column_type, expect_type
from shardrec.data_pipeline.features.id_transforms import Bucketize
from shardrec.data_pipeline.features.schema import Label
from shardrec.data_pipeline.prepare.steps.option_values import ROW_GROUP_ROWS
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report, prepare
from shardrec.data_pipeline.prepare.steps.progress import Progress, silent
from shardrec.data_pipeline.prepare.steps.recipe import Recipe
from shardrec.data_pipeline.prepare.steps.recipe_features import FitVocabulary, RecipeId, RecipeIdList
from shardrec.data_pipeline.prepare.steps.source import RawSource, existing_folder, plain_or_compressed, the_file
from shardrec.data_pipeline.prepare.steps.splits import HashSplit, SplitRule, TimeSplit
from shardrec.data_pipeline.prepare.steps.text import TextFile, TextFormat
from shardrec.data_pipeline.prepare.steps.writer import Split
from shardrec.data_pipeline.reading.finding import find_files, short_message

INTEGER, STRING = pa.int64(), pa.string()
AGES = (18.0, 25.0, 35.0, 45.0, 50.0, 56.0)  # 1M publishes ages as these groups, 100K in years
GENRES_100K = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)


def _format(delimiter: str, *columns: str) -> TextFormat:
    return TextFormat(delimiter=delimiter, header=False, quote=None, columns=columns, encoding="latin-1")


RATINGS_1M = _format("::", "user_id", "movie_id", "rating", "timestamp")
RATINGS_100K = _format("\t", "user_id", "movie_id", "rating", "timestamp")
_RATING_TYPES = dict.fromkeys(("user_id", "movie_id", "rating", "timestamp"), INTEGER)


@dataclass
class RatingsParquet(RawSource):
    """Ratings may come from a Parquet file with integer columns user_id, movie_id, rating and perhaps timestamp."""

    path: str
    split: Split | None = None

    def batches(self, columns: Iterable[str] | None = None) -> Iterator[tuple[pa.RecordBatch, Origin]]:
        """Yields the file's rows in order."""
        names = self.column_names()
        first = 0
        try:
            with pq.ParquetFile(self.path) as file:
                for batch in file.iter_batches(ROW_GROUP_ROWS, columns=names, use_threads=False):
                    yield batch, Origin(self.path, first)
                    first += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from None

    def column_names(self) -> list[str]:
        """Returns the known columns that the file has. Raises UserError for a missing one, or one not of integers."""
        try:
            schema = pq.read_schema(self.path)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from None
        names = [c for c in _RATING_TYPES if c != "timestamp" or c in schema.names]
        for name in names:
            kind = column_type(schema, self.path, name, "movielens")
            expect_type(pa.types.is_integer(kind), self.path, name, kind, "integers", "movielens")
        return names

    def _damaged(self, error: Exception) -> UserError:
        return UserError(f"{self.path}: damaged Parquet file: {shortened(short_message(error), 200)}")


@dataclass
class Joined(RawSource):
    """Joined ratings have their user's and movie's columns; `users` and `movies` have their ids in the first column."""

    ratings: RawSource
    users: pa.Table
    movies: pa.Table

    def __post_init__(self) -> None:
        self.path, self.split = self.ratings.path, self.ratings.split

    def batches(self, columns: Iterable[str] | None = None) -> Iterator[tuple[pa.RecordBatch, Origin]]:
        """Yields the ratings with the columns of both. Raises UserError for an id that a table lacks."""
        for batch, origin in self.ratings.batches():
            for table in (self.users, self.movies):
                batch = _join(batch, table, origin)
            yield batch, origin


def _join(batch: pa.RecordBatch, table: pa.Table, origin: Origin) -> pa.RecordBatch:
    key = table.column_names[0]
    ids = batch.column(key).cast(INTEGER)
    row_indices = pc.index_in(ids, table.column(key))
    if row_indices.null_count:
        at = int(row_indices.is_null().to_numpy(zero_copy_only=False).argmax())
        raise Place(origin, key).error(at, ids[at].as_py(), "an id of the users' or movies' file")
    for name in table.column_names[1:]:
        batch = batch.append_column(name, table.column(name).combine_chunks().take(row_indices))
    return batch


def recipe(
    split: SplitRule, threshold: float = 4.0, timestamps: bool = True, negative_rate: float = 1.0, seed: int = 0
) -> Recipe:
    """Returns the recipe of joined ratings.

    Labels are `label` (rating >= threshold) and `rating` itself. Keys are the raw ids; they are the group, too.
    """
    value = FitVocabulary()
    return Recipe(
        features=(
            RecipeId(name="user", role="user", column="user_id", ids=value, type="integer"),
            RecipeId(name="movie", role="item", column="movie_id", ids=value, type="integer"),
            RecipeId(name="gender", role="user", ids=value),
            RecipeId(name="age", role="user", ids=Bucketize(boundaries=AGES)),
            RecipeId(name="occupation", role="user", ids=value),
            RecipeId(name="zip", role="user", ids=value),
            RecipeIdList(name="genres", role="item", ids=value),
            RecipeId(name="year", role="item", ids=value, type="integer", missing="row"),
        ),
        labels=(Label(name="label", column="rating", threshold=threshold), Label(name="rating")),
        group="user_id",
        keys=("user_id", "movie_id", *(("timestamp",) if timestamps else ())),
        split=split,
        negative_rate=negative_rate,
        seed=seed,
    )


def prepare_movielens(
    folder: str | Path,
    output: Output,
    split: SplitRule | None = None,
    fold: int | None = None,
    threshold: float = 4.0,
    negative_rate: float = 1.0,
    seed: int = 0,
    progress: Progress = silent,
) -> Report:
    """Prepares MovieLens 1M or 100K, whichever `folder` holds.

    split: by default 80/10/10 by hash of user and movie. fold: 1 to 5, 100K only: `uN.test` is the test split, and a
    tenth of `uN.base` (by hash of user and movie) the validation split.
    """
    folder = existing_folder(folder, "MovieLens' files")
    by_pair = HashSplit(columns=("user_id", "movie_id"), seed=seed)
    if fold is not None:
        if split is not None:
            raise UserError("--fold is a split of its own; leave out --by-time and --fractions")
        split = by_pair.model_copy(update={"fractions": {"train": 0.9, "validation": 0.1}})
    ratings = rating_sources(folder, fold)
    users = _users_1m(folder) if plain_or_compressed(folder, "movies.dat") else _users_100k(folder)
    movies = movies_of(folder)
    timestamps = not isinstance(ratings[0], RatingsParquet) or "timestamp" in ratings[0].column_names()
    if isinstance(split, TimeSplit) and not timestamps:
        raise UserError(f"{ratings[0].path}: has no column timestamp; leave out --by-time")
    joined_recipe = recipe(split or by_pair, threshold, timestamps, negative_rate, seed)
    return prepare([Joined(r, users, movies) for r in ratings], joined_recipe, output, progress)


def rating_sources(folder: Path, fold: int | None = None) -> list[RawSource]:
    """Returns the ratings of a folder: integer columns user_id, movie_id, rating (and perhaps timestamp).

    fold: the official fold (100K), whose test split is given whole

    Raises UserError where there are none.
    """
    if fold is not None:
        base, test = the_file(folder, f"u{fold}.base"), the_file(folder, f"u{fold}.test")
        return [
            TextFile(base, RATINGS_100K, _RATING_TYPES),
            TextFile(test, RATINGS_100K, _RATING_TYPES, split="test"),
        ]
    for name, form in (("ratings.dat", RATINGS_1M), ("u.data", RATINGS_100K)):
        path = plain_or_compressed(folder, name)
        if path:
            return [TextFile(path, form, _RATING_TYPES)]
    if (folder / "ratings.parquet").exists():  # a file, or a folder of them as Spark writes it
        return [RatingsParquet(file.path) for file in find_files(folder / "ratings.parquet")]
    raise UserError(f"{folder}: no ratings.dat, ratings.parquet or u.data (plain or compressed) in this folder")


def _table(path: str, form: TextFormat, types: dict[str, pa.DataType], separators: dict[str, str]) -> pa.Table:
    batches = [batch for batch, _ in TextFile(path, form, types, separators).batches()]
    if not batches:
        raise UserError(f"{path}: has no rows")
    return pa.Table.from_batches(batches).combine_chunks()


def _users(path: str, form: TextFormat) -> pa.Table:
    types = {"user_id": INTEGER, "gender": STRING, "age": INTEGER, "occupation": STRING, "zip": STRING}
    table = _table(path, form, types, {})
    return table.select(["user_id", "gender", "age", "occupation", "zip"])


def _users_1m(folder: Path) -> pa.Table:
    return _users(the_file(folder, "users.dat"), _format("::", "user_id", "gender", "age", "occupation", "zip"))


def _users_100k(folder: Path) -> pa.Table:
    return _users(the_file(folder, "u.user"), _format("|", "user_id", "age", "gender", "occupation", "zip"))


def movies_of(folder: Path) -> pa.Table:
    """Returns the movies of a folder: movie_id, genres (a list of strings), year. Raises UserError without any."""
    return _movies_1m(folder) if plain_or_compressed(folder, "movies.dat") else _movies_100k(folder)


def _movies_1m(folder: Path) -> pa.Table:
    movies = _table(
        the_file(folder, "movies.dat"),
        _format("::", "movie_id", "title", "genres"),
        {"movie_id": INTEGER, "title": STRING, "genres": pa.list_(STRING)},
        {"genres": "|"},
    )
    year = pc.struct_field(pc.extract_regex(movies.column("title"), r"\((?P<year>\d{4})\)\s*$"), "year")
    return movies.drop_columns("title").append_column("year", year.cast(INTEGER))


def _movies_100k(folder: Path) -> pa.Table:
    flags = tuple(f"genre_{i}" for i in range(len(GENRES_100K)))
    movies = _table(
        the_file(folder, "u.item"),
        _format("|", "movie_id", "title", "released", "on_video", "url", *flags),
        {"movie_id": INTEGER, "released": STRING, **dict.fromkeys(flags, INTEGER)},
        {},
    )
    year = pc.struct_field(pc.extract_regex(movies.column("released"), r"-(?P<year>\d{4})$"), "year")
    has = np.stack([movies.column(f).to_numpy() == 1 for f in flags], axis=1)
    genres = pa.array(GENRES_100K).take(pa.array(np.nonzero(has)[1]))
    lists = pa.ListArray.from_arrays(pa.array(np.concatenate([[0], has.sum(axis=1).cumsum()]), pa.int32()), genres)
    return pa.table({"movie_id": movies.column("movie_id"), "genres": lists, "year": year.cast(INTEGER)})
