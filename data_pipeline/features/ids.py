"""Values of a column (strings, integers, numbers) become rows of an embedding table, as a schema's `ids` declares."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import (
    Place,
    as_type,
    expect_type,
    floats,
    integers,
    is_null,
    is_number,
    missing_values,
    plain_type,
)
from shardrec.data_pipeline.features.feature_kinds import SparseFeature
from shardrec.data_pipeline.features.hashing import (
    LONGEST,
    LongStringError,
    hash_array,
    hash_words,
    is_string,
)
from shardrec.data_pipeline.features.id_transforms import MISSING, Bucketize, Cross, Hash, Identity, Raw, Vocabulary
from shardrec.data_pipeline.features.vocabulary import Lookup


def _identity_ids(values: pa.Array, num_ids: int, place: Place) -> np.ndarray:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    ids = integers(values)
    if len(ids):
        # one pass for both ends: as an unsigned number, a negative id is larger than any allowed one
        unsigned = ids.view(f"u{ids.itemsize}") if ids.dtype.kind == "i" else ids
        if int(unsigned.max()) >= num_ids or (num_ids > 1 << (8 * ids.itemsize - 1) and int(ids.min()) < 0):
            at = np.flatnonzero((ids < 0) | (ids >= num_ids))
            if len(at):
                raise place.error(at[0], ids[at[0]], f"an id in [0, {num_ids})")
    return ids.astype(np.int64, copy=False)


def _raw_ids(values: pa.Array) -> np.ndarray:
    if is_string(plain_type(values.type)):
        return hash_array(values).view(np.int64)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return integers(values).astype(np.int64, copy=False)


def _vocabulary_ids(values: pa.Array, lookup: Lookup) -> np.ndarray:
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    rows = lookup.rows(values.dictionary)
    return rows[integers(values.indices)] if len(rows) else np.zeros(len(values), np.int64)


def _bucket_ids(values: pa.Array, boundaries: np.ndarray) -> np.ndarray:
    return np.searchsorted(boundaries, floats(values), side="right").astype(np.int64, copy=False)


class IdReader:
    """An id reader turns the values of one feature's columns into table rows.

    missing_row: the row of nulls (and NaN), or None where they are errors
    """

    def __init__(self, feature: SparseFeature, folder: str | Path) -> None:
        """Opens vocabularies, if there are some, under `folder`. Raises UserError where one is missing or damaged."""
        self.declared = feature.ids
        ids = feature.ids
        self.missing_row = None
        if feature.missing == "row":
            self.missing_row = MISSING if isinstance(ids, Raw) else ids.num_rows
        self.lookup = Lookup.open(folder, ids.path, ids.size) if isinstance(ids, Vocabulary) else None
        self._read_as = pa.string() if self.lookup is not None and self.lookup.strings else pa.int64()
        self.boundaries = np.array(ids.boundaries) if isinstance(ids, Bucketize) else None

    def check(self, kind: pa.DataType, file: str, column: str, reader: str, *, empty: bool = False) -> None:
        """Raises UserError unless values of type `kind` can become rows as declared.

        empty: there may be no values at all, as in lists
        """
        plain = plain_type(kind)
        integers, strings = pa.types.is_integer(plain), is_string(plain)
        if is_null(plain) and (self.missing_row is not None or empty):
            return
        if isinstance(self.declared, Identity):
            right, expected = integers, "integers (ids: identity)"
        elif isinstance(self.declared, Raw):
            right, expected = integers or strings, "integers or strings (ids: raw)"
        elif isinstance(self.declared, Hash | Cross):
            right, expected = integers or strings or pa.types.is_boolean(plain), "integers or strings to hash"
        elif self.lookup is not None:
            right = strings if self.lookup.strings else integers
            expected = f"{'strings' if self.lookup.strings else 'integers'} as in the vocabulary"
        else:
            right, expected = is_number(plain), "numbers to bucketize"
        expect_type(right, file, column, kind, expected, reader)

    def __call__(self, columns: list[pa.Array], places: list[Place]) -> np.ndarray:
        """Returns table rows: k arrays of n values (k > 1 for crosses only) -> [n] int64."""
        columns = [as_type(values, self._read_as) for values in columns]
        try:
            rows = self._rows(columns, places[0])
        except LongStringError:
            raise _too_long(columns, places) from None
        for values, place in zip(columns, places, strict=True):
            missing = missing_values(values)
            if missing is None:
                continue
            if self.missing_row is None:
                at = int(missing.argmax())
                nan = pa.types.is_floating(plain_type(values.type)) and values[at].is_valid
                raise place.error(at, "NaN" if nan else "null", "an id, or `missing: row` in the schema")
            rows = np.where(missing, self.missing_row, rows)
        return rows

    def _rows(self, columns: list[pa.Array], place: Place) -> np.ndarray:
        ids = self.declared
        if isinstance(ids, Identity):
            return _identity_ids(columns[0], ids.num_ids, place)
        if isinstance(ids, Raw):
            return _raw_ids(columns[0])
        if self.lookup is not None:
            return _vocabulary_ids(columns[0], self.lookup)
        if self.boundaries is not None:
            return _bucket_ids(columns[0], self.boundaries)
        assert isinstance(ids, Hash | Cross)
        if isinstance(ids, Hash):
            hashes = hash_array(columns[0], ids.seed)
        else:
            hashes = hash_words([hash_array(c) for c in columns], ids.seed)
        return (hashes % np.uint64(ids.num_ids)).astype(np.int64)


def _too_long(columns: list[pa.Array], places: list[Place]) -> UserError:
    """Returns the error about the longest string of some columns."""
    found = []
    for column, place in zip(columns, places, strict=True):
        if is_string(plain_type(column.type)):
            strings = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
            lengths = pc.fill_null(pc.binary_length(strings.cast(pa.large_binary())), 0).to_numpy()
            found.append((int(lengths.max()), int(lengths.argmax()), place))
    longest, at, place = max(found, key=lambda item: item[0])
    return place.error(at, f"a string of {longest:,} bytes", f"an id of at most {LONGEST:,} bytes")
