"""The first pass fits vocabularies, means and deviations on the training rows that will be written."""

import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import floats
from shardrec.data_pipeline.features.dense_transforms import Clip, Log
from shardrec.data_pipeline.features.hashing import is_string
from shardrec.data_pipeline.features.transforms import transformed
from shardrec.data_pipeline.features.vocabulary import VALUE
from shardrec.data_pipeline.files.sealed_parquet import read_checked, write_sealed
from shardrec.data_pipeline.prepare.steps.parallel import Workers
from shardrec.data_pipeline.prepare.steps.recipe import Fitted, Recipe
from shardrec.data_pipeline.prepare.steps.recipe_features import FitStandardise, FitVocabulary, RecipeIds
from shardrec.data_pipeline.prepare.steps.selection import Numbered, Selection
from shardrec.data_pipeline.prepare.steps.splits import TimeSplit

COUNT = "count"
_COMPACT_ROWS = 1 << 20


class ValueCounts:
    """Value counts say how often each value occurs; memory grows with the distinct values."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []
        self._waiting = 0
        self._limit = _COMPACT_ROWS

    def add(self, values: pa.Array) -> None:
        """Counts the elements of an array of integers, numbers or strings, or of lists of them; nulls do not count."""
        if pa.types.is_list(values.type):
            values = values.flatten()
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        kind = values.type
        if is_string(kind) or pa.types.is_integer(kind):
            kind = pa.large_string() if is_string(kind) else pa.int64()
        counts = values.drop_null().value_counts()
        self.merge(pa.table({VALUE: counts.field(0).cast(kind), COUNT: counts.field(1)}))

    def merge(self, counts: pa.Table) -> None:
        """Adds what another one counted (its `table`)."""
        if not len(counts):
            return
        self._tables.append(counts)
        self._waiting += len(counts)
        if self._waiting >= self._limit:
            kept = self.table()
            self._tables, self._waiting = [kept], len(kept)
            self._limit = max(_COMPACT_ROWS, 2 * len(kept))

    def table(self) -> pa.Table:
        """Returns columns value and count, each value once, in no particular order."""
        if not self._tables:
            return pa.table({VALUE: pa.array([], pa.large_string()), COUNT: pa.array([], pa.int64())})
        grouped = pa.concat_tables(self._tables).group_by(VALUE, use_threads=False).aggregate([(COUNT, "sum")])
        return grouped.rename_columns({f"{COUNT}_sum": COUNT}).select([VALUE, COUNT])


class Moments(NamedTuple):
    """Moments are the number, mean and sum of squared deviations of the numbers seen so far."""

    rows: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, numbers: np.ndarray) -> "Moments":
        """Returns the moments of [n] float64 without NaN."""
        if not len(numbers):
            return cls()
        with np.errstate(over="ignore", invalid="ignore"):  # which the result shows
            mean = float(numbers.mean())
            return cls(len(numbers), mean, float(((numbers - mean) ** 2).sum()))

    def merge(self, other: "Moments") -> "Moments":
        """Returns the moments of both together (Chan, Golub and LeVeque 1979)."""
        if not self.rows or not other.rows:
            return self if self.rows else other
        n = self.rows + other.rows
        shift = other.mean - self.mean
        squares = self.squares + other.squares + shift * shift * self.rows * other.rows / n
        return Moments(n, self.mean + shift * other.rows / n, squares)

    @property
    def deviation(self) -> float:
        """Returns the population standard deviation; 1 where all numbers are equal, so that it divides."""
        return (self.squares / self.rows) ** 0.5 if self.squares > 0 else 1.0


def fit(sources: Iterable[Numbered], recipe: Recipe, folder: Path, workers: Workers) -> Fitted:
    """Reads all training rows once; writes the vocabularies under `folder`. Memory grows with the distinct values."""
    tables = sorted({f.table_name for f in recipe.sparse if isinstance(f.ids, FitVocabulary)})
    scratch = folder / ".counts"
    scratch.mkdir()
    moments: dict[str, Moments] = {}
    items = [s for s in sources if s.source.split in (None, "train")]
    for part_moments in workers.map(partial(_fit_part, recipe=recipe, tables=tables, scratch=scratch), items):
        for name, m in part_moments.items():
            moments[name] = moments.get(name, Moments()).merge(m)
    fits, paths = {f.table_name: f.ids for f in recipe.sparse}, recipe.vocabulary_paths()
    sizes = {}
    for i, table in enumerate(tables):
        counted = [scratch / f"{item.part}-{i}.parquet" for item in items]
        sizes[table] = _write_vocabulary(fits[table], counted, folder / paths[table])
    scratch.rmdir()
    return Fitted(vocabularies=sizes, moments={name: _sound(name, m) for name, m in moments.items()})


def _sound(name: str, moments: Moments) -> tuple[float, float]:
    """Returns mean and deviation. Raises UserError where numbers are so large that float64 has none."""
    if not (math.isfinite(moments.mean) and math.isfinite(moments.deviation)):
        raise UserError(
            f"{name}: its numbers are too large for a mean and a deviation in float64; correct them, or let "
            "{kind: log} or {kind: clip} come before {kind: standardise}"
        )
    return moments.mean, moments.deviation


def find_cuts(sources: Iterable[Numbered], split: TimeSplit, workers: Workers) -> TimeSplit:
    """Returns the split with cuts that give its fractions of all rows. Reads the time column once."""
    counts = ValueCounts()
    for table in workers.map(partial(_count_times, column=split.column), list(sources)):
        counts.merge(table)
    return split.cut(counts.table().sort_by(VALUE))


def _count_times(numbered: Numbered, column: str) -> pa.Table:
    counts = ValueCounts()
    for batch, _ in numbered.source.batches([column]):
        counts.add(batch.column(column))
    return counts.table()


def _fit_part(numbered: Numbered, recipe: Recipe, tables: list[str], scratch: Path) -> dict[str, Moments]:
    """Writes one input file's value counts to `scratch` and returns its moments."""
    counts = {table: ValueCounts() for table in tables}
    counted = [(f.columns[0], f.table_name) for f in recipe.sparse if isinstance(f.ids, FitVocabulary)]
    measured: dict[str, tuple[str, tuple[Log | Clip, ...]]] = {}
    for f in (f for f in recipe.numeric if f.of is None):
        for place, step in enumerate(f.transforms):
            if isinstance(step, FitStandardise):
                before = tuple(t for t in f.transforms[:place] if isinstance(t, Log | Clip))
                measured[f.name] = (f.raw_column, before)
    moments = dict.fromkeys(measured, Moments())
    selection = Selection(recipe)
    needed = {c for c, _ in counted} | {c for c, _ in measured.values()} | set(selection.columns(numbered.source))
    for batch, codes, _ in selection.batches(numbered, needed):
        rows = batch.filter(pa.array(codes == 0))
        for column, table in counted:
            counts[table].add(rows.column(column))
        for name, (column, steps) in measured.items():
            values = rows.column(column)
            numbers = floats(values.flatten() if pa.types.is_list(values.type) else values).astype(np.float64)
            numbers = transformed(numbers, steps)
            moments[name] = moments[name].merge(Moments.of(numbers[np.isfinite(numbers)]))
    for i, table in enumerate(tables):
        write_sealed(counts[table].table(), scratch / f"{numbered.part}-{i}.parquet")
    return moments


def _write_vocabulary(declared: RecipeIds, counted: list[Path], target: Path) -> int:
    """Merges the files' counts of one table, which are then removed, into its vocabulary, and returns its size.

    Values are the most frequent first, then by value.
    """
    assert isinstance(declared, FitVocabulary)
    counts = ValueCounts()
    for path in counted:
        counts.merge(read_checked(str(path)))
        path.unlink()
    merged = counts.table()
    kept = merged.filter(pc.greater_equal(merged.column(COUNT), declared.min_count))
    kept = kept.sort_by([(COUNT, "descending"), (VALUE, "ascending")])
    if declared.max_size is not None:
        kept = kept.slice(0, declared.max_size)
    target.parent.mkdir(exist_ok=True)
    write_sealed(kept, target)
    return len(kept)
