"""A selection says which of a file's rows are written, and to which split: the same in both passes."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.features.arrow_values import Origin
from shardrec.data_pipeline.features.transforms import LabelReader
from shardrec.data_pipeline.prepare.steps.recipe import Recipe
from shardrec.data_pipeline.prepare.steps.source import RawSource
from shardrec.data_pipeline.prepare.steps.splits import LEFT_OUT, HashSplit, RowNumbers, draw
from shardrec.data_pipeline.prepare.steps.writer import SPLITS


class Numbered(NamedTuple):
    """A numbered source has its place among the input files."""

    part: int
    source: RawSource


class Selection:
    """A selection sends rows to splits and drops a share of the training negatives, as a recipe says."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._label = LabelReader(recipe.labels[0]) if recipe.negative_rate < 1 else None

    def columns(self, source: RawSource) -> tuple[str, ...]:
        """Returns the raw columns that the decision needs."""
        split = self._recipe.split
        label = self._label.columns if self._label is not None and source.labeled else ()
        if source.split is not None:
            return label
        if isinstance(split, HashSplit):
            return (*split.columns, *label)
        return (split.column, *label)

    def batches(
        self, numbered: Numbered, columns: Iterable[str] | None = None
    ) -> Iterator[tuple[pa.RecordBatch, np.ndarray, Origin]]:
        """Yields all of a file's rows as batches, with their splits and origin.

        Splits are [n] int8: places in SPLITS, or LEFT_OUT.
        """
        first = 0
        for batch, origin in numbered.source.batches(columns):
            row_numbers = RowNumbers(numbered.part, first, batch.num_rows)
            first += batch.num_rows
            yield batch, self._codes(batch, numbered.source, row_numbers, origin), origin

    def _codes(self, batch: pa.RecordBatch, source: RawSource, row_numbers: RowNumbers, origin: Origin) -> np.ndarray:
        recipe = self._recipe
        if source.split is not None:
            codes = np.full(batch.num_rows, SPLITS.index(source.split), np.int8)
        else:
            codes = recipe.split.codes(batch, row_numbers, origin)
        if self._label is not None and source.labeled:
            negative = self._label(batch, origin).values <= 0
            dropped = draw("negative", recipe.seed, row_numbers.words) >= recipe.negative_rate
            codes[(codes == SPLITS.index("train")) & negative & dropped] = LEFT_OUT
        return codes
