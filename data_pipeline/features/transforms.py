"""Arrow record batches become NumPy columns of table rows and numbers, as the schema declares, without Python per row.

A reader is built once per feature and called per record batch. Values that the declaration does not allow (null, NaN,
out of range) are errors that name file, column, row and value; nothing is repaired silently.
"""

from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import (
    Origin,
    Place,
    as_type,
    column_type,
    expect_type,
    floats,
    is_list,
    is_null,
    is_number,
    missing_values,
    plain_type,
)
from shardrec.data_pipeline.features.combinations import MOST_COMBINATIONS, Combinations
from shardrec.data_pipeline.features.dense_transforms import Clip, DenseTransform, Log, Standardise
from shardrec.data_pipeline.features.feature_kinds import (
    DenseSequenceFeature,
    FeatureCross,
    IdListFeature,
    NumericFeature,
    SequenceFeature,
    SparseFeature,
)
from shardrec.data_pipeline.features.hashing import hash_array, hash_integers, hash_words, is_string
from shardrec.data_pipeline.features.id_transforms import Cross
from shardrec.data_pipeline.features.ids import IdReader
from shardrec.data_pipeline.features.ragged import Ragged, plain_lists
from shardrec.data_pipeline.features.schema import Label

LARGEST_NUMBER = 1e15
"""The largest magnitude of a dense feature after its transforms, or of a weight: fp32 holds its square with room."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)


class Column(NamedTuple):
    """A column is one feature, label or weight of n rows. The arrays may be read-only views of Arrow memory.

    values: int64 table rows, or float32 numbers for features of numbers, labels and weights; n, or sum(lengths) of them
    lengths: int64 [n] for id lists and sequences of any kind; None: exactly one value per row
    weights: float32 beside `values` for id lists with weights
    """

    values: np.ndarray
    lengths: np.ndarray | None = None
    weights: np.ndarray | None = None


class FeatureReader:
    """A feature reader reads one feature from record batches.

    columns: the Parquet columns it needs
    """

    def __init__(self, feature: SparseFeature | NumericFeature, folder: str | Path) -> None:
        """Opens vocabularies under `folder`, the schema's. Raises UserError for a missing or damaged one."""
        self.feature = feature
        self.columns: tuple[str, ...] = feature.columns
        self._name = f"feature {feature.name!r}"
        ids = None if isinstance(feature, NumericFeature) else feature.ids
        self._crossed = tuple(FeatureReader(f, folder) for f in ids.features) if isinstance(ids, FeatureCross) else ()
        self._ids = None if isinstance(feature, NumericFeature) or self._crossed else IdReader(feature, folder)
        self._number = (
            _NumberReader(feature.columns[0], self._name, feature, LARGEST_NUMBER)
            if isinstance(feature, NumericFeature)
            else None
        )

    def check(self, schema: pa.Schema, file: str) -> None:
        """Raises UserError for a missing column or a wrong type: file, column, found, expected. Needs only a footer."""
        if self._number is not None:
            self._number.check(schema, file)
            return
        for source in self._crossed:
            source.check(schema, file)
        if self._ids is None:
            return
        weights = getattr(self.feature, "weights", None)
        for column in self.columns:
            kind = column_type(schema, file, column, self._name)
            many = isinstance(self.feature, IdListFeature | SequenceFeature)
            if isinstance(getattr(self.feature, "ids", None), Cross):  # some of its columns may have one value a row
                many = many and is_list(kind)
            if many and is_null(kind):  # no list in it
                continue
            if many:
                expect_type(is_list(kind), file, column, kind, "a list", f"{self._name} ({self.feature.kind})")
            inner = kind.value_type if many else kind
            if column == weights:
                right = is_number(inner) or is_null(inner)
                expect_type(right, file, column, kind, "a list of numbers", f"{self._name} (as weights)")
            else:
                self._ids.check(inner, file, column, self._name, empty=many)

    def __call__(self, batch: pa.RecordBatch, where: str | Origin) -> Column:
        """Reads the feature of a batch's rows.

        where: a file and row group for error lines, or an `Origin`, which numbers the batch's first row too

        Raises UserError for the first value that the declaration does not allow.
        """
        if self._number is not None:
            most = self.feature.max_length if isinstance(self.feature, DenseSequenceFeature) else None
            return self._number(batch, Origin.of(where), most)
        if self._crossed:
            return self._of_features(batch, Origin.of(where))
        if isinstance(self.feature, IdListFeature) and isinstance(self.feature.ids, Cross):
            return self._of_columns(batch, Origin.of(where))
        if isinstance(self.feature, IdListFeature | SequenceFeature):
            return self._lists(batch, self.feature.max_length, Origin.of(where))
        assert self._ids is not None
        arrays = [batch.column(c) for c in self.columns]
        return Column(self._ids(arrays, [Place(Origin.of(where), c) for c in self.columns]))

    def _lists(self, batch: pa.RecordBatch, most: int | None, where: Origin) -> Column:
        assert self._ids is not None
        lists = plain_lists(batch.column(self.columns[0]))
        id_rows = Ragged.of(lists)
        kept = id_rows.last(most)
        place = Place(where, self.columns[0], kept.row_of)
        ids = self._ids([kept.flat(lists.values)], [place])
        if len(self.columns) == 1:
            labels = isinstance(self.feature, IdListFeature) and self.feature.weighted  # not known: they are wanted
            return Column(ids, kept.lengths, np.full(len(ids), np.nan, np.float32) if labels else None)
        beside = plain_lists(batch.column(self.columns[1]))
        place = Place(where, self.columns[1])
        weight_rows = Ragged.of(beside)
        differ = np.flatnonzero(weight_rows.lengths != id_rows.lengths)
        if len(differ):
            at = differ[0]
            raise place.error(
                at,
                f"{weight_rows.lengths[at]} weights",
                f"as many as {self.columns[0]!r} has ids: {id_rows.lengths[at]}",
            )
        kept = weight_rows.last(most)
        weights = floats(as_type(kept.flat(beside.values), pa.float64()))
        wrong = np.flatnonzero(~(np.abs(weights) <= LARGEST_NUMBER))  # NaN is wrong
        if len(wrong):
            expected = f"a finite weight for every id, of magnitude {LARGEST_NUMBER:g} at most"
            raise place._replace(rows=kept.row_of).error(wrong[0], weights[wrong[0]], expected)
        return Column(ids, kept.lengths, weights.astype(np.float32, copy=False))

    def _of_features(self, batch: pa.RecordBatch, where: Origin) -> Column:
        """Reads a feature cross: ids of single features, or all combinations of one id of each list."""
        assert not isinstance(self.feature, NumericFeature)
        parts, num_rows = [source(batch, where) for source in self._crossed], np.uint64(self.feature.ids.num_rows)
        words = [hash_integers(part.values) for part in parts]
        if not isinstance(self.feature, IdListFeature):
            return Column((hash_words(words) % num_rows).astype(np.int64))
        each = [np.ones(batch.num_rows, np.int64) if p.lengths is None else p.lengths for p in parts]
        made = self._combinations(each, where)
        rows, weights = np.empty(made.total, np.int64), np.ones(made.total if self.feature.weighted else 0, np.float32)
        for some, places in made.pieces():
            rows[some] = hash_words([word[at] for word, at in zip(words, places, strict=True)]) % num_rows
            if self.feature.weighted:
                weighted = [p.weights[at] for p, at in zip(parts, places, strict=True) if p.weights is not None]
                weights[some] = self._product(weighted, where, made.rows_of(some))
        return Column(rows, made.lengths, weights if self.feature.weighted else None)

    def _of_columns(self, batch: pa.RecordBatch, where: Origin) -> Column:
        """Reads a cross of columns of which some are lists: all combinations of one value of each."""
        assert self._ids is not None
        flat, lengths = [], []
        for column in self.columns:
            values = batch.column(column)
            if is_list(values.type):
                lists = plain_lists(values)
                rows = Ragged.of(lists)
                flat.append(rows.flat(lists.values))
                lengths.append(rows.lengths)
            else:
                flat.append(values)
                lengths.append(np.ones(batch.num_rows, np.int64))
        made = self._combinations(lengths, where)
        ids = np.empty(made.total, np.int64)
        for some, places in made.pieces():
            taken = [values.take(pa.array(at)) for values, at in zip(flat, places, strict=True)]
            in_rows = [Place(where, c, made.rows_of(some)) for c in self.columns]
            ids[some] = self._ids(taken, in_rows)
        return Column(ids, made.lengths)

    def _combinations(self, lengths: list[np.ndarray], where: Origin) -> Combinations:
        """Chooses combinations. Raises UserError for a row of too many, where nothing says which of them are kept."""
        assert isinstance(self.feature, IdListFeature)
        if self.feature.max_length is not None:
            return Combinations(lengths, self.feature.max_length)
        all_made = Combinations(lengths, MOST_COMBINATIONS + 1)
        too_many = np.flatnonzero(all_made.lengths > MOST_COMBINATIONS)
        if len(too_many):
            of_row = [int(of_list[too_many[0]]) for of_list in lengths]
            raise UserError(
                f"{where.row(too_many[0])}: {self._name} crosses {' x '.join(map(str, of_row))} ids, which are "
                f"{prod(of_row):,} combinations, expected {MOST_COMBINATIONS:,} at most; give the cross a "
                "`max_length`, which keeps the last ones"
            )
        return all_made

    def _product(self, weights: list[np.ndarray], where: Origin, row_of: Callable[[int], int]) -> np.ndarray:
        """Returns the product of float32 weights. Raises UserError for the first one that is too large."""
        products = np.prod(np.stack(weights), axis=0, dtype=np.float64)
        wrong = np.flatnonzero(~(np.abs(products) <= LARGEST_NUMBER))
        if len(wrong):
            raise UserError(
                f"{where.row(row_of(int(wrong[0])))}: {self._name} multiplies weights to {products[wrong[0]]:g}, "
                f"expected a magnitude of {LARGEST_NUMBER:g} at most; scale them"
            )
        return products.astype(np.float32)


class _NumberReader:
    """A number reader reads finite float32 numbers, of magnitude `largest` at most: of a feature, label or weight.

    A label may be any that float32 holds: it goes into the loss alone, which is looked at itself.
    """

    def __init__(self, column: str, name: str, declared: NumericFeature | Label, largest: float = _FLOAT32_MAX) -> None:
        self.column = column
        self._largest = largest
        by_schema = ", or give it `transforms` in the schema" if isinstance(declared, NumericFeature) else ""
        self._scaling = f"scale it{by_schema}"
        self._name = name
        self._fill = None if declared.missing == "error" else float(declared.missing)
        self._steps: tuple[DenseTransform, ...] = declared.transforms if isinstance(declared, NumericFeature) else ()
        self._threshold = declared.threshold if isinstance(declared, Label) else None
        self._many = isinstance(declared, DenseSequenceFeature)

    def check(self, schema: pa.Schema, file: str) -> None:
        """Raises UserError for a missing column or one that is not of numbers."""
        kind = column_type(schema, file, self.column, self._name)
        if self._many:
            if is_null(kind):  # no list in it
                return
            numbers = is_list(kind) and (is_number(plain_type(kind.value_type)) or is_null(plain_type(kind.value_type)))
            expect_type(numbers, file, self.column, kind, "a list of numbers", f"{self._name} (dense_sequence)")
            return
        if is_null(plain_type(kind)) and self._fill is not None:
            return
        expect_type(is_number(plain_type(kind)), file, self.column, kind, "numbers", self._name)

    def __call__(self, batch: pa.RecordBatch, where: Origin, most: int | None = None) -> Column:
        """Reads a number a row, or the last `most` of each of a dense sequence's lists."""
        if not self._many:
            return Column(self._read(batch.column(self.column), Place(where, self.column)))
        lists = plain_lists(batch.column(self.column))
        kept = Ragged.of(lists).last(most)
        return Column(self._read(kept.flat(lists.values), Place(where, self.column, kept.row_of)), kept.lengths)

    def _read(self, values: pa.Array, place: Place) -> np.ndarray:
        array = as_type(values, pa.float64())
        raw = numbers = floats(array)
        if self._fill is not None:
            missing = np.isnan(raw)
            if missing.any():
                numbers = np.where(missing, raw.dtype.type(self._fill), raw)
        numbers = self._transformed(numbers)
        if len(numbers) and not (numbers.min() >= -self._largest and numbers.max() <= self._largest):  # NaN is neither
            at = int((np.abs(numbers) <= self._largest).argmin())
            found = str(raw[at]) if array[at].is_valid else "null"
            raise place.error(at, found, self._expected(raw[at], numbers[at]))
        return numbers

    def _expected(self, raw: float, number: float) -> str:
        if np.isnan(raw):
            return "a finite number, or `missing` in the schema"
        if not np.isfinite(number):
            return "a finite number"
        return f"a number of magnitude {self._largest:g} at most; {self._scaling}"

    def _transformed(self, numbers: np.ndarray) -> np.ndarray:
        if self._threshold is not None:  # NaN stays NaN, for the check that follows
            return np.where(np.isnan(numbers), np.nan, numbers >= self._threshold).astype(np.float32)
        if self._steps:
            numbers = transformed(numbers.astype(np.float64, copy=False), self._steps)
        with np.errstate(over="ignore"):
            return numbers.astype(np.float32, copy=False)


def transformed(numbers: np.ndarray, steps: Iterable[DenseTransform]) -> np.ndarray:
    """Returns numbers after dense transforms in their order: [n] float64 -> [n] float64. NaN stays NaN."""
    for step in steps:
        if isinstance(step, Log):
            numbers = np.copysign(np.log1p(np.abs(numbers)), numbers)
        elif isinstance(step, Standardise):
            numbers = (numbers - step.mean) / step.deviation
        else:
            assert isinstance(step, Clip)
            if step.low is not None or step.high is not None:
                numbers = np.clip(numbers, step.low, step.high)
    return numbers


class LabelReader:
    """A label reader reads a label as float32, thresholded and filled as declared."""

    def __init__(self, label: Label) -> None:
        self.columns: tuple[str, ...] = label.columns
        self._number = _NumberReader(label.columns[0], f"label {label.name!r}", label)

    def check(self, schema: pa.Schema, file: str) -> None:
        """Raises UserError for a missing column or one that is not of numbers."""
        self._number.check(schema, file)

    def __call__(self, batch: pa.RecordBatch, where: str | Origin) -> Column:
        """Reads a batch's labels. Raises UserError for a null, NaN or infinite one (unless `missing` fills it)."""
        return self._number(batch, Origin.of(where))


class WeightReader:
    """A weight reader reads sample weights: float32, finite and not negative."""

    def __init__(self, column: str) -> None:
        self.columns: tuple[str, ...] = (column,)
        self._number = _NumberReader(column, "the sample weight", Label(name=column), LARGEST_NUMBER)

    def check(self, schema: pa.Schema, file: str) -> None:
        """Raises UserError for a missing column or one that is not of numbers."""
        self._number.check(schema, file)

    def __call__(self, batch: pa.RecordBatch, where: str | Origin) -> Column:
        """Reads a batch's weights. Raises UserError for a null, NaN, infinite or negative one."""
        column = self._number(batch, Origin.of(where))
        if len(column.values) and column.values.min() < 0:
            at = int(column.values.argmin())
            raise Place(Origin.of(where), self.columns[0]).error(at, column.values[at], "a sample weight >= 0")
        return column


class GroupReader:
    """A group reader reads what grouped metrics go by as int64: integers as they are, strings as their XXH64."""

    def __init__(self, column: str) -> None:
        self.columns: tuple[str, ...] = (column,)

    def check(self, schema: pa.Schema, file: str) -> None:
        """Raises UserError for a missing column or one that is neither of integers nor of strings."""
        kind = column_type(schema, file, self.columns[0], "the group")
        plain = plain_type(kind)
        right = pa.types.is_integer(plain) or is_string(plain)
        expect_type(right, file, self.columns[0], kind, "integers or strings", "the group")

    def __call__(self, batch: pa.RecordBatch, where: str | Origin) -> Column:
        """Reads the groups of a batch's rows. Raises UserError for a null."""
        array = batch.column(self.columns[0])
        missing = missing_values(array)
        if missing is not None:
            raise Place(Origin.of(where), self.columns[0]).error(missing.argmax(), "null", "an integer or a string")
        if pa.types.is_integer(array.type):
            return Column(array.to_numpy().astype(np.int64, copy=False))
        if pa.types.is_dictionary(array.type) and pa.types.is_integer(array.type.value_type):
            return Column(array.dictionary_decode().to_numpy().astype(np.int64, copy=False))
        return Column(hash_array(array).view(np.int64))


def check_aligned(
    features: Iterable[SparseFeature | NumericFeature], batch: pa.RecordBatch, where: str | Origin
) -> None:
    """Raises UserError (row, columns, lengths) where sequences of one `aligned` name are not equally long.

    What counts are the lengths in the data: where only the most recent are kept, longer ones would hide a shift.
    """
    first_of: dict[str, tuple[SequenceFeature | DenseSequenceFeature, np.ndarray]] = {}
    for f in features:
        if not isinstance(f, SequenceFeature | DenseSequenceFeature) or f.aligned is None:
            continue
        lengths = Ragged.of(plain_lists(batch.column(f.columns[0]))).lengths
        earlier, expected = first_of.setdefault(f.aligned, (f, lengths))
        differ = np.flatnonzero(expected != lengths)
        if len(differ):
            at = differ[0]
            raise UserError(
                f"{Origin.of(where).row(at)}: column {earlier.columns[0]!r} has {expected[at]} elements and column "
                f"{f.columns[0]!r} has {lengths[at]}, but both are aligned as {f.aligned!r}; make them equally long"
            )
