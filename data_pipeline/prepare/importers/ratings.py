"""Single ratings become rows of an item (or user): the ratings known of it, and those that are asked for.

In `train/` both are the training ratings; in `validation/` and `test/` the known ones are the training ratings and the
asked ones those held out. Ratings are sent to splits as `prepare movielens` sends its rows, so that with equal
fractions and seed models of single ratings are compared on the same ones. All are held in memory (100 bytes each).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import IdListFeature
from shardrec.data_pipeline.features.id_transforms import Identity, Vocabulary
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.features.vocabulary import VALUE
from shardrec.data_pipeline.files.sealed_parquet import write_sealed
from shardrec.data_pipeline.prepare.importers.movielens import rating_sources
from shardrec.data_pipeline.prepare.steps.fitting import COUNT
from shardrec.data_pipeline.prepare.steps.option_values import Axis
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report, Tally
from shardrec.data_pipeline.prepare.steps.progress import Progress, silent
from shardrec.data_pipeline.prepare.steps.recipe import vocabulary_paths
from shardrec.data_pipeline.prepare.steps.source import RawSource, existing_folder
from shardrec.data_pipeline.prepare.steps.splits import HashSplit, RowNumbers
from shardrec.data_pipeline.prepare.steps.text import no_null
from shardrec.data_pipeline.prepare.steps.writer import SCHEMA_FILE, SPLITS, RowsWriter, Split, staged

FRACTIONS: dict[Split, float] = {"train": 0.855, "validation": 0.045, "test": 0.1}  # AutoRec's protocol
_COLUMNS = {"user": "user_id", "item": "movie_id"}


class _Ratings(NamedTuple):
    """Ratings are [n] each: raw ids int64, rating float32, place in SPLITS int8."""

    row_ids: np.ndarray
    ids: np.ndarray
    ratings: np.ndarray
    codes: np.ndarray

    def of(self, code: int) -> "_Ratings":
        """Returns the ratings of one split."""
        mine = self.codes == code
        return _Ratings._make(values[mine] for values in self)


class _Lists(NamedTuple):
    """Lists are ratings grouped by row: row r of `row_ids` (ascending) owns [offsets[r], offsets[r + 1])."""

    row_ids: np.ndarray
    offsets: np.ndarray
    ids: np.ndarray
    ratings: np.ndarray

    def of(self, row_ids: np.ndarray) -> tuple[pa.Array, pa.Array]:
        """Returns lists of ids and ratings, one for each of these rows; empty where a row has none."""
        place = np.searchsorted(self.row_ids, row_ids)
        in_table = np.flatnonzero(place < len(self.row_ids))
        in_table = in_table[self.row_ids[place[in_table]] == row_ids[in_table]]
        lengths = np.zeros(len(row_ids), np.int64)
        lengths[in_table] = np.diff(self.offsets)[place[in_table]]
        offsets = pa.array(np.concatenate([[0], lengths.cumsum()]), pa.int32())
        taken = np.isin(self.row_ids, row_ids).repeat(np.diff(self.offsets))
        ids, ratings = pa.array(self.ids[taken]), pa.array(self.ratings[taken])
        return pa.ListArray.from_arrays(offsets, ids), pa.ListArray.from_arrays(offsets, ratings)


class _Frequent(NamedTuple):
    """These are the ids of the training ratings, ascending.

    counts: how often each occurs; places: its place by frequency, then by id
    """

    values: np.ndarray
    counts: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray) -> "_Frequent":
        """Counts ids."""
        values, counts = np.unique(ids, return_counts=True)
        return cls(values, counts, np.argsort(np.lexsort((values, -counts))))

    def table_rows(self, ids: np.ndarray) -> np.ndarray:
        """Returns [n] int32 table rows of ids: place + 1, and 0 for ids that training lacks."""
        place = np.minimum(np.searchsorted(self.values, ids), len(self.values) - 1)
        return np.where(self.values[place] == ids, self.places[place] + 1, 0).astype(np.int32)

    def write(self, folder: Path, path: str) -> Vocabulary:
        """Writes the vocabulary file `path` under `folder`."""
        (folder / path).parent.mkdir()
        order = np.argsort(self.places)
        table = pa.table({VALUE: self.values[order], COUNT: self.counts[order]})
        write_sealed(table, folder / path)
        return Vocabulary(path=path, size=len(table))


def prepare_ratings(
    folder: str | Path,
    output: Output,
    axis: Axis = "item",
    fractions: dict[Split, float] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Report:
    """Prepares the ratings of MovieLens 1M or 100K, whichever `folder` holds, as rows of items or of users.

    Raises UserError for files that cannot be read, a rating given twice, and a split without training ratings.
    """
    folder = existing_folder(folder, "MovieLens' files")
    split = HashSplit(columns=("user_id", "movie_id"), seed=seed, fractions=fractions or FRACTIONS)
    ratings = _read(rating_sources(folder), split, axis)
    _check_single(ratings, axis, folder)
    of_splits = {name: ratings.of(code) for code, name in enumerate(SPLITS)}
    if not len(of_splits["train"].ids):
        raise UserError(f"{folder}: no training ratings; check the input and the split")
    named = {name: f"{len(split_ratings.ids):,} ratings" for name, split_ratings in of_splits.items()}
    progress(", ".join(f"{name} {count}" for name, count in named.items()))
    with staged(output.folder, output.overwrite, [folder]) as staging:
        frequent = _Frequent.of(of_splits["train"].ids)
        lists = {name: _grouped(split_ratings, frequent) for name, split_ratings in of_splits.items()}
        tally = Tally()
        for name in SPLITS:
            asked = lists[name]
            tally.rows[name] = _write(staging / name, axis, lists["train"], asked, output)
            if len(asked.ids):
                tally.add_label("rating", name, float(asked.ratings.sum(dtype=np.float64)), len(asked.ids))
        space = _id_space(axis)
        schema = schema_of(axis, frequent.write(staging, vocabulary_paths([space])[space]))
        schema.save(staging / SCHEMA_FILE)
    return Report(Path(output.folder), schema, tally)


def _read(sources: Sequence[RawSource], split: HashSplit, axis: Axis) -> _Ratings:
    listed: Axis = "user" if axis == "item" else "item"
    parts = []
    for part, source in enumerate(sources):
        first = 0
        for batch, origin in source.batches():
            for name in ("user_id", "movie_id", "rating"):
                no_null(batch, name, origin)
            codes = split.codes(batch, RowNumbers(part, first, batch.num_rows), origin)
            first += batch.num_rows
            row_ids, ids = (batch.column(_COLUMNS[a]).to_numpy().astype(np.int64) for a in (axis, listed))
            parts.append(_Ratings(row_ids, ids, batch.column("rating").to_numpy().astype(np.float32), codes))
    if not parts:
        raise UserError(f"{sources[0].path}: has no rows")
    return _Ratings._make(np.concatenate(values) for values in zip(*parts, strict=True))


def _check_single(ratings: _Ratings, axis: Axis, folder: Path) -> None:
    """Raises UserError where a user rates a movie twice: V r would count it so."""
    order = np.lexsort((ratings.ids, ratings.row_ids))
    rows, ids = ratings.row_ids[order], ratings.ids[order]
    twice = np.flatnonzero((rows[1:] == rows[:-1]) & (ids[1:] == ids[:-1]))
    if len(twice):
        movie, user = rows[twice[0]], ids[twice[0]]
        if axis == "user":
            movie, user = user, movie
        raise UserError(f"{folder}: user {user} has rated movie {movie} twice; keep one rating of each pair")


def _grouped(ratings: _Ratings, frequent: _Frequent) -> _Lists:
    """Returns ratings by row, with ids as table rows."""
    order = np.lexsort((ratings.ids, ratings.row_ids))
    row_ids, counts = np.unique(ratings.row_ids, return_counts=True)
    offsets = np.concatenate([[0], counts.cumsum()])
    return _Lists(row_ids, offsets, frequent.table_rows(ratings.ids[order]), ratings.ratings[order])


def _write(folder: Path, axis: Axis, known: _Lists, asked: _Lists, output: Output) -> int:
    """Writes one split's rows, which are those that something is asked of, and returns their number."""
    with RowsWriter(folder, 0, output.row_group_rows, output.file_rows) as writer:
        for start in range(0, len(asked.row_ids), output.row_group_rows):
            row_ids = asked.row_ids[start : start + output.row_group_rows]
            columns = {_COLUMNS[axis]: pa.array(row_ids)}
            for name, lists in (("rated", known), ("asked", asked)):
                columns[name], columns[f"{name}_ratings"] = lists.of(row_ids)
            writer.write(pa.table(columns))
        return writer.rows


def _id_space(axis: Axis) -> str:
    """Returns what the lists of such rows hold, as `prepare movielens` calls it."""
    return "user" if axis == "item" else "movie"


def schema_of(axis: Axis, vocabulary: Vocabulary) -> Schema:
    """Returns the schema of rows of `axis`; the vocabulary is that of what their lists hold."""
    ids = Identity(num_ids=vocabulary.num_rows, prepared=vocabulary)
    rated = IdListFeature(name="rated", ids=ids, table=_id_space(axis), weights="rated_ratings")
    asked = IdListFeature(name="asked", ids=ids, table=_id_space(axis), weights="asked_ratings", weights_are="labels")
    return Schema(features=(rated, asked), labels=(), keys=(_COLUMNS[axis],))
