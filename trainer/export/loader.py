"""A bundle scores rows on its own: this one file needs Python, NumPy, pyarrow and torch alone.

It is part of every bundle that `shardrec export` writes, so that a service needs nothing that trained the model:

    from loader import Bundle

    bundle = Bundle("my-bundle")
    scores = bundle.score([{"user": "u7", "item": "i3", "price": 9.5}])

Rows are raw: strings and numbers as they were before preparation. Values that the model was not trained to read are
errors, `RowError`, that name row and feature; nothing is repaired silently.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.export.graph_signature import InputKind

FORMAT = 1
ANY = "string or int64"  # the type of columns that are hashed: 7 and "7" are two ids
MISSING_RAW = -(2**63)
LARGEST_NUMBER = 1e15  # of a number after its transforms, or a weight
LONGEST = 1 << 16  # bytes of a string that is an id
MOST_COMBINATIONS = 1000  # of a row's crossed ids, where the cross has no max_length
BLOCK_ROWS = 4096  # rows that are scored at once
BLOCK_ITEMS = 8192  # items whose products with users are made at once
REMEMBERED = 1 << 17  # values that a feature remembers the ids of


class RowError(ValueError):
    """A row cannot be read. `row` counts from 0, None where all rows are meant; `feature` is the one that reads it."""

    def __init__(self, message: str, row: int | None = None, feature: str | None = None) -> None:
        where = [] if row is None else [f"row {row}"]
        super().__init__(": ".join([*where, *([] if feature is None else [f"feature {feature!r}"]), message]))
        self.message, self.row, self.feature = message, row, feature


def _bad(at: Any, found: object, expected: str) -> RowError:
    """Returns the error about the value at a place of an array: the feature that reads it says which row that is."""
    text = str(found)
    return RowError(f"found {text[:80]}{'...' * (len(text) > 80)}, expected {expected}", int(at))


# ---------------------------------------------------------------- hashing: XXH64, of ints or of arrays of uint64

_M = (1 << 64) - 1
_P1, _P2, _P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P4, _P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_Reader = Callable[[int, int], Any]  # offset and width in bytes -> the little-endian word there


def _rotate(x: Any, bits: int) -> Any:
    return (x << bits & _M) | (x >> 64 - bits)


def _round(state: Any, word: Any) -> Any:
    return _rotate(state + word * _P2 & _M, 31) * _P1 & _M


def _xxh64(length: int, seed: int, word: _Reader) -> Any:
    """Returns the hash of values of `length` bytes, each a number or an array of them."""
    state: Any = seed + _P5 & _M
    if length >= 32:
        lanes: list[Any] = [s & _M for s in (seed + _P1 + _P2, seed + _P2, seed, seed - _P1)]
        for start in range(0, length - 31, 32):
            lanes = [_round(lane, word(start + 8 * i, 8)) for i, lane in enumerate(lanes)]
        state = 0
        for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True):
            state = state + _rotate(lane, bits) & _M
        for lane in lanes:
            state = ((state ^ _round(0, lane)) * _P1 & _M) + _P4 & _M
    state = state + length & _M
    at = length - length % 32
    while at + 8 <= length:
        state = (_rotate(state ^ _round(0, word(at, 8)), 27) * _P1 & _M) + _P4 & _M
        at += 8
    if at + 4 <= length:
        state = (_rotate(state ^ (word(at, 4) * _P1 & _M), 23) * _P2 & _M) + _P3 & _M
        at += 4
    while at < length:
        state = _rotate(state ^ (word(at, 1) * _P5 & _M), 11) * _P1 & _M
        at += 1
    for shift, factor in ((33, _P2), (29, _P3)):
        state = (state ^ state >> shift) * factor & _M
    return state ^ state >> 32


def _hash_words(words: Sequence[np.ndarray], seed: int = 0) -> np.ndarray:
    """Returns the hashes of rows of k 64-bit words: k arrays [n] -> [n] uint64."""
    columns = [word.view(np.uint64) for word in words]
    return np.asarray(_xxh64(8 * len(columns), seed, lambda at, _: columns[at // 8]), np.uint64)


def _hash_texts(texts: pa.Array, seed: int = 0) -> np.ndarray:
    """Returns the hashes of large_binary values: [n] uint64."""
    if len(texts) <= 64:  # numbers of Python are faster
        return np.fromiter((_xxh64(len(v), seed, partial(_number, v)) for v in texts.to_pylist()), np.uint64)
    found, lengths = np.empty(len(texts), np.uint64), pc.binary_length(texts).to_numpy()
    for length in np.unique(lengths).tolist():
        some = np.flatnonzero(lengths == length)
        content = np.frombuffer(texts.take(pa.array(some)).buffers()[2] or b"", np.uint8, len(some) * length)
        padded = np.zeros((len(some), -(-length // 8) * 8), np.uint8)
        padded[:, :length] = content.reshape(len(some), length)
        found[some] = _xxh64(length, seed, partial(_word, padded))
    return found


def _number(value: bytes, at: int, width: int) -> int:
    return int.from_bytes(value[at : at + width], "little")


def _word(rows: np.ndarray, at: int, width: int) -> np.ndarray:
    return rows.view(f"<u{width}")[:, at // width].astype(np.uint64)


def _distinct(strings: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Returns the values that there are as large_binary, and which of them each string is: -1 for null."""
    coded = strings.cast(pa.large_binary()).dictionary_encode()
    texts, places = coded.dictionary, coded.indices.fill_null(-1).to_numpy()
    lengths = pc.binary_length(texts).to_numpy()
    if lengths.max(initial=0) > LONGEST:
        at = (places == lengths.argmax()).argmax()
        raise _bad(at, f"a string of {lengths.max():,} bytes", f"an id of at most {LONGEST:,} bytes")
    return texts, places


def _hash(array: pa.Array, seed: int = 0) -> np.ndarray:
    """Returns the hashes of strings by their UTF-8 bytes, and of integers by their eight: [n] uint64."""
    if _kind(array.type) != "string":
        return _hash_words([_integers(array)], seed)
    texts, places = _distinct(array)
    return np.append(_hash_texts(texts, seed), np.uint64(0))[places]


# ---------------------------------------------------------------- values as Arrow arrays

_TYPES = {"string": pa.large_binary(), ANY: pa.int64(), "int64": pa.int64(), "uint64": pa.uint64()}
_TYPES |= {"bool": pa.bool_(), "float": pa.float64(), "double": pa.float64()}
_READ = {"string": {"string"}, "int64": {"integer", "number"}, "bool": {"bool"}}
_READ |= {"uint64": _READ["int64"], ANY: {"string", "integer", "number", "bool"}}
_READ |= {"float": {"integer", "number", "decimal", "bool"}, "double": {"integer", "number", "decimal", "bool"}}
_REFUSED = (pa.ArrowException, OverflowError, TypeError, ValueError)
_PLAIN_NUMBERS = {float, int, bool, type(None)}


def _kind(t: pa.DataType) -> str:
    """Returns what values of a type are: string, integer, bool, number, decimal, or the type's name."""
    if pa.types.is_integer(t):
        return "integer"
    if pa.types.is_floating(t):
        return "number"
    name = str(t).removeprefix("large_").removesuffix("_view").partition("128(")[0]
    return "string" if name == "binary" else name


def _floats(array: pa.Array, wanted: str = "double") -> np.ndarray:
    """Returns [n] float64, NaN where nothing is known, of the precision that is wanted."""
    return _rounded(np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)), wanted)


def _rounded(numbers: np.ndarray, wanted: str) -> np.ndarray:
    if wanted != "float":
        return numbers
    with np.errstate(over="ignore"):  # to infinity, which is refused
        return numbers.astype(np.float32).astype(np.float64)


def _integers(array: pa.Array) -> np.ndarray:
    """Returns [n] int64, 0 where nothing is known; unsigned ones by their bits."""
    return np.asarray(array.cast(pa.int64(), safe=False).fill_null(0).to_numpy())


def _plain(array: pa.Array, wanted: str) -> pa.Array:
    """Returns an array without dictionary, integers as such. Raises RowError for values of another type."""
    array = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
    if array.null_count == len(array):
        return pa.nulls(len(array), _TYPES[wanted])
    kind = _kind(array.type)
    if kind not in _READ[wanted]:
        at = pc.index(pc.is_valid(array), True).as_py()
        raise _bad(at, repr(array[at].as_py()), wanted)
    if kind == "number" and _TYPES[wanted] != pa.float64():  # how pandas holds integers with nulls
        numbers = _floats(array)
        whole = np.isnan(numbers) | (np.abs(numbers) < 2.0**63) & (np.floor(numbers) == numbers)
        if not whole.all():
            raise _bad(whole.argmin(), numbers[whole.argmin()], "an integer")
        return pa.array(numbers, from_pandas=True).cast(pa.int64())
    return array


def _read_as(wanted: str, read: Callable[[pa.Array], np.ndarray], values: Any) -> np.ndarray:
    """Reads an Arrow array, or Python values: those of each type as one array."""
    if isinstance(values, pa.Array):
        return read(_plain(values, wanted))
    if len(set(map(type, values))) <= 1:
        return read(_plain(_arrow(values, wanted), wanted))
    by_type: dict[type, list[int]] = {}
    for at, value in enumerate(values):
        by_type.setdefault(type(value), []).append(at)
    parts = []
    for places in by_type.values():
        try:
            parts.append(read(_plain(_arrow([values[at] for at in places], wanted), wanted)))
        except RowError as bad:
            raise RowError(bad.message, places[bad.row or 0]) from None
    return np.concatenate(parts)[np.argsort(np.concatenate(list(by_type.values())))]


def _arrow(values: list[Any], wanted: str) -> pa.Array:
    """Returns values of one Python type. Raises RowError for one that Arrow cannot hold."""
    try:
        return pa.array(values, from_pandas=True)
    except _REFUSED:
        if all(type(value) is int and -(2**63) <= value < 2**64 for value in values):
            return pa.array([value % 2**64 for value in values], pa.uint64())  # the same bits
        if len(values) == 1:
            raise _bad(0, repr(values[0]), wanted) from None
    for at, value in enumerate(values):
        try:
            _arrow([value], wanted)
        except RowError as bad:
            raise RowError(bad.message, at) from None
    raise _bad(0, repr(values[0]), wanted)  # lists of several types


# ---------------------------------------------------------------- rows, by column


class _Rows:
    """Rows are read by column: `get` returns Python values in a list, an Arrow array, or None for no column."""

    def __init__(self, count: int, whole: Callable[[str], Any], start: int = 0) -> None:
        self.count, self._whole, self._start = count, whole, start

    @classmethod
    def of(cls, rows: Any, known: Iterable[str]) -> "_Rows":
        """Takes rows in any of their forms. Raises RowError for another one."""
        if isinstance(rows, list | tuple) and all(isinstance(row, Mapping) for row in rows):
            return cls(len(rows), cache(partial(_values, rows)))
        if isinstance(rows, pa.Table | pa.RecordBatch):
            names, count = rows.column_names, rows.num_rows
            if twice := [name for name in known if names.count(name) > 1]:
                raise RowError(f"the column {twice[0]!r} is there {names.count(twice[0])} times")
            rows = dict(zip(names, rows.columns, strict=True))
        elif isinstance(rows, Mapping) or hasattr(rows, "iloc"):  # a pandas.DataFrame
            rows = {name: _column(name, rows[name]) for name in known if name in rows}
            lengths = {name: len(values) for name, values in rows.items()}
            count = max(lengths.values(), default=0)
            if any(length != count for length in lengths.values()):
                raise RowError(f"columns are not equally long: {lengths}")
        else:
            raise RowError("rows are a pyarrow.Table, a pandas.DataFrame, a dict of columns, or a list of dicts")
        return cls(count, rows.get)

    def get(self, name: str) -> Any:
        values = self._whole(name)
        if values is None or (isinstance(values, list) and len(values) == self.count):
            return values
        if isinstance(values, list):
            return values[self._start : self._start + self.count]
        part = values.slice(self._start, self.count)
        return part.combine_chunks() if isinstance(part, pa.ChunkedArray) else part

    def block(self, start: int) -> "_Rows":
        """Returns rows from `start` on, as many as are scored at once."""
        return _Rows(min(BLOCK_ROWS, self.count - start), self._whole, start)

    def beside(self, context: "_Rows") -> "_Rows":
        """Returns these rows with the columns that they lack, in which each is as the one row of `context`."""

        def whole(name: str) -> Any:
            values, one = self._whole(name), context.get(name)
            if values is not None or one is None:
                return values
            return (one.to_pylist() if isinstance(one, pa.Array) else one) * self.count

        return _Rows(self.count, cache(whole))


def _values(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any] | None:
    return [row.get(name) for row in rows] if any(name in row for row in rows) else None


def _column(name: str, values: Any) -> Any:
    """Returns a column as a list or of Arrow. Raises RowError for what is neither, nor of NumPy or pandas."""
    if hasattr(values, "tolist"):
        try:
            values = pa.array(values, from_pandas=True)
        except _REFUSED:
            values = values.tolist()
    values = list(values) if isinstance(values, tuple) else values
    if not isinstance(values, list | pa.Array | pa.ChunkedArray):
        raise RowError(f"column {name!r}: found a {type(values).__name__}, expected a list of values")
    return values


# ---------------------------------------------------------------- values become table rows and numbers


class _Lookup:
    """Ascending keys have rows, and other keys the default row. Strings are compared too where their hashes are keys.

    So are vocabularies looked up, and the ids of dynamic tables.
    """

    def __init__(self, keys: np.ndarray, rows: np.ndarray, default: int, texts: pa.Array = None) -> None:
        self._keys, self._rows, self._default, self._texts = keys, rows, default, texts

    def __call__(self, keys: np.ndarray, texts: pa.Array = None) -> np.ndarray:
        if not len(self._keys):
            return np.full(len(keys), self._default)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        known = self._keys[places] == keys
        if self._texts is not None:
            known &= pc.equal(self._texts.take(pa.array(places)), texts).to_numpy(zero_copy_only=False)
        return np.where(known, self._rows[places], self._default)

    def of_values(self, values: pa.Array) -> np.ndarray:
        """Returns the rows of integers, or of strings: [n] int64."""
        if self._texts is None:
            return self(_integers(values))
        texts, places = _distinct(values)
        return np.append(self(_hash_texts(texts), texts), 0)[places]


class _Ids:
    """Values become rows as a feature's `ids` says; those of the last values are remembered."""

    def __init__(self, spec: Mapping[str, Any], wanted: str, bundle: "Bundle") -> None:
        self._ids, self._missing, self._wanted = spec["ids"], spec["missing"], wanted
        self._kind = self._ids["kind"]
        self._vocabulary = bundle.vocabulary(self._ids["file"]) if self._kind == "vocabulary" else None
        self._space = bundle.id_space(spec["space"]) if "space" in spec else None
        self._known: dict[Any, int] = {}
        plain: dict[str, list[set[type]]] = {"string": [{str}], "int64": [{int}], ANY: [{str}, {int}]}
        nothing: set[type] = set() if self._missing is None else {type(None)}
        self._remembered = [types | nothing for types in plain.get(wanted, [])]

    def __call__(self, values: Any) -> np.ndarray:
        """Returns the rows of n values: [n] int64. Raises RowError for one that has none."""
        types = set(map(type, values)) if isinstance(values, list) else {pa.Array}
        if not any(types <= some for some in self._remembered):
            return _read_as(self._wanted, self._read, values)
        try:
            return np.array([self._known[v] for v in values], np.int64)
        except KeyError:
            rows = _read_as(self._wanted, self._read, values)
        if len(self._known) > REMEMBERED:
            self._known.clear()
        self._known.update(zip(values, rows.tolist(), strict=True))
        return rows

    def _read(self, array: pa.Array) -> np.ndarray:
        rows = self._rows(array)
        if array.null_count or pa.types.is_floating(array.type):
            missing = np.asarray(pc.is_null(array, nan_is_null=True))
            if missing.any():
                if self._missing is None:
                    raise _bad(missing.argmax(), "nothing", "an id")
                rows = np.where(missing, self._missing, rows)
        return rows if self._space is None else self._space(rows)

    def _rows(self, array: pa.Array) -> np.ndarray:
        if self._vocabulary is not None:
            return self._vocabulary.of_values(array)
        if self._kind == "bucketize":
            return np.searchsorted(self._ids["boundaries"], _floats(array, self._wanted), side="right")
        if self._kind == "hash":
            return (_hash(array, self._ids["seed"]) % np.uint64(self._ids["num_ids"])).astype(np.int64)
        if self._kind == "digest" or (self._kind == "raw" and _kind(array.type) == "string"):
            return _hash(array).view(np.int64)
        rows = _integers(array)
        if self._kind == "identity" and (wrong := (rows < 0) | (rows >= self._ids["num_ids"])).any():
            raise _bad(wrong.argmax(), array[int(wrong.argmax())], f"an id in [0, {self._ids['num_ids']})")
        return rows


class _Numbers:
    """Values become float32 numbers by a feature's `steps`, nothing becomes `fill`."""

    def __init__(self, steps: Sequence[Sequence[Any]], fill: float | None, wanted: str) -> None:
        self._steps, self._wanted = steps, wanted
        self._fill = None if fill is None else float(np.float32(fill)) if wanted == "float" else fill

    def __call__(self, values: Any) -> np.ndarray:
        """Returns [n] float32. Raises RowError for what is no finite number that the model can take."""
        if isinstance(values, list) and _PLAIN_NUMBERS.issuperset(map(type, values)):
            try:
                return self._read(_rounded(np.array(values, np.float64), self._wanted))  # in a tenth of the time
            except OverflowError:  # an integer of hundreds of digits
                pass
        return _read_as(self._wanted, lambda array: self._read(_floats(array, self._wanted)), values)

    def _read(self, raw: np.ndarray) -> np.ndarray:
        numbers = raw if self._fill is None else np.where(np.isnan(raw), self._fill, raw)
        for name, *settings in self._steps:
            if name == "log":
                numbers = np.copysign(np.log1p(np.abs(numbers)), numbers)
            elif name == "standardise":
                numbers = (numbers - settings[0]) / settings[1]
            else:
                numbers = np.clip(numbers, *settings)
        if not (right := np.abs(numbers) <= LARGEST_NUMBER).all():
            at = right.argmin()
            expected = f"a finite number of magnitude {LARGEST_NUMBER:g} at most"
            raise _bad(at, "nothing" if np.isnan(raw[at]) else raw[at], expected)
        return numbers.astype(np.float32)


class _Column(NamedTuple):
    """A column is one feature of n rows: `values`, of which each row has one, or `lengths` of them.

    weights: float32 beside the values. full: lengths before the last `max_length` were taken.
    """

    values: np.ndarray
    lengths: np.ndarray | None = None
    weights: np.ndarray | None = None
    full: np.ndarray | None = None


def _places(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns starts[i], starts[i] + 1, ... of every row in turn, `lengths[i]` of them."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))


def _check_equal(found: np.ndarray, full: np.ndarray, name: str, said: str) -> None:
    """Raises RowError for the first row where two lists differ in length."""
    found, full = np.broadcast_arrays(found, full)  # one row of context stands for all
    if len(differ := np.flatnonzero(found != full)):
        raise RowError(said.format(found[differ[0]], full[differ[0]]), int(differ[0]), name)


class _Feature:
    """A feature reads its column, with one value or a list of them a row, or crosses what other features read."""

    def __init__(self, spec: Mapping[str, Any], types: Mapping[str, str], bundle: "Bundle") -> None:
        self.name, self.columns, self.aligned = spec["name"], spec["columns"], spec.get("aligned")
        self._spec, self._most = spec, spec.get("max_length")
        self._parts = [_Feature(part, types, bundle) for part in spec.get("parts", ())]
        self._weights = _Feature(spec["weights"], types, bundle) if "weights" in spec else None
        self._space = bundle.id_space(spec["space"]) if "space" in spec else None
        if self._parts:
            return
        self._type, self._optional = types[self.columns[0]].removesuffix("?"), types[self.columns[0]].endswith("?")
        inner = self._type.removeprefix("list<").removesuffix(">")
        self._read = _Ids(spec, inner, bundle) if "ids" in spec else _Numbers(spec["steps"], spec["fill"], inner)

    def read(self, rows: _Rows) -> _Column:
        """Returns the feature's column. Raises RowError."""
        if self._parts:
            return self._crossed(rows)
        values, lengths = rows.get(self.columns[0]), None
        if values is None and not self._optional:
            raise RowError(f"there is no column {self.columns[0]!r}", None, self.name)
        values = [None] * rows.count if values is None else values
        try:
            if not (self._type.startswith("list<") or (self._spec.get("kind") == "any" and _any_list(values))):
                return _Column(self._read(values))
            flat, lengths, full = _flat(values, self._most, self._type)
            found = self._read(flat)
        except RowError as bad:
            at = bad.row or 0
            row = at if lengths is None else int(np.searchsorted(np.cumsum(lengths), at, side="right"))
            raise RowError(bad.message, row, self.name) from None
        if self._weights is None:
            return _Column(found, lengths, None, full)
        weights = self._weights.read(rows)
        assert weights.full is not None
        _check_equal(weights.full, full, self.name, "found {} weights, expected as many as ids: {}")
        return _Column(found, lengths, weights.values, full)

    def _crossed(self, rows: _Rows) -> _Column:
        """Crosses the parts: combinations of one id of each, the last part's fastest, of which the last are kept."""
        ids, parts = self._spec["ids"], [part.read(rows) for part in self._parts]
        each = [np.ones(rows.count, np.int64) if p.lengths is None else p.lengths for p in parts]
        lengths = np.ones(rows.count, np.int64)
        for of_part in each:
            lengths = np.minimum(lengths * of_part, self._most or MOST_COMBINATIONS + 1)
        if self._most is None and (lengths > MOST_COMBINATIONS).any():
            at = int((lengths > MOST_COMBINATIONS).argmax())
            raise RowError(f"found more than {MOST_COMBINATIONS:,} combinations of its ids", at, self.name)
        row = np.repeat(np.arange(rows.count), lengths)
        from_end = lengths[row] - 1 - _places(np.zeros(len(lengths), np.int64), lengths)
        words: list[np.ndarray] = []
        weights: list[np.ndarray] = []
        missing = np.zeros(len(row), bool)
        for part, of_part in zip(reversed(parts), reversed(each), strict=True):
            at = (np.cumsum(of_part) - 1)[row] - from_end % of_part[row]
            from_end //= of_part[row]
            words.insert(0, (part.values if ids["digests"] else _hash_words([part.values]))[at])
            missing |= (part.values[at] == MISSING_RAW) & ids["digests"]
            weights[:0] = [] if part.weights is None else [part.weights[at]]
        found = (_hash_words(words, ids["seed"]) % np.uint64(ids["num_ids"])).astype(np.int64)
        if missing.any():
            if self._spec["missing"] is None:
                raise RowError("found nothing, expected an id", int(row[missing.argmax()]), self.name)
            found = np.where(missing, self._spec["missing"], found)
        found = found if self._space is None else self._space(found)
        if self._spec["kind"] == "id":
            return _Column(found)
        if not weights:
            return _Column(found, lengths, None, lengths)
        products = np.prod(np.stack(weights), axis=0, dtype=np.float64)
        if not (right := np.abs(products) <= LARGEST_NUMBER).all():
            raise RowError(f"multiplies weights to {products[right.argmin()]:g}", int(row[right.argmin()]), self.name)
        return _Column(found, lengths, products.astype(np.float32), lengths)


def _any_list(values: Any) -> bool:
    """Tells whether the values of a column are lists."""
    if isinstance(values, pa.Array):
        return _is_list(values.type)
    return any(isinstance(v, list | tuple | np.ndarray) for v in values)


def _is_list(t: pa.DataType) -> bool:
    return "list" in str(t).partition("<")[0]


def _flat(values: Any, most: int | None, wanted: str) -> tuple[Any, np.ndarray, np.ndarray]:
    """Returns the elements of all lists, how many of each row were kept (the last `most`), and how many there were."""
    if isinstance(values, list):
        lists = values if {list}.issuperset(map(type, values)) else [_list(v, i, wanted) for i, v in enumerate(values)]
        full = np.fromiter(map(len, lists), np.int64, len(lists))
        kept = full if most is None else np.minimum(full, most)
        return [x for v in lists for x in (v if most is None else v[-most:])], kept, full
    if values.null_count == len(values):
        return [], np.zeros(len(values), np.int64), np.zeros(len(values), np.int64)
    if not _is_list(values.type):
        at = pc.index(pc.is_valid(values), True).as_py()
        raise _bad(at, repr(values[at].as_py()), wanted)
    flat, full = pc.list_flatten(values), _integers(pc.list_value_length(values)).copy()  # to be a tensor
    flat = flat.cast(pa.large_binary()) if "_view" in str(flat.type) else flat  # which `take` cannot take
    kept = full if most is None else np.minimum(full, most)
    return flat if kept is full else flat.take(pa.array(_places(np.cumsum(full) - kept, kept))), kept, full


def _list(value: Any, row: int, wanted: str) -> list[Any]:
    if value is None or (isinstance(value, float) and np.isnan(value)):  # as pandas writes nothing
        return []
    found = value.tolist() if hasattr(value, "tolist") else list(value) if isinstance(value, tuple) else value
    if not isinstance(found, list):
        raise _bad(row, repr(value), wanted)
    return found


# ---------------------------------------------------------------- programs


class _Program:
    """An exported program, and the inputs that it takes."""

    def __init__(self, bundle: "Bundle", spec: Mapping[str, Any]) -> None:
        self.inputs = [i for i in spec["inputs"] if i["kind"] != "shared"]
        self.features = list(dict.fromkeys(name for i in self.inputs for name in i["features"] + i.get("dense", [])))
        self._lists, self._shape = spec["lists"], spec["shape"]
        self._path, self._bundle = bundle.folder / spec["file"], bundle

    @cached_property
    def _run(self) -> Callable[..., tuple[Tensor, ...]]:
        """Returns the program's graph with its weights, read when it is first called.

        `module()` would check and arrange its arguments, which for one row takes longer than the tower.
        """
        program = torch.export.load(str(self._path))
        known = {**program.state_dict, **program.constants}
        inputs = program.graph_signature.input_specs
        weights = [known[spec.target].detach() for spec in inputs if spec.kind is not InputKind.USER_INPUT]
        return partial(program.graph_module.forward, *weights)

    @torch.inference_mode()
    def __call__(self, columns: Mapping[str, _Column], count: int, *shared: Tensor) -> tuple[Tensor, ...]:
        """Runs the program on `count` rows; columns of one row are every row's."""
        return self._run(*shared, *(t for spec in self.inputs for t in self._tensors(spec, columns, count)))

    def by_block(self, rows: _Rows, read: Callable[[_Rows], Mapping[str, _Column]], *shared: Tensor) -> Any:
        """Returns what the program says of rows, some of them at a time. Raises RowError."""
        outputs: list[Any] = []
        for start in range(0, rows.count, BLOCK_ROWS):
            block = rows.block(start)
            try:
                columns = read(block)
            except RowError as error:
                row = None if error.row is None else error.row + start
                raise RowError(error.message, row, error.feature) from None
            found = self(columns, block.count, *shared)[0].numpy()
            if self._lists is None:
                outputs.append(found)
            else:  # of ids that are asked for
                lengths = np.broadcast_to(np.asarray(columns[self._lists].lengths), block.count)
                outputs += [of_row[:length] for of_row, length in zip(found, lengths, strict=True)]
        if self._lists is not None:
            return outputs
        return outputs[0] if len(outputs) == 1 else np.concatenate([np.zeros((0, *self._shape), np.float32), *outputs])

    def _tensors(self, spec: Mapping[str, Any], columns: Mapping[str, _Column], count: int) -> Iterator[Tensor]:
        if spec["kind"] == "sequence":
            yield from (t if len(t) == count else t.repeat_interleave(count, 0) for t in self._sequence(spec, columns))
            return
        dense = spec["kind"] == "dense"
        parts = []
        for i, name in enumerate(spec["features"]):
            column = columns[name]
            vectors = column.values[:, None] if dense else self._bundle.vectors(spec["tables"][i], column.values)
            parts.append(vectors if column.lengths is None else _pooled(vectors, column, spec["mean"][i]))
        if any(len(part) != count for part in parts):
            parts = [np.broadcast_to(part, (count, part.shape[1])) for part in parts]
        out = np.concatenate(parts, 1) if parts else np.zeros((count, 0), np.float32)
        yield torch.from_numpy(out if dense or spec["concat"] else out.reshape(count, len(parts), -1))

    def _sequence(self, spec: Mapping[str, Any], columns: Mapping[str, _Column]) -> Iterator[Tensor]:
        first = columns[spec["features"][0]]
        lengths = np.asarray(first.lengths)
        at = np.arange(max(1, int(lengths.max(initial=0)))) < lengths[:, None]

        def padded(*values: Any) -> Tensor:
            out = np.zeros((*at.shape, len(values), *values[0].shape[1:]), np.float32)
            for i, of_feature in enumerate(values):
                out[:, :, i][at] = of_feature
            return torch.from_numpy(out)

        names = zip(spec["features"], spec["tables"], strict=True)
        yield padded(*(self._bundle.vectors(table, columns[name].values) for name, table in names))
        yield torch.from_numpy(lengths)
        if spec["weighted"]:
            yield padded(first.weights)[:, :, 0]
        if spec["dense"]:
            yield padded(*(columns[name].values for name in spec["dense"]))


def _pooled(vectors: np.ndarray, column: _Column, mean: bool) -> np.ndarray:
    """Sums (or averages) the vectors of each row's ids: [T, D] -> [n, D]."""
    lengths = torch.from_numpy(column.lengths)
    row = torch.repeat_interleave(lengths)
    weights = torch.ones(len(vectors)) if column.weights is None else torch.from_numpy(column.weights)
    weighted = torch.from_numpy(vectors) if column.weights is None else torch.from_numpy(vectors) * weights[:, None]
    sums = torch.zeros(len(lengths), vectors.shape[1]).index_add_(0, row, weighted)
    if mean:
        total = torch.zeros(len(lengths)).index_add_(0, row, weights)
        sums *= torch.where(total == 0, 0.0, 1 / torch.where(total == 0, 1.0, total))[:, None]
    return sums.numpy()


class Bundle:
    """A bundle scores raw rows. It opens at once, whatever its tables' sizes: they are mapped into memory.

    manifest: what `bundle.json` says. columns: the raw columns that rows have, each with the Arrow type it is read as,
    and a `?` where it may be missing. item_columns, context_columns: those that describe the candidate item, and the
    others. retrieves: whether `user_vectors`, `top_n` and `similar` are there.
    """

    def __init__(self, folder: str | os.PathLike[str], *, threads: int | None = None, prepared: bool = False) -> None:
        """Opens a bundle's folder.

        threads: of torch in this process; None: as it is. prepared: rows are as `shardrec prepare` wrote them, where
        ids are numbers, and not as they were before. Raises ValueError for a folder that is no whole bundle.
        """
        self.folder = Path(folder)
        self.manifest = self._json("bundle.json")
        if (found := self.manifest.get("format")) != FORMAT:
            raise ValueError(f"{self.folder}: a bundle of format {found}, where this loader reads format {FORMAT}")
        for name, size in self.manifest["files"].items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != size:
                raise ValueError(f"{path}: missing or cut off, where the bundle has {size:,} bytes; copy it again")
        if threads is not None:
            torch.set_num_threads(threads)
        self._array = cache(lambda file: np.load(self.folder / file, mmap_mode="r").view(np.ndarray))
        rows = self.manifest["prepared" if prepared else "raw"]
        self.columns: dict[str, str] = rows["columns"]
        self.item_columns: list[str] = rows["item_columns"]
        self.context_columns = [c for c in self.columns if c not in self.item_columns]
        self._features = {spec["name"]: _Feature(spec, self.columns, self) for spec in rows["features"]}
        self._programs = {name: _Program(self, spec) for name, spec in self.manifest["programs"].items()}
        self._calibration = self._json("calibration.json") if (self.folder / "calibration.json").exists() else None
        self.retrieves = "user" in self._programs

    # ------------------------------------------------------------ scores

    def score(self, rows: Any) -> Any:
        """Returns a prediction for each row: [B] float32; of C classes [B, C], for a list of ids a list of B arrays.

        rows: a pyarrow.Table or RecordBatch, a pandas.DataFrame, a dict of columns, or a list of dicts; other columns
        than the bundle's own are passed over. Raises RowError for a row that cannot be read.
        """
        return self._calibrated(self._run("tower", rows))

    def score_candidates(self, context: Any, candidates: Any) -> Any:
        """Returns a prediction for each candidate beside one row of context, as `score` does.

        context: a dict of values, or a table of one row. candidates: C rows of the columns in which they differ
        (`item_columns`, or others). What depends on the context alone is computed once. Raises RowError.
        """
        one = _Rows.of([context] if isinstance(context, Mapping) else context, self.columns)
        rows = _Rows.of(candidates, self.columns)
        if one.count != 1:
            raise RowError(f"the context is one row, found {one.count}")
        if not rows.count:
            return self._run("tower", [])
        own = {column for column in self.columns if rows.get(column) is not None}
        varying = {name for name, feature in self._features.items() if own.intersection(feature.columns)}
        cut = "candidate" in self._programs and varying.isdisjoint(self._programs["shared"].features)
        programs = [self._programs[name] for name in (("shared", "candidate") if cut else ("tower",))]
        names = dict.fromkeys(name for program in programs for name in program.features)
        shared = {name: self._features[name].read(one) for name in names if name not in varying}
        once = programs[0](shared, 1) if cut else ()

        def read(block: _Rows) -> Mapping[str, _Column]:
            return self._aligned(shared | {name: self._features[name].read(block) for name in names if name in varying})

        return self._calibrated(programs[-1].by_block(rows.beside(one), read, *once))

    def _run(self, program: str, rows: Any) -> Any:
        features = self._programs[program].features
        return self._programs[program].by_block(_Rows.of(rows, self.columns), partial(self._read, features))

    def _read(self, features: Iterable[str], rows: _Rows) -> dict[str, _Column]:
        return self._aligned({name: self._features[name].read(rows) for name in features})

    def read(self, rows: Any) -> dict[str, _Column]:
        """Returns what rows become: by feature its table rows or numbers. Raises RowError."""
        return self._read(self._features, _Rows.of(rows, self.columns))

    def _aligned(self, columns: dict[str, _Column]) -> dict[str, _Column]:
        """Returns the columns. Raises RowError where aligned lists are not equally long."""
        first: dict[str, tuple[str, np.ndarray]] = {}
        for name, column in columns.items():
            if (aligned := self._features[name].aligned) is not None and column.full is not None:
                other, full = first.setdefault(aligned, (name, column.full))
                _check_equal(column.full, full, name, f"found {{}} elements beside {{}} of {other!r}")
        return columns

    def _calibrated(self, scores: Any) -> Any:
        fit = self._calibration
        if fit is None:
            return scores
        if fit["method"] == "isotonic":
            return np.interp(scores, fit["x"], fit["y"]).astype(np.float32)
        p = np.clip(scores.astype(np.float64), 1e-12, 1 - 1e-12)
        return np.asarray(1 / (1 + np.exp(-fit["a"] * np.log(p / (1 - p)) - fit["b"])), np.float32)

    # ------------------------------------------------------------ items for users, where `retrieves`

    def user_vectors(self, rows: Any) -> np.ndarray:
        """Returns users' vectors, [B, D] float32, of rows with the user tower's columns. Raises RowError."""
        if not self.retrieves:
            raise ValueError(f"{self.folder}: this bundle makes no lists of items: {self.manifest['no_shared_space']}")
        return np.asarray(self._run("user", rows))

    def top_n(
        self, rows: Any, n: int, *, seen: Sequence[Sequence[Any]] | None = None
    ) -> tuple[list[list[Any]], np.ndarray]:
        """Returns for each row the n best items of the catalogue: their ids, best first, and scores [B, n] float32.

        seen: for each row the ids of items to leave out; unknown ones are passed over. Where fewer than n are left, ids
        are fewer and scores end in -inf. Raises RowError.
        """
        users = self.user_vectors(rows)
        if seen is not None and len(seen) != len(users):
            raise RowError(f"`seen` has lists for {len(seen)} rows, the rows are {len(users)}")
        return self._nearest(users, n, [[self._places[i] for i in ids if i in self._places] for ids in seen or ()])

    def similar(self, ids: Sequence[Any], n: int) -> tuple[list[list[Any]], np.ndarray]:
        """Returns for each item the n others of the largest cosines, as `top_n` does. Raises RowError."""
        self.user_vectors([])
        for row, item in enumerate(ids):
            if item not in self._places:
                raise RowError(f"found the item {item!r}, which is not in the catalogue", row)
        at = [self._places[item] for item in ids]
        vectors = self._items[at] / self._norms[at, None]
        return self._nearest(vectors.numpy(), n, [[i] for i in at], self._norms)

    def _nearest(
        self, queries: np.ndarray, n: int, left_out: Sequence[Sequence[int]], norms: Tensor | None = None
    ) -> tuple[list[list[Any]], np.ndarray]:
        """Returns the items of the largest products with queries [B, D], by blocks of items."""
        if n < 1:
            raise ValueError(f"found n = {n}, expected at least 1")
        best, at = torch.full((len(queries), 0), -torch.inf), torch.zeros((len(queries), 0), dtype=torch.int64)
        excluded = [(row, place) for row, places in enumerate(left_out) for place in places]
        row, place = torch.tensor(excluded, dtype=torch.int64).reshape(-1, 2).T
        for start in range(0, len(self._items), BLOCK_ITEMS):
            items = self._items[start : start + BLOCK_ITEMS]
            products = torch.from_numpy(queries) @ items.T
            if norms is not None:
                products /= norms[start : start + BLOCK_ITEMS]
            here = (place >= start) & (place < start + len(items))
            products[row[here], place[here] - start] = -torch.inf
            top, columns = products.topk(min(n, len(items)), dim=1)
            best, order = torch.cat([best, top], 1).sort(dim=1, descending=True, stable=True)
            best, at = best[:, :n], torch.cat([at, columns + start], 1).gather(1, order)[:, :n]
        counts = (best > -torch.inf).sum(1).tolist()
        found = [self._item_ids.take(pa.array(of[:c].numpy())).to_pylist() for of, c in zip(at, counts, strict=True)]
        scores = np.full((len(queries), n), -np.inf, np.float32)
        scores[:, : best.shape[1]] = best.numpy()
        return found, scores

    @cached_property
    def _items(self) -> Tensor:
        return torch.from_numpy(np.load(self.folder / "items.npy", mmap_mode="c"))  # never written

    @cached_property
    def _norms(self) -> Tensor:
        return self._items.norm(dim=1).clamp(min=1e-12)

    @cached_property
    def _item_ids(self) -> pa.Array:
        return pq.read_table(self.folder / "items.parquet").column(0).combine_chunks()

    @cached_property
    def _places(self) -> dict[Any, int]:
        return {item: place for place, item in enumerate(self._item_ids.to_pylist())}

    # ------------------------------------------------------------ files, each opened once

    def vectors(self, table: str, rows: np.ndarray) -> np.ndarray:
        """Returns a table's rows: [n] -> float32 [n, D]. Of int8 ones each has a scale and a bias."""
        spec = self.manifest["tables"][table]
        found = self._array(spec["file"])[rows]
        if spec["dtype"] != "int8":
            return found.astype(np.float32, copy=False)
        scale = found[:, spec["dim"] :].copy().view(np.float32)
        return found[:, : spec["dim"]].astype(np.float32) * scale[:, :1] + scale[:, 1:]

    def vocabulary(self, stem: str) -> _Lookup:
        """Returns the vocabulary of these files."""
        texts = self.folder / f"{stem}.arrow"
        known = pa.ipc.open_file(pa.memory_map(str(texts))).read_all()["value"] if texts.exists() else None
        return _Lookup(self._array(f"{stem}.keys.npy"), self._array(f"{stem}.rows.npy"), 0, known)

    def id_space(self, name: str) -> _Lookup:
        """Returns which rows of dynamic tables ids have."""
        spec = self.manifest["id_spaces"][name]
        return _Lookup(self._array(spec["ids"]), self._array(spec["rows"]), spec["default_row"])

    def _json(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.folder}: not a bundle: {error}") from None
        if not isinstance(found, dict):
            raise ValueError(f"{self.folder}: not a bundle: {name} holds no object")
        return found
