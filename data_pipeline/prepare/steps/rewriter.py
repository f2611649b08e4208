"""Raw record batches are rewritten: ids become table rows, everything else is checked and kept."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.features.arrow_values import Origin
from shardrec.data_pipeline.features.feature_kinds import DenseFeature, DenseSequenceFeature, IdListFeature
from shardrec.data_pipeline.features.ragged import Ragged, plain_lists
from shardrec.data_pipeline.features.transforms import (
    FeatureReader,
    GroupReader,
    LabelReader,
    WeightReader,
    check_aligned,
)
from shardrec.data_pipeline.prepare.steps.recipe import Fitted, Recipe, weights_name


class Rewriter:
    """A rewriter rewrites batches of raw columns as a fitted recipe says, and checks every value on the way."""

    def __init__(self, recipe: Recipe, fitted: Fitted, folder: Path) -> None:
        """Opens the fitted vocabularies in `folder`. Raises UserError where one cannot be read."""
        self._recipe = recipe
        self._schema = recipe.schema_of(fitted)
        self._readers = [FeatureReader(f, folder) for f in self._schema.features]
        self._labels = {label.name: LabelReader(label) for label in recipe.labels}
        self._weight = WeightReader(recipe.weight) if recipe.weight else None
        self._group = GroupReader(recipe.group) if recipe.group else None

    def __call__(
        self, batch: pa.RecordBatch, origin: Origin, labeled: bool = True
    ) -> tuple[pa.RecordBatch, dict[str, np.ndarray]]:
        """Returns the prepared rows, and [n] float32 of each label.

        labeled: whether the rows have labels; if not, none are returned and the label columns are null

        Raises UserError for a value that the recipe does not allow.
        """
        columns: dict[str, pa.Array] = {}
        for reader in self._readers:
            feature = reader.feature
            column = reader(batch, origin)
            if isinstance(feature, DenseFeature):
                self._keep(columns, batch, feature.columns[0], single=True)
                continue
            if isinstance(feature, DenseSequenceFeature):
                self._keep_last(columns, batch, feature)
                continue
            columns[feature.name] = _array(column.values, feature.num_embeddings, column.lengths)
            if isinstance(feature, IdListFeature) and feature.weights:
                assert column.weights is not None and column.lengths is not None
                columns[weights_name(feature.name)] = _lists(pa.array(column.weights), column.lengths)
        check_aligned(self._schema.features, batch, origin)
        labels = {}
        for name, label in self._labels.items():
            if labeled:
                labels[name] = label(batch, origin).values
                self._keep(columns, batch, label.columns[0])
            else:
                columns[self._recipe.written_name(label.columns[0])] = pa.nulls(batch.num_rows, pa.float64())
        for check in (self._weight, self._group):
            if check is not None:
                check(batch, origin)
                self._keep(columns, batch, check.columns[0])
        for key in (*self._recipe.keys, self._recipe.propensity, self._recipe.time):
            if key is not None:
                self._keep(columns, batch, key)
        return pa.RecordBatch.from_pydict(columns), labels

    def _keep(self, columns: dict[str, pa.Array], batch: pa.RecordBatch, column: str, single: bool = False) -> None:
        """Keeps a raw column as it is.

        single: in single precision, which is what a dense feature is read as
        """
        name = self._recipe.written_name(column)
        values = batch.column(column)
        if single and pa.types.is_float64(values.type):
            values = values.cast(pa.float32(), safe=False)
        if name not in columns or pa.types.is_float32(columns[name].type):
            columns[name] = values

    def _keep_last(self, columns: dict[str, pa.Array], batch: pa.RecordBatch, feature: DenseSequenceFeature) -> None:
        """Keeps the last of a dense sequence's raw numbers, as many as of the ids beside them, in single precision."""
        (column,) = feature.columns
        lists = plain_lists(batch.column(column))
        kept = Ragged.of(lists).last(feature.max_length)
        values = kept.flat(lists.values).cast(pa.float32(), safe=False)
        columns[self._recipe.written_name(column)] = _lists(values, kept.lengths)


def _array(rows: np.ndarray, num_rows: int, lengths: np.ndarray | None) -> pa.Array:
    ids = pa.array(rows.astype(np.int32) if num_rows <= 1 << 31 else rows)
    return ids if lengths is None else _lists(ids, lengths)


def _lists(values: pa.Array, lengths: np.ndarray) -> pa.ListArray:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), values)
