"""A bundle scores rows on its own: this one file needs Python, NumPy, pyarrow and torch alone.

It is part of every bundle that `shardrec export` writes, so that a service needs nothing that trained the model:

    from loader import Bundle

    bundle = Bundle("my-bundle")
    scores = bundle.score([{"user": "u7", "item": "i3", "price": 9.5}])

Rows are raw: strings and numbers as they were before preparation. Values that the model was not trained to read are
errors, `RowError`, that name row and feature; nothing is repaired silently.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

FORMAT = 1
ANY = "string or int64"  # the type of columns that are hashed: 7 and "7" are two ids
MISSING_RAW = -(2**63)
LARGEST_NUMBER = 1e15  # of a number after its transforms, or a weight
LONGEST = 1 << 16  # bytes of a string that is an id
MOST_COMBINATIONS = 1000  # of a row's crossed ids, where the cross has no max_length
BLOCK_ROWS = 4096  # rows that are scored at once
FEW = 4096  # values whose ids are looked for one by one, among those that were asked for before
REMEMBERED = 1 << 17  # values that a feature remembers the ids of


class RowError(ValueError):
    """A row cannot be read. `row` counts from 0, None where all rows are meant; `feature` is the one that reads it."""

    def __init__(self, message: str, row: int | None = None, feature: str | None = None) -> None:
        where = [] if row is None else [f"row {row}"]
        super().__init__(": ".join([*where, *([] if feature is None else [f"feature {feature!r}"]), message]))
        self.message, self.row, self.feature = message, row, feature


class _Bad(Exception):
    """The value at a place of an array is not allowed."""

    def __init__(self, at: int, found: object, expected: str) -> None:
        super().__init__(at)
        text = str(found)
        self.at, self.message = int(at), f"found {text[:80]}{'...' * (len(text) > 80)}, expected {expected}"


# ---------------------------------------------------------------- hashing: XXH64, of ints or of arrays of uint64

_M = (1 << 64) - 1
_P1, _P2, _P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P4, _P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_Word = Callable[[int], Any]  # offset in bytes -> the little-endian word there


def _rotate(x: Any, bits: int) -> Any:
    return (x << bits & _M) | (x >> 64 - bits)


def _round(state: Any, word: Any) -> Any:
    return _rotate(state + word * _P2 & _M, 31) * _P1 & _M


def _xxh64(length: int, seed: int, word: _Word, half: _Word | None = None, byte: _Word | None = None) -> Any:
    """Returns the hash of values of `length` bytes, each a number or an array of them."""
    state: Any = seed + _P5 & _M
    if length >= 32:
        lanes: list[Any] = [s & _M for s in (seed + _P1 + _P2, seed + _P2, seed, seed - _P1)]
        for start in range(0, length - 31, 32):
            lanes = [_round(lane, word(start + 8 * i)) for i, lane in enumerate(lanes)]
        state = 0
        for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True):
            state = state + _rotate(lane, bits) & _M
        for lane in lanes:
            state = ((state ^ _round(0, lane)) * _P1 & _M) + _P4 & _M
    state = state + length & _M
    at = length - length % 32
    while at + 8 <= length:
        state = (_rotate(state ^ _round(0, word(at)), 27) * _P1 & _M) + _P4 & _M
        at += 8
    if half is not None and at + 4 <= length:
        state = (_rotate(state ^ (half(at) * _P1 & _M), 23) * _P2 & _M) + _P3 & _M
        at += 4
    while byte is not None and at < length:
        state = _rotate(state ^ (byte(at) * _P5 & _M), 11) * _P1 & _M
        at += 1
    for shift, factor in ((33, _P2), (29, _P3)):
        state = (state ^ state >> shift) * factor & _M
    return state ^ state >> 32


def _hash_words(words: Sequence[np.ndarray], seed: int = 0) -> np.ndarray:
    """Returns the hashes of rows of k words: k arrays [n] -> [n] uint64."""
    columns = [np.ascontiguousarray(w, w.dtype if w.dtype == np.uint64 else np.int64).view(np.uint64) for w in words]
    return np.asarray(_xxh64(8 * len(columns), seed, lambda offset: columns[offset // 8]), np.uint64)


def _hash_bytes(value: bytes, seed: int = 0) -> int:
    def reader(width: int) -> _Word:
        return lambda at: int.from_bytes(value[at : at + width], "little")

    return int(_xxh64(len(value), seed, reader(8), reader(4), reader(1)))


def _hash_strings(values: pa.Array, seed: int = 0) -> np.ndarray:
    """Returns the hashes of strings by their UTF-8 bytes, each distinct one hashed once: [n] uint64."""
    coded = values.cast(pa.large_binary()).dictionary_encode()
    texts = coded.dictionary
    lengths = pc.binary_length(texts).to_numpy()
    if len(lengths) and lengths.max() > LONGEST:
        at = pc.index(coded.indices, int(lengths.argmax())).as_py()
        raise _Bad(at, f"a string of {lengths.max():,} bytes", f"an id of at most {LONGEST:,} bytes")
    found = np.zeros(len(texts) + 1, np.uint64)
    if len(texts) <= 64:
        found[:-1] = [_hash_bytes(text, seed) for text in texts.to_pylist()]
    else:
        starts = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts)]
        content = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
        for length in np.unique(lengths).tolist():
            some = np.flatnonzero(lengths == length)
            padded = np.zeros((len(some), -(-length // 8) * 8), np.uint8)
            padded[:, :length] = content[starts[some, None] + np.arange(length)]
            words, halves = padded.view("<u8"), padded.view("<u4")
            found[some] = _xxh64(
                length,
                seed,
                lambda at, words=words: words[:, at // 8],
                lambda at, halves=halves: halves[:, at // 4].astype(np.uint64),
                lambda at, padded=padded: padded[:, at].astype(np.uint64),
            )
    return found[coded.indices.fill_null(-1).to_numpy()]


# ---------------------------------------------------------------- columns of rows, as lists or Arrow arrays

_TYPES = {"string": pa.string(), "int64": pa.int64(), "uint64": pa.uint64(), "bool": pa.bool_()}
_TYPES |= {"float": pa.float32(), "double": pa.float64()}


def _kind(t: pa.DataType) -> str:
    """Returns what values of a type are: string, integer, bool, number or null."""
    p = pa.types
    if p.is_null(t) or p.is_boolean(t):
        return "null" if p.is_null(t) else "bool"
    if p.is_integer(t):
        return "integer"
    if p.is_floating(t) or p.is_decimal(t):
        return "number"
    strings = (p.is_string, p.is_large_string, p.is_binary, p.is_large_binary, p.is_string_view, p.is_binary_view)
    return "string" if any(test(t) for test in strings) else str(t)


def _is_list(t: pa.DataType) -> bool:
    p = pa.types
    return p.is_list(t) or p.is_large_list(t) or p.is_fixed_size_list(t) or p.is_list_view(t) or p.is_large_list_view(t)


def _plain(values: pa.Array, wanted: str) -> pa.Array:
    """Returns an array without dictionary, its numbers in the wanted type. Raises _Bad for values of another kind."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = _kind(values.type)
    if kind == "null":
        return pa.nulls(len(values), _TYPES.get(wanted, pa.string()))
    if wanted == ANY:
        right = kind in ("string", "integer", "bool")
    elif wanted == "string":
        right = kind == "string"
    else:
        right = kind in ("integer", "number", "bool")
    if right and wanted in ("int64", "uint64") and kind == "number":  # how pandas holds integers with nulls
        numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
        whole = np.isnan(numbers) | (numbers == np.floor(numbers))
        if not whole.all():
            raise _Bad(whole.argmin(), numbers[whole.argmin()], "an integer")
        return pa.array(numbers, from_pandas=True).cast(_TYPES[wanted])
    if not right or (wanted in ("int64", "uint64", "bool") and (kind == "bool") != (wanted == "bool")):
        raise _Bad(0, f"values of type {values.type}", wanted)
    if kind == "number" or wanted in ("float", "double"):
        return values if values.type == _TYPES[wanted] else values.cast(pa.float64()).cast(_TYPES[wanted])
    return values


def _arrow(values: Any, wanted: str) -> pa.Array:
    """Returns Python values as an Arrow array. Raises _Bad for the first one of another type."""
    many = wanted.startswith("list<")
    inner = _TYPES.get(wanted[5:-1] if many else wanted)
    kind = None if inner is None else pa.list_(inner) if many else inner
    try:
        return pa.array(values, kind, from_pandas=True)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        for at, value in enumerate(values):
            try:
                pa.array([value], kind, from_pandas=True)
            except (pa.ArrowException, OverflowError, TypeError, ValueError):
                raise _Bad(at, repr(value), wanted) from None
        raise _Bad(0, "values of several types", f"all {wanted}") from None  # ANY, of 7 and "7"


class _Rows:
    """Rows of a table, a frame, columns or dictionaries, by column: lists of Python values, or Arrow arrays."""

    def __init__(self, rows: Any, known: Mapping[str, str]) -> None:
        if isinstance(rows, Mapping) and hasattr(rows, "keys"):
            self.columns: Any = rows
            self.count = len(next(iter(rows.values()))) if rows else 0
            if any(len(values) != self.count for values in rows.values()):
                raise RowError(f"columns of unequal length: { {k: len(v) for k, v in rows.items()} }")
            self.get = rows.get
        elif isinstance(rows, pa.Table | pa.RecordBatch):
            self.count, self.get = rows.num_rows, self._of_table(rows)
        elif hasattr(rows, "columns") and hasattr(rows, "iloc"):  # a pandas.DataFrame
            table = pa.Table.from_pandas(rows[[c for c in rows.columns if c in known]], preserve_index=False)
            self.count, self.get = table.num_rows, self._of_table(table)
        else:
            dicts = list(rows)
            if not all(isinstance(row, Mapping) for row in dicts):
                raise RowError("rows are a pyarrow.Table, a pandas.DataFrame, a dict of columns, or a list of dicts")
            names = set().union(*dicts)
            self.count, self.get = len(dicts), lambda name: [d.get(name) for d in dicts] if name in names else None

    @staticmethod
    def _of_table(table: Any) -> Callable[[str], Any]:
        names = set(table.column_names)

        def column(name: str) -> Any:
            if name not in names:
                return None
            values = table.column(name)
            if isinstance(values, pa.ChunkedArray):
                values = values.chunk(0) if values.num_chunks == 1 else values.combine_chunks()
            return values

        return column


class _Lists(NamedTuple):
    """Lists are flat `values`, of which row i has `lengths[i]` from `starts[i]` on."""

    values: pa.Array
    starts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, lists: pa.Array) -> "_Lists":
        t, p = lists.type, pa.types
        if p.is_null(t):
            return cls(pa.nulls(0), np.zeros(len(lists), np.int64), np.zeros(len(lists), np.int64))
        if not _is_list(t):
            raise _Bad(0, f"values of type {t}", "lists")
        if p.is_fixed_size_list(t):
            starts = (lists.offset + np.arange(len(lists), dtype=np.int64)) * t.list_size
            lengths = np.full(len(lists), t.list_size, np.int64)
        elif p.is_list_view(t) or p.is_large_list_view(t):
            starts, lengths = (x.to_numpy().astype(np.int64) for x in (lists.offsets, lists.sizes))
        else:
            offsets = lists.offsets.to_numpy().astype(np.int64)
            starts, lengths = offsets[:-1], np.diff(offsets)
        if lists.null_count:
            lengths = np.where(lists.is_valid().to_numpy(zero_copy_only=False), lengths, 0)
        return cls(lists.values, starts, lengths)

    def last(self, most: int | None) -> "_Lists":
        kept = self.lengths if most is None else np.minimum(self.lengths, most)
        return _Lists(self.values, self.starts + self.lengths - kept, kept)

    def flat(self) -> pa.Array:
        return self.values.take(pa.array(_places(self.starts, self.lengths)))


def _places(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns starts[i], starts[i] + 1, ... of every row in turn."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))


def _row_of(lengths: np.ndarray | None, at: int) -> int:
    return at if lengths is None else int(np.searchsorted(np.cumsum(lengths), at, side="right"))


# ---------------------------------------------------------------- values become table rows and numbers


class _Column(NamedTuple):
    """A column is one feature of n rows: `values`, of which each row has one, or `lengths` of them.

    weights: float32 beside the values. full: lengths before the last `max_length` were taken.
    """

    values: np.ndarray
    lengths: np.ndarray | None = None
    weights: np.ndarray | None = None
    full: np.ndarray | None = None


class _Vocabulary:
    """A vocabulary is looked up by binary search over sorted keys; strings are compared afterwards."""

    def __init__(self, stem: Path, strings: bool) -> None:
        self.keys, self.rows = (np.load(f"{stem}.{name}.npy", mmap_mode="r") for name in ("keys", "rows"))
        self.values = pa.ipc.open_file(pa.memory_map(f"{stem}.arrow")).read_all().column(0) if strings else None

    def __call__(self, values: pa.Array) -> np.ndarray:
        if self.values is None:
            return self._found(values.fill_null(0).cast(pa.int64()).to_numpy())[0]
        coded = values.cast(pa.large_binary()).dictionary_encode()
        rows, place = self._found(_hash_strings(coded.dictionary))
        if len(self.keys):
            rows = np.where(pc.equal(self.values.take(pa.array(place)), coded.dictionary).to_numpy(), rows, 0)
        return np.append(rows, 0)[coded.indices.fill_null(-1).to_numpy()]

    def _found(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not len(self.keys):
            return np.zeros(len(keys), np.int64), keys
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, self.rows[place], 0), place


class _IdSpace:
    """The ids of dynamic tables have rows; those that have none have the default row."""

    def __init__(self, folder: Path, spec: Mapping[str, Any]) -> None:
        self.ids, self.rows = (np.load(folder / spec[name], mmap_mode="r") for name in ("ids", "rows"))
        self.default = spec["default_row"]

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        if not len(self.ids):
            return np.full(len(ids), self.default)
        place = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[place] == ids, self.rows[place], self.default)


class _Ids:
    """Values of a column, or of several that are crossed, become rows as a feature's `ids` says."""

    def __init__(self, spec: Mapping[str, Any], types: Mapping[str, str], bundle: "Bundle") -> None:
        self.ids, self.missing = spec["ids"], spec["missing"]
        self.kind, self.wanted = self.ids["kind"], [_inner(types[c]) for c in spec["columns"][: spec["crossed"]]]
        self.lookup = bundle.vocabulary(self.ids) if self.kind == "vocabulary" else None
        self.boundaries = np.array(self.ids.get("boundaries", ()))
        self.space = bundle.id_space(spec["space"]) if spec.get("space") else None
        self.known: dict[Any, int] = {}
        plain = {"string": [{str}], "int64": [{int}], ANY: [{str}, {int}]}.get(self.wanted[0], [])
        nothing = set() if self.missing is None else {type(None)}
        self.remembered = [kinds | nothing for kinds in plain] if len(self.wanted) == 1 else []

    def __call__(self, columns: Sequence[Any]) -> np.ndarray:
        """Returns the rows of n values: [n] int64. Raises _Bad for one that has none."""
        values = columns[0]
        if not isinstance(values, list) or len(values) > FEW:
            return self._read(columns)
        kinds = set(map(type, values))
        if not any(kinds <= some for some in self.remembered):
            return self._read(columns)
        known = self.known
        try:
            return np.array([known[v] for v in values], np.int64)
        except KeyError:
            rows = self._read(columns)
        if len(known) > REMEMBERED:
            known.clear()
        known.update(zip(values, rows.tolist(), strict=True))
        return rows

    def _read(self, columns: Sequence[Any]) -> np.ndarray:
        arrays = [
            _plain(c if isinstance(c, pa.Array) else _arrow(c, wanted), wanted)
            for c, wanted in zip(columns, self.wanted, strict=True)
        ]
        rows = self._rows(arrays)
        for array in arrays:
            if not (array.null_count or _kind(array.type) == "number"):
                continue
            missing = np.asarray(pc.is_null(array, nan_is_null=True))
            if missing.any() and self.missing is None:
                raise _Bad(missing.argmax(), "nothing", "an id")
            rows = np.where(missing, self.missing, rows)
        return rows if self.space is None else self.space(rows)

    def _rows(self, arrays: list[pa.Array]) -> np.ndarray:
        if self.kind == "hash":
            return (_hash(arrays[0], self.ids["seed"]) % np.uint64(self.ids["num_ids"])).astype(np.int64)
        if self.kind == "cross":
            hashes = _hash_words([_hash(array) for array in arrays], self.ids["seed"])
            return (hashes % np.uint64(self.ids["num_ids"])).astype(np.int64)
        if self.lookup is not None:
            return self.lookup(arrays[0])
        if self.kind == "bucketize":
            return np.searchsorted(self.boundaries, _floats(arrays[0]), side="right").astype(np.int64)
        if self.kind == "raw":
            strings = _kind(arrays[0].type) == "string"
            return _hash_strings(arrays[0]).view(np.int64) if strings else _integers(arrays[0])
        rows = _integers(arrays[0])
        wrong = (rows < 0) | (rows >= self.ids["num_ids"])
        if wrong.any():
            raise _Bad(wrong.argmax(), rows[wrong.argmax()], f"an id in [0, {self.ids['num_ids']})")
        return rows


def _integers(array: pa.Array) -> np.ndarray:
    return array.fill_null(0).to_numpy().astype(np.int64)


def _floats(array: pa.Array) -> np.ndarray:
    """Returns numbers as they are compared: [n], NaN where nothing is known."""
    return array.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _hash(array: pa.Array, seed: int = 0) -> np.ndarray:
    if _kind(array.type) == "string":
        return _hash_strings(array, seed)
    if _kind(array.type) == "bool":
        array = array.cast(pa.int8())
    return _hash_words([_integers(array)], seed)


def _inner(kind: str) -> str:
    kind = kind.removesuffix("?")
    return kind[5:-1] if kind.startswith("list<") else kind


class _Numbers:
    """Values of a column become float32 numbers."""

    def __init__(self, spec: Mapping[str, Any], types: Mapping[str, str]) -> None:
        self.wanted, self.steps, self.fill = _inner(types[spec["columns"][0]]), spec["steps"], spec["fill"]
        if self.fill is not None and self.wanted == "float":
            self.fill = float(np.float32(self.fill))

    def __call__(self, values: Any) -> np.ndarray:
        """Returns [n] float32. Raises _Bad for what is no finite number of a magnitude that the model can take."""
        if isinstance(values, list) and {float, int, type(None)}.issuperset(map(type, values)):
            try:
                raw = np.array(values, np.float64)
            except OverflowError:
                raise _Bad(0, "an integer that is too large", "a number") from None
            raw = raw.astype(np.float32).astype(np.float64) if self.wanted == "float" else raw
        else:
            raw = _floats(_plain(values if isinstance(values, pa.Array) else _arrow(values, self.wanted), self.wanted))
        numbers = raw
        if self.fill is not None:
            numbers = np.where(np.isnan(raw), self.fill, raw)
        for name, *settings in self.steps:
            if name == "log":
                numbers = np.copysign(np.log1p(np.abs(numbers)), numbers)
            elif name == "standardise":
                numbers = (numbers - settings[0]) / settings[1]
            elif settings != [None, None]:
                numbers = np.clip(numbers, *settings)
        with np.errstate(over="ignore"):
            found = numbers.astype(np.float32)
        if len(found) and not (found.min() >= -LARGEST_NUMBER and found.max() <= LARGEST_NUMBER):
            at = (np.abs(found) <= LARGEST_NUMBER).argmin()
            nothing = np.isnan(raw[at])
            expected = "a number" if nothing else f"a finite number of magnitude {LARGEST_NUMBER:g} at most"
            raise _Bad(at, "nothing" if nothing else raw[at], expected)
        return found


class _Feature:
    """A feature reads its columns of rows."""

    def __init__(self, spec: Mapping[str, Any], types: Mapping[str, str], bundle: "Bundle") -> None:
        self.spec, self.types = spec, types
        self.name, self.kind, self.columns = spec["name"], spec["kind"], spec["columns"]
        self.most, self.aligned, self.weights = spec.get("max_length"), spec.get("aligned"), spec.get("weights")
        self.parts = [_Feature(part, types, bundle) for part in spec.get("parts", ())]
        self.numbers = _Numbers(spec, types) if self.kind.startswith("dense") else None
        self.ids = None if self.parts or self.numbers else _Ids(spec, types, bundle)
        self.space = bundle.id_space(spec["space"]) if self.parts and spec.get("space") else None

    def read(self, rows: _Rows) -> _Column:
        """Returns the feature's column. Raises RowError."""
        if self.parts:
            return self._crossed(rows)
        read: Any = self.numbers or (lambda flat: self.ids([flat]))
        if self.kind == "id" and len(self.columns) > 1:
            return _Column(self._guarded(self.ids, [self._values(rows, c) for c in self.columns]))
        if self.kind in ("id", "dense"):
            return _Column(self._guarded(read, self._values(rows, self.columns[0])))
        if self.spec["crossed"] > 1:
            return self._of_columns(rows)
        values = self._values(rows, self.columns[0])
        if isinstance(values, list) and {list, type(None)}.issuperset(map(type, values)):
            full = np.array([0 if v is None else len(v) for v in values], np.int64)
            most = self.most or 1 << 31
            flat: Any = [x for v in values if v for x in v[-most:]]
            kept = np.minimum(full, most)
        else:
            lists = self._guarded(_Lists.of, self._lists(values, self.columns[0]))
            full, lists = lists.lengths, lists.last(self.most)
            flat, kept = lists.flat(), lists.lengths
        found = self._guarded(read, flat, lengths=kept)
        return _Column(found, kept, self._weights(rows, full) if self.weights else None, full)

    def _values(self, rows: _Rows, column: str) -> Any:
        values = rows.get(column)
        if values is None:
            if not self.types[column].endswith("?"):
                raise RowError(f"there is no column {column!r}", None, self.name)
            values = [None] * rows.count
        return values.tolist() if isinstance(values, np.ndarray) else values

    def _lists(self, values: Any, column: str) -> pa.Array:
        if isinstance(values, pa.Array):
            return values
        return self._guarded(lambda v: _arrow(v, self.types[column].removesuffix("?")), values)

    def _guarded(self, read: Callable[[Any], Any], values: Any, *, lengths: np.ndarray | None = None) -> Any:
        try:
            return read(values)
        except _Bad as bad:
            raise RowError(bad.message, _row_of(lengths, bad.at), self.name) from None

    def _weights(self, rows: _Rows, full: np.ndarray) -> np.ndarray:
        lists = self._guarded(_Lists.of, self._lists(self._values(rows, self.weights), self.weights))
        differ = np.flatnonzero(lists.lengths != full)
        if len(differ):
            at = int(differ[0])
            raise RowError(f"found {lists.lengths[at]} weights, expected as many as ids: {full[at]}", at, self.name)
        lists = lists.last(self.most)
        weights = _floats(self._guarded(lambda v: _plain(v, "double"), lists.flat(), lengths=lists.lengths))
        wrong = np.flatnonzero(~(np.abs(weights) <= LARGEST_NUMBER))
        if len(wrong):
            message = (
                f"found a weight {weights[wrong[0]]}, expected finite ones of magnitude {LARGEST_NUMBER:g} at most"
            )
            raise RowError(message, _row_of(lists.lengths, int(wrong[0])), self.name)
        return weights.astype(np.float32)

    # ------------------------------------------------------------ crosses

    def _crossed(self, rows: _Rows) -> _Column:
        """Crosses the ids of other features: all combinations of one id of each."""
        parts = [part.read(rows) for part in self.parts]
        words, num_ids = [_hash_words([part.values]) for part in parts], np.uint64(self.spec["ids"]["num_ids"])
        if self.kind == "id":
            return _Column(self._placed((_hash_words(words) % num_ids).astype(np.int64)))
        each = [np.ones(rows.count, np.int64) if p.lengths is None else p.lengths for p in parts]
        places, lengths = self._combined(each)
        found = (_hash_words([w[at] for w, at in zip(words, places, strict=True)]) % num_ids).astype(np.int64)
        weighted = [p.weights[at] for p, at in zip(parts, places, strict=True) if p.weights is not None]
        weights = None
        if weighted:
            products = np.prod(np.stack(weighted), axis=0, dtype=np.float64)
            if not (np.abs(products) <= LARGEST_NUMBER).all():
                at = int((np.abs(products) <= LARGEST_NUMBER).argmin())
                raise RowError(f"multiplies weights to {products[at]:g}", _row_of(lengths, at), self.name)
            weights = products.astype(np.float32)
        return _Column(self._placed(found), lengths, weights, lengths)

    def _placed(self, ids: np.ndarray) -> np.ndarray:
        return ids if self.space is None else self.space(ids)

    def _of_columns(self, rows: _Rows) -> _Column:
        """Crosses columns of which some are lists: all combinations of one value of each."""
        flat, each = [], []
        for column in self.columns:
            values = self._lists(self._values(rows, column), column)
            if _is_list(values.type):
                lists = _Lists.of(values)
                flat.append(lists.flat())
                each.append(lists.lengths)
            else:
                flat.append(values)
                each.append(np.ones(rows.count, np.int64))
        places, lengths = self._combined(each)
        taken = [values.take(pa.array(at)) for values, at in zip(flat, places, strict=True)]
        return _Column(self._guarded(self.ids, taken, lengths=lengths), lengths, None, lengths)

    def _combined(self, each: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
        """Returns which element of each list makes each combination, the last list's fastest; and their lengths."""
        most = self.most or MOST_COMBINATIONS + 1
        lengths = np.ones(len(each[0]), np.int64)
        for of_list in each:
            lengths = np.minimum(lengths * of_list, most)
        if self.most is None and (lengths > MOST_COMBINATIONS).any():
            at = int((lengths > MOST_COMBINATIONS).argmax())
            raise RowError(f"found more than {MOST_COMBINATIONS:,} combinations of its ids", at, self.name)
        from_end = np.repeat(lengths, lengths) - 1 - _places(np.zeros(len(lengths), np.int64), lengths)
        places = []
        for of_list in reversed(each):
            length = np.repeat(of_list, lengths)
            places.append(np.repeat(np.cumsum(of_list) - 1, lengths) - from_end % length)
            from_end = from_end // length
        return places[::-1], lengths


# ---------------------------------------------------------------- tables and programs


class _Table:
    """A table's rows lie in a file that is mapped, not read: float32, float16, or bytes with a scale and a bias a row."""

    def __init__(self, folder: Path, spec: Mapping[str, Any]) -> None:
        self.dim, self.dtype = spec["dim"], spec["dtype"]
        self.array = np.load(folder / spec["file"], mmap_mode="r").view(np.ndarray)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Returns float32 [n, D]."""
        found = self.array[ids]
        if self.dtype != "int8":
            return found if self.dtype == "fp32" else found.astype(np.float32)
        scale = found[:, self.dim :].copy().view(np.float32)
        return found[:, : self.dim].astype(np.float32) * scale[:, :1] + scale[:, 1:]


class _Program:
    """An exported program, and the inputs that it takes."""

    def __init__(self, bundle: "Bundle", spec: Mapping[str, Any]) -> None:
        self.inputs = spec["inputs"]
        self.features = list(dict.fromkeys(name for i in self.inputs for name in i["features"] + i.get("dense", [])))
        self._path, self._bundle = bundle.folder / spec["file"], bundle

    @cached_property
    def module(self) -> Any:
        return torch.export.load(str(self._path)).module()

    @torch.no_grad()
    def __call__(self, columns: Mapping[str, _Column], count: int, *more: Tensor) -> Any:
        """Runs the program on `count` rows; columns of one row are every row's."""
        return self.module(*(t for spec in self.inputs for t in self._tensors(spec, columns, count)), *more)

    def _tensors(self, spec: Mapping[str, Any], columns: Mapping[str, _Column], count: int) -> Iterator[Tensor]:
        if spec["kind"] == "dense":
            out = np.empty((count, len(spec["features"])), np.float32)
            for i, name in enumerate(spec["features"]):
                out[:, i] = columns[name].values
            yield torch.from_numpy(out)
        elif spec["kind"] == "pooled":
            yield torch.from_numpy(self._pooled(spec, columns, count))
        else:
            yield from self._sequence(spec, columns, count)

    def _pooled(self, spec: Mapping[str, Any], columns: Mapping[str, _Column], count: int) -> np.ndarray:
        tables = [self._bundle.table(name) for name in spec["tables"]]
        width = sum(table.dim for table in tables)
        out, start = np.empty((count, width), np.float32), 0
        for name, table, mean in zip(spec["features"], tables, spec["mean"], strict=True):
            column = columns[name]
            vectors = table.rows(column.values)
            if column.lengths is not None:
                vectors = _pooled(vectors, column, mean)
            out[:, start : start + table.dim] = vectors
            start += table.dim
        return out if spec["concat"] else out.reshape(count, len(tables), -1)

    def _sequence(self, spec: Mapping[str, Any], columns: Mapping[str, _Column], count: int) -> Iterator[Tensor]:
        first = columns[spec["features"][0]]
        assert first.lengths is not None
        longest = spec.get("length") or max(1, int(first.lengths.max(initial=0)))
        rows = np.repeat(np.arange(len(first.lengths)), first.lengths)
        at = (rows, _places(np.zeros(len(first.lengths), np.int64), first.lengths))

        def padded(*values: np.ndarray) -> Tensor:
            out = np.zeros((len(first.lengths), longest, len(values), *values[0].shape[1:]), np.float32)
            for i, of_feature in enumerate(values):
                out[*at, i] = of_feature
            return torch.from_numpy(out)

        tables = [self._bundle.table(name) for name in spec["tables"]]
        vectors = [t.rows(columns[f].values) for f, t in zip(spec["features"], tables, strict=True)]
        tensors = [padded(*vectors), torch.from_numpy(first.lengths)]
        if spec.get("weighted"):
            assert first.weights is not None
            tensors.append(padded(first.weights)[:, :, 0])
        if spec.get("dense"):
            tensors.append(padded(*(columns[name].values for name in spec["dense"])))
        for tensor in tensors:
            yield tensor if len(tensor) == count else tensor.expand(count, *tensor.shape[1:]).contiguous()


def _pooled(vectors: np.ndarray, column: _Column, mean: bool) -> np.ndarray:
    """Sums (or averages) the vectors of each row's ids: [T, D] -> [n, D]."""
    assert column.lengths is not None
    row = torch.from_numpy(np.repeat(np.arange(len(column.lengths)), column.lengths))
    if column.weights is not None:
        vectors = vectors * column.weights[:, None]
    out = torch.zeros(len(column.lengths), vectors.shape[1]).index_add_(0, row, torch.from_numpy(vectors))
    if mean:
        total = torch.from_numpy(column.lengths).float()
        if column.weights is not None:
            total = torch.zeros(len(out)).index_add_(0, row, torch.from_numpy(column.weights))
        out *= torch.where(total == 0, 0.0, 1 / torch.where(total == 0, 1.0, total))[:, None]
    return out.numpy()


class Bundle:
    """A bundle scores raw rows. It opens at once, whatever its tables' sizes: they are mapped into memory.

    manifest: what `bundle.json` says. columns: the raw columns that rows have, each with the Arrow type it is read as,
    and a `?` where it may be missing. item_columns, context_columns: those that describe the candidate item, and the
    others.
    """

    def __init__(self, folder: str | os.PathLike[str], *, threads: int | None = None, prepared: bool = False) -> None:
        """Opens a bundle's folder.

        threads: of torch in this process; None: as it is. prepared: rows are as `shardrec prepare` wrote them, where
        ids are numbers, and not as they were before. Raises ValueError for a folder that is no bundle.
        """
        self.folder = Path(folder)
        try:
            self.manifest: dict[str, Any] = json.loads((self.folder / "bundle.json").read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.folder}: not a bundle: {error}") from None
        if self.manifest.get("format") != FORMAT:
            found = self.manifest.get("format")
            raise ValueError(f"{self.folder}: a bundle of format {found}, where this loader reads format {FORMAT}")
        if threads is not None:
            torch.set_num_threads(threads)
        self._opened: dict[Any, Any] = {}
        rows = self.manifest["prepared" if prepared else "raw"]
        self.columns: dict[str, str] = rows["columns"]
        self.item_columns: list[str] = rows["item_columns"]
        self.context_columns = [c for c in self.columns if c not in self.item_columns]
        self._features = {spec["name"]: _Feature(spec, self.columns, self) for spec in rows["features"]}
        self._programs = {name: _Program(self, spec) for name, spec in self.manifest["programs"].items()}
        self._calibration = self.manifest.get("calibration")
        self.retrieves = "user" in self._programs

    # ------------------------------------------------------------ scores

    def score(self, rows: Any) -> np.ndarray:
        """Returns a prediction for each row: [B] float32.

        rows: a pyarrow.Table or RecordBatch, a pandas.DataFrame, a dict of columns, or a list of dicts; other columns
        than the bundle's own are passed over. Raises RowError for a row that cannot be read.
        """
        return self._calibrated(self._run("tower", _Rows(rows, self.columns)))

    def score_candidates(self, context: Any, candidates: Any) -> np.ndarray:
        """Returns a prediction for each candidate beside one row of context: [C] float32.

        context: a dict of values, or a table of one row. candidates: C rows of the columns that differ between them
        (`item_columns`, and any others). What depends on the context alone is computed once. Raises RowError.
        """
        if isinstance(context, Mapping):
            context = [context]
        shared, rows = _Rows(context, self.columns), _Rows(candidates, self.columns)
        if shared.count != 1:
            raise RowError(f"the context is one row, found {shared.count}")
        own = {column for column in self.columns if rows.get(column) is not None}
        both = _Beside(rows, shared)
        names = self._programs["tower"].features
        read = {
            n: self._features[n].read(both if own.intersection(self._features[n].columns) else shared) for n in names
        }
        self._check_aligned(read)
        return self._calibrated(self._programs["tower"](read, rows.count).numpy())

    def _run(self, program: str, rows: _Rows) -> np.ndarray:
        names = self._programs[program].features
        columns = {name: self._features[name].read(rows) for name in names}
        self._check_aligned(columns)
        return np.asarray(self._programs[program](columns, rows.count))

    def _check_aligned(self, columns: Mapping[str, _Column]) -> None:
        first: dict[str, tuple[str, np.ndarray]] = {}
        for name, column in columns.items():
            if self._features[name].aligned is None or column.full is None:
                continue
            other, full = first.setdefault(self._features[name].aligned, (name, column.full))
            differ = np.flatnonzero(full != column.full)
            if len(differ):
                at = int(differ[0])
                raise RowError(f"found {column.full[at]} elements beside {full[at]} of {other!r}", at, name)

    def _calibrated(self, scores: np.ndarray) -> np.ndarray:
        fit = self._calibration
        if fit is None:
            return scores
        if fit["method"] == "isotonic":
            return np.interp(scores, fit["x"], fit["y"]).astype(np.float32)
        p = np.clip(scores.astype(np.float64), 1e-12, 1 - 1e-12)
        return (1 / (1 + np.exp(-(fit["a"] * np.log(p / (1 - p)) + fit["b"])))).astype(np.float32)

    # ------------------------------------------------------------ files

    def table(self, name: str) -> _Table:
        """Returns a table, opened once."""
        return self._once(("table", name), lambda: _Table(self.folder, self.manifest["tables"][name]))

    def vocabulary(self, ids: Mapping[str, Any]) -> _Vocabulary:
        """Returns a vocabulary, opened once."""
        return self._once(("vocabulary", ids["file"]), lambda: _Vocabulary(self.folder / ids["file"], ids["strings"]))

    def id_space(self, name: str) -> _IdSpace:
        """Returns which rows of dynamic tables ids have, opened once."""
        return self._once(("space", name), lambda: _IdSpace(self.folder, self.manifest["id_spaces"][name]))

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._opened:
            self._opened[key] = make()
        return self._opened[key]


class _Beside:
    """Candidate rows beside a row of context, whose columns they have where they lack them."""

    def __init__(self, rows: _Rows, shared: _Rows) -> None:
        self._rows, self._shared, self.count = rows, shared, rows.count

    def get(self, name: str) -> Any:
        values = self._rows.get(name)
        if values is not None or (values := self._shared.get(name)) is None:
            return values
        if isinstance(values, pa.Array):
            return values.take(pa.array(np.zeros(self.count, np.int64)))
        return list(values) * self.count
