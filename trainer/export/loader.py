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
from functools import cached_property, partial
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
FEW = 4096  # values whose ids are looked for one by one, among those that were asked for before
REMEMBERED = 1 << 17  # values that a feature remembers the ids of


class RowError(ValueError):
    """A row cannot be read. `row` counts from 0, None where all rows are meant; `feature` is the one that reads it."""

    def __init__(self, message: str, row: int | None = None, feature: str | None = None) -> None:
        where = [] if row is None else [f"row {row}"]
        super().__init__(": ".join([*where, *([] if feature is None else [f"feature {feature!r}"]), message]))
        self.message, self.row, self.feature = message, row, feature


class _BadValueError(Exception):
    """The value at a place of an array is not allowed."""

    def __init__(self, at: Any, found: object, expected: str) -> None:
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


def _columns(units: np.ndarray, width: int, at: int) -> np.ndarray:
    return units[:, at // width].astype(np.uint64)


def _hash_strings(values: pa.Array, seed: int = 0) -> np.ndarray:
    """Returns the hashes of strings by their UTF-8 bytes, each distinct one hashed once: [n] uint64."""
    coded = values.cast(pa.large_binary()).dictionary_encode()
    texts = coded.dictionary
    lengths = pc.binary_length(texts).to_numpy()
    if len(lengths) and lengths.max() > LONGEST:
        at = pc.index(coded.indices, int(lengths.argmax())).as_py()
        raise _BadValueError(at, f"a string of {lengths.max():,} bytes", f"an id of at most {LONGEST:,} bytes")
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
                length, seed, *(partial(_columns, unit, unit.itemsize) for unit in (words, halves, padded))
            )
    return found[coded.indices.fill_null(-1).to_numpy()]


# ---------------------------------------------------------------- columns of rows, as lists or Arrow arrays

_TYPES = {"string": pa.string(), "int64": pa.int64(), "uint64": pa.uint64(), "bool": pa.bool_()}
_TYPES |= {"float": pa.float32(), "double": pa.float64()}
_READ = {"string": {"string"}, "int64": {"integer", "number"}, "bool": {"bool"}, ANY: {"string", "integer", "bool"}}
_READ |= {"uint64": _READ["int64"], "float": {"integer", "number", "bool"}, "double": {"integer", "number", "bool"}}
_NUMBERS = {float, type(None)}
_REFUSED = (pa.ArrowException, OverflowError, TypeError, ValueError)


def _kind(t: pa.DataType) -> str:
    """Returns what values of a type are: string, integer, bool, number, null, or the type's name."""
    p = pa.types
    if p.is_integer(t):
        return "integer"
    if p.is_floating(t) or p.is_decimal(t):
        return "number"
    name = str(t).removeprefix("large_").removesuffix("_view")
    return "string" if name == "binary" else name


def _plain(values: pa.Array, wanted: str) -> pa.Array:
    """Returns an array without dictionary, numbers in the wanted type. Raises _BadValueError for another kind."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = _kind(values.type)
    if kind == "null":
        return pa.nulls(len(values), _TYPES.get(wanted, pa.string()))
    if kind not in _READ[wanted]:
        raise _BadValueError(0, f"values of type {values.type}", wanted)
    if wanted in ("float", "double"):
        return values if values.type == _TYPES[wanted] else values.cast(pa.float64()).cast(_TYPES[wanted])
    if kind == "number":  # how pandas holds integers with nulls
        numbers = _floats(values)
        if (broken := np.isfinite(numbers) != (numbers == np.floor(numbers))).any():
            raise _BadValueError(broken.argmax(), numbers[broken.argmax()], "an integer")
        return pa.array(numbers, from_pandas=True).cast(_TYPES[wanted])
    return values


def _arrow(values: Any, wanted: str) -> pa.Array:
    """Returns Python values as an Arrow array. Raises _BadValueError for the first one of another type."""
    inner = _TYPES.get(wanted.removeprefix("list<").removesuffix(">"))
    kind = pa.list_(inner) if inner is not None and wanted.startswith("list<") else inner
    if inner is not None and pa.types.is_integer(inner):
        _check_whole(values)
    try:
        return pa.array(values, kind, from_pandas=True)
    except _REFUSED:
        for at, value in enumerate(values):
            try:
                pa.array([value], kind, from_pandas=True)
            except _REFUSED:
                raise _BadValueError(at, repr(value), wanted) from None
        raise _BadValueError(0, "values of several types", "those of one") from None  # 7 and "7" where either may be


def _check_whole(values: Any) -> None:
    """Refuses fractions among Python values that are to be integers: Arrow would cut them off without a word."""
    if not isinstance(values, list) or {int, type(None)}.issuperset(map(type, values)):
        return
    for at, value in enumerate(values):
        for one in value if isinstance(value, list | tuple | np.ndarray) else (value,):
            if isinstance(one, float | np.floating) and np.isfinite(one) and one != np.floor(one):
                raise _BadValueError(at, one, "an integer")


def _floats(array: pa.Array) -> np.ndarray:
    """Returns [n] float64, NaN where nothing is known."""
    return np.asarray(array.cast(pa.float64()).to_numpy(zero_copy_only=False))


def _integers(array: pa.Array) -> np.ndarray:
    return array.fill_null(0).to_numpy().astype(np.int64)


class _Rows:
    """Rows are read by column: `get` returns Python values in a list, an Arrow array, or None for no column."""

    get: Callable[[str], Any]

    def __init__(self, rows: Any, known: Mapping[str, str]) -> None:
        if hasattr(rows, "iloc"):  # a pandas.DataFrame
            rows = pa.Table.from_pandas(rows[[c for c in rows.columns if c in known]], preserve_index=False)
        if isinstance(rows, Mapping):
            lengths = {name: len(values) for name, values in rows.items() if name in known}
            self.count, self.get = max(lengths.values(), default=0), lambda name: _whole(rows.get(name))
            if any(length != self.count for length in lengths.values()):
                raise RowError(f"columns are not equally long: {lengths}")
        elif isinstance(rows, pa.Table | pa.RecordBatch):
            names, self.count = set(rows.column_names), rows.num_rows
            self.get = lambda name: _whole(rows.column(name)) if name in names else None
        elif isinstance(rows, list | tuple) and all(isinstance(row, Mapping) for row in rows):
            self.count = len(rows)
            self.get = lambda name: [r.get(name) for r in rows] if any(name in r for r in rows) else None
        else:
            raise RowError("rows are a pyarrow.Table, a pandas.DataFrame, a dict of columns, or a list of dicts")


class _Beside:
    """Candidates beside one row of context, which has the columns that they lack."""

    def __init__(self, rows: _Rows, context: _Rows) -> None:
        self._rows, self._context, self.count = rows, context, rows.count

    def get(self, name: str) -> Any:
        values = self._rows.get(name)
        if values is not None:
            return values
        values = self._context.get(name)
        if values is None:
            return None
        return values.take(pa.array([0] * self.count)) if isinstance(values, pa.Array) else list(values) * self.count


def _lists(values: Any) -> bool:
    """Tells whether the values of a column are lists."""
    if isinstance(values, pa.Array):
        return "list" in str(values.type).partition("<")[0]
    return any(isinstance(v, list | tuple | np.ndarray) for v in values)


def _whole(values: Any) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _places(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns starts[i], starts[i] + 1, ... of every row in turn, `lengths[i]` of them."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))


def _row_of(lengths: np.ndarray | None, at: Any) -> int:
    return int(at) if lengths is None else int(np.searchsorted(np.cumsum(lengths), at, side="right"))


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

    def __init__(self, stem: Path) -> None:
        self.keys, self.rows = (np.load(f"{stem}.{name}.npy", mmap_mode="r") for name in ("keys", "rows"))
        texts = Path(f"{stem}.arrow")
        self.texts = pa.ipc.open_file(pa.memory_map(str(texts))).read_all()["value"] if texts.exists() else None

    def __call__(self, values: pa.Array) -> np.ndarray:
        if self.texts is None:
            return self._found(_integers(values))[0]
        coded = values.cast(pa.large_binary()).dictionary_encode()
        rows, place = self._found(_hash_strings(coded.dictionary))
        if len(self.keys):
            rows = np.where(pc.equal(self.texts.take(pa.array(place)), coded.dictionary).to_numpy(), rows, 0)
        return np.append(rows, 0)[coded.indices.fill_null(-1).to_numpy()]

    def _found(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = np.minimum(np.searchsorted(self.keys, keys), max(0, len(self.keys) - 1))
        if not len(self.keys):
            return np.zeros(len(keys), np.int64), place
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
    """Values of a column become rows as a feature's `ids` says; those of the last values are remembered."""

    def __init__(self, spec: Mapping[str, Any], wanted: str, space: _IdSpace | None, bundle: "Bundle") -> None:
        self.ids, self.missing, self.wanted, self.space = spec["ids"], spec["missing"], wanted, space
        self.kind = self.ids["kind"]
        self.vocabulary = bundle.vocabulary(self.ids["file"]) if self.kind == "vocabulary" else None
        self.boundaries = np.array(self.ids.get("boundaries", ()))
        self.known: dict[Any, int] = {}
        plain: dict[str, list[set[type]]] = {"string": [{str}], "int64": [{int}], ANY: [{str}, {int}]}
        nothing: set[type] = set() if self.missing is None else {type(None)}
        self.remembered = [types | nothing for types in plain.get(wanted, [])]

    def __call__(self, values: Any) -> np.ndarray:
        """Returns the rows of n values: [n] int64. Raises _BadValueError for one that has none."""
        if not isinstance(values, list) or len(values) > FEW:
            return self._read(values)
        types = set(map(type, values))
        if not any(types <= some for some in self.remembered):
            return self._read(values)
        try:
            return np.array([self.known[v] for v in values], np.int64)
        except KeyError:
            rows = self._read(values)
        if len(self.known) > REMEMBERED:
            self.known.clear()
        self.known.update(zip(values, rows.tolist(), strict=True))
        return rows

    def _read(self, values: Any) -> np.ndarray:
        array = _plain(values if isinstance(values, pa.Array) else _arrow(values, self.wanted), self.wanted)
        rows = self._rows(array)
        if array.null_count or _kind(array.type) == "number":
            missing = np.asarray(pc.is_null(array, nan_is_null=True))
            if missing.any() and self.missing is None:
                raise _BadValueError(missing.argmax(), "nothing", "an id")
            rows = np.where(missing, self.missing, rows)
        return rows if self.space is None else self.space(rows)

    def _rows(self, array: pa.Array) -> np.ndarray:
        if self.vocabulary is not None:
            return self.vocabulary(array)
        if self.kind == "bucketize":
            return np.searchsorted(self.boundaries, _floats(array), side="right").astype(np.int64)
        if self.kind == "hash":
            return (_hash(array, self.ids["seed"]) % np.uint64(self.ids["num_ids"])).astype(np.int64)
        if self.kind == "digest":
            return _hash(array).view(np.int64)
        if self.kind == "raw":
            return _hash(array).view(np.int64) if _kind(array.type) == "string" else _integers(array)
        rows = _integers(array)
        wrong = (rows < 0) | (rows >= self.ids["num_ids"])
        if wrong.any():
            raise _BadValueError(wrong.argmax(), array[int(wrong.argmax())], f"an id in [0, {self.ids['num_ids']})")
        return rows


def _hash(array: pa.Array, seed: int = 0) -> np.ndarray:
    kind = _kind(array.type)
    return (
        _hash_strings(array, seed)
        if kind == "string"
        else _hash_words([_integers(array.cast(pa.int64(), False))], seed)
    )


class _Numbers:
    """Values of a column become float32 numbers."""

    def __init__(self, spec: Mapping[str, Any], wanted: str) -> None:
        self.wanted, self.steps, self.fill = wanted, spec["steps"], spec["fill"]
        self.precision = np.float32 if wanted == "float" else np.float64
        if self.fill is not None:
            self.fill = float(self.precision(self.fill))

    def __call__(self, values: Any) -> np.ndarray:
        """Returns [n] float32. Raises _BadValueError for what is no finite number that the model can take."""
        if isinstance(values, list) and _NUMBERS.issuperset(map(type, values)):
            with np.errstate(over="ignore"):  # what becomes infinite is refused below
                raw = np.array(values, self.precision).astype(np.float64)  # as below, in a tenth of the time
        else:
            raw = _floats(_plain(values if isinstance(values, pa.Array) else _arrow(values, self.wanted), self.wanted))
        numbers = raw if self.fill is None else np.where(np.isnan(raw), self.fill, raw)
        for name, *settings in self.steps:
            if name == "log":
                numbers = np.copysign(np.log1p(np.abs(numbers)), numbers)
            elif name == "standardise":
                numbers = (numbers - settings[0]) / settings[1]
            elif settings != [None, None]:
                numbers = np.clip(numbers, *settings)
        if not (right := np.abs(numbers) <= LARGEST_NUMBER).all():
            at = right.argmin()
            expected = f"a finite number of magnitude {LARGEST_NUMBER:g} at most"
            raise _BadValueError(at, "nothing" if np.isnan(raw[at]) else raw[at], expected)
        return numbers.astype(np.float32)


class _Feature:
    """A feature reads its column, with one value or a list of them a row, or crosses what other features read."""

    def __init__(self, spec: Mapping[str, Any], types: Mapping[str, str], bundle: "Bundle") -> None:
        self.spec, self.name, self.most = spec, spec["name"], spec.get("max_length")
        self.columns, self.aligned = spec["columns"], spec.get("aligned")
        weights = {"name": self.name, "columns": [spec.get("weights")], "steps": [], "fill": None}
        self._weights: Any = (
            _Feature({**weights, "max_length": self.most}, types, bundle) if "weights" in spec else None
        )
        self.parts = [_Feature(part, types, bundle) for part in spec.get("parts", ())]
        self.space = bundle.id_space(spec["space"]) if "space" in spec else None
        if self.parts:
            return
        kind, self.optional = types[self.columns[0]].removesuffix("?"), types[self.columns[0]].endswith("?")
        self.type, inner = kind, kind.removeprefix("list<").removesuffix(">")
        self._read: Any = _Ids(spec, inner, self.space, bundle) if "ids" in spec else _Numbers(spec, inner)

    def read(self, rows: _Rows | _Beside) -> _Column:
        """Returns the feature's column. Raises RowError."""
        if self.parts:
            return self._crossed(rows)
        values = self._values(rows)
        if not (self.type.startswith("list<") or (self.spec.get("kind") == "any" and _lists(values))):
            return _Column(self._guarded(self._read, values))
        flat, full = self._flat(values)
        kept = full if self.most is None else np.minimum(full, self.most)
        if isinstance(flat, list):
            flat = [x for v in flat if v for x in (v if self.most is None else v[-self.most :])]
        elif kept is not full:
            flat = flat.take(pa.array(_places(np.cumsum(full) - kept, kept)))
        found = self._guarded(self._read, flat, kept)
        return _Column(found, kept, self._beside(rows, full) if self._weights else None, full)

    def _values(self, rows: _Rows | _Beside) -> Any:
        values = rows.get(self.columns[0])
        if values is None and not self.optional:
            raise RowError(f"there is no column {self.columns[0]!r}", None, self.name)
        return [None] * rows.count if values is None else values

    def _flat(self, values: Any) -> tuple[Any, np.ndarray]:
        """Returns lists as they are or, of Arrow, the elements of all rows; and how many each row has."""
        if isinstance(values, list) and {list, type(None)}.issuperset(map(type, values)):
            return values, np.array([0 if v is None else len(v) for v in values], np.int64)
        array = values if isinstance(values, pa.Array) else self._guarded(lambda v: _arrow(v, self.type), values)
        if pa.types.is_null(array.type):
            return [], np.zeros(len(array), np.int64)
        if not _lists(array):
            raise RowError(f"found values of type {array.type}, expected lists", 0, self.name)
        flat = pc.list_flatten(array)
        flat = flat.cast(pa.large_binary()) if str(flat.type) in ("string_view", "binary_view") else flat
        return flat, _integers(pc.list_value_length(array))

    def _guarded(self, read: Callable[[Any], Any], values: Any, lengths: np.ndarray | None = None) -> Any:
        try:
            return read(values)
        except _BadValueError as bad:
            raise RowError(bad.message, _row_of(lengths, bad.at), self.name) from None

    def _beside(self, rows: _Rows | _Beside, full: np.ndarray) -> np.ndarray:
        """Returns the weights of the kept ids."""
        weights = self._weights.read(rows)
        assert weights.full is not None
        differ = np.flatnonzero(weights.full != full)
        if len(differ):
            at = int(differ[0])
            raise RowError(f"found {weights.full[at]} weights, expected as many as ids: {full[at]}", at, self.name)
        return weights.values

    def _crossed(self, rows: _Rows | _Beside) -> _Column:
        """Crosses the parts: combinations of one id of each, the last part's fastest, of which the last are kept."""
        ids, parts = self.spec["ids"], [part.read(rows) for part in self.parts]
        each = [np.ones(rows.count, np.int64) if p.lengths is None else p.lengths for p in parts]
        lengths = np.ones(rows.count, np.int64)
        for of_part in each:
            lengths = np.minimum(lengths * of_part, self.most or MOST_COMBINATIONS + 1)
        if self.most is None and (lengths > MOST_COMBINATIONS).any():
            at = int((lengths > MOST_COMBINATIONS).argmax())
            raise RowError(f"found more than {MOST_COMBINATIONS:,} combinations of its ids", at, self.name)
        from_end = np.repeat(lengths, lengths) - 1 - _places(np.zeros(len(lengths), np.int64), lengths)
        words, weights, missing = [], [], np.zeros(len(from_end), bool)
        for part, of_part in zip(reversed(parts), reversed(each), strict=True):
            length = np.repeat(of_part, lengths)
            at = np.repeat(np.cumsum(of_part) - 1, lengths) - from_end % length
            from_end //= length
            words.append((part.values if ids["digests"] else _hash_words([part.values]))[at])
            missing |= (part.values[at] == MISSING_RAW) & ids["digests"]
            if part.weights is not None:
                weights.append(part.weights[at])
        found = (_hash_words(words[::-1], ids["seed"]) % np.uint64(ids["num_ids"])).astype(np.int64)
        if missing.any() and self.spec["missing"] is None:
            raise RowError("found nothing, expected an id", _row_of(lengths, missing.argmax()), self.name)
        found = np.where(missing, self.spec["missing"], found) if missing.any() else found
        found = found if self.space is None else self.space(found)
        if self.spec["kind"] == "id":
            return _Column(found)
        products = np.prod(np.stack(weights[::-1]), axis=0, dtype=np.float64) if weights else np.zeros(0)
        if not (right := np.abs(products) <= LARGEST_NUMBER).all():
            at = int(right.argmin())
            raise RowError(f"multiplies weights to {products[at]:g}", _row_of(lengths, at), self.name)
        return _Column(found, lengths, products.astype(np.float32) if weights else None, lengths)


# ---------------------------------------------------------------- tables and programs


class _Table:
    """A table's rows lie in a mapped file: float32, float16, or bytes with a scale and a bias a row."""

    def __init__(self, folder: Path, spec: Mapping[str, Any]) -> None:
        self.dim, self.dtype = spec["dim"], spec["dtype"]
        self.array = np.load(folder / spec["file"], mmap_mode="r").view(np.ndarray)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Returns float32 [n, D]."""
        found = self.array[ids]
        if self.dtype != "int8":
            return found.astype(np.float32, copy=False)
        scale = found[:, self.dim :].copy().view(np.float32)
        return found[:, : self.dim].astype(np.float32) * scale[:, :1] + scale[:, 1:]


class _Program:
    """An exported program, and the inputs that it takes."""

    def __init__(self, bundle: "Bundle", spec: Mapping[str, Any]) -> None:
        self.inputs = [i for i in spec["inputs"] if i["kind"] != "shared"]
        self.lists = next((i["features"][0] for i in self.inputs if i["kind"] == "sequence" and spec["lists"]), None)
        self.features = list(dict.fromkeys(name for i in self.inputs for name in i["features"] + i.get("dense", [])))
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

    def _tensors(self, spec: Mapping[str, Any], columns: Mapping[str, _Column], count: int) -> Iterator[Tensor]:
        if spec["kind"] == "sequence":
            yield from self._sequence(spec, columns, count)
            return
        dense = spec["kind"] == "dense"
        tables = [] if dense else [self._bundle.table(name) for name in spec["tables"]]
        widths = [1] * len(spec["features"]) if dense else [table.dim for table in tables]
        out, start = np.empty((count, sum(widths)), np.float32), 0
        for i, (name, width) in enumerate(zip(spec["features"], widths, strict=True)):
            column = columns[name]
            vectors = column.values[:, None] if dense else tables[i].rows(column.values)
            if column.lengths is not None:
                vectors = _pooled(vectors, column, spec["mean"][i])
            out[:, start : start + width] = vectors
            start += width
        yield torch.from_numpy(out if dense or spec["concat"] else out.reshape(count, len(tables), -1))

    def _sequence(self, spec: Mapping[str, Any], columns: Mapping[str, _Column], count: int) -> Iterator[Tensor]:
        first = columns[spec["features"][0]]
        lengths = first.lengths
        assert lengths is not None
        row = np.repeat(np.arange(len(lengths)), lengths)
        at = (row, _places(np.zeros(len(lengths), np.int64), lengths))

        def padded(*values: np.ndarray) -> Tensor:
            longest = max(1, int(lengths.max(initial=0)))
            out = np.zeros((len(lengths), longest, len(values), *values[0].shape[1:]), np.float32)
            for i, of_feature in enumerate(values):
                out[*at, i] = of_feature
            return torch.from_numpy(out)

        names = zip(spec["features"], spec["tables"], strict=True)
        tensors = [padded(*(self._bundle.table(t).rows(columns[f].values) for f, t in names))]
        tensors.append(torch.from_numpy(lengths))
        if spec["weighted"]:
            assert first.weights is not None
            tensors.append(padded(first.weights)[:, :, 0])
        if spec["dense"]:
            tensors.append(padded(*(columns[name].values for name in spec["dense"])))
        for tensor in tensors:
            yield tensor if len(tensor) == count else tensor.expand(count, *tensor.shape[1:]).contiguous()


def _pooled(vectors: np.ndarray, column: _Column, mean: bool) -> np.ndarray:
    """Sums (or averages) the vectors of each row's ids: [T, D] -> [n, D]."""
    assert column.lengths is not None
    row = torch.from_numpy(np.repeat(np.arange(len(column.lengths)), column.lengths))
    weights = np.ones(len(vectors), np.float32) if column.weights is None else column.weights
    sums = torch.zeros(len(column.lengths), vectors.shape[1])
    sums.index_add_(0, row, torch.from_numpy(vectors if column.weights is None else vectors * weights[:, None]))
    if mean:
        total = torch.zeros(len(sums)).index_add_(0, row, torch.from_numpy(weights))
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
        ids are numbers, and not as they were before. Raises ValueError for a folder that is no bundle.
        """
        self.folder = Path(folder)
        try:
            self.manifest: dict[str, Any] = json.loads((self.folder / "bundle.json").read_text(encoding="utf-8"))
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
        self.retrieves = "user" in self._programs

    # ------------------------------------------------------------ scores

    def score(self, rows: Any) -> Any:
        """Returns a prediction for each row: [B] float32; of C classes [B, C], for a list of ids a list of B arrays.

        rows: a pyarrow.Table or RecordBatch, a pandas.DataFrame, a dict of columns, or a list of dicts; other columns
        than the bundle's own are passed over. Raises RowError for a row that cannot be read.
        """
        return self._calibrated(self._run("tower", rows))

    def score_candidates(self, context: Any, candidates: Any) -> np.ndarray:
        """Returns a prediction for each candidate beside one row of context: [C] float32.

        context: a dict of values, or a table of one row. candidates: C rows of the columns in which they differ
        (`item_columns`, or others). What depends on the context alone is computed once. Raises RowError.
        """
        shared = _Rows([context] if isinstance(context, Mapping) else context, self.columns)
        rows = _Rows(candidates, self.columns)
        if shared.count != 1:
            raise RowError(f"the context is one row, found {shared.count}")
        if not rows.count:
            return np.zeros(0, np.float32)
        both, own = _Beside(rows, shared), {column for column in self.columns if rows.get(column) is not None}
        varying = {name for name, feature in self._features.items() if own.intersection(feature.columns)}
        cut = "candidate" in self._programs and varying.isdisjoint(self._programs["shared"].features)
        programs = [self._programs[name] for name in (("shared", "candidate") if cut else ("tower",))]
        names = dict.fromkeys(name for program in programs for name in program.features)
        columns = {name: self._features[name].read(both if name in varying else shared) for name in names}
        self._check_aligned(columns)
        once = programs[0](columns, 1) if cut else ()
        return self._calibrated(programs[-1](columns, rows.count, *once)[0].numpy())

    def _run(self, program: str, rows: Any) -> Any:
        """Returns a program's output for rows, some of them at a time."""
        if isinstance(rows, list | tuple | pa.Table | pa.RecordBatch) and len(rows) > BLOCK_ROWS:
            starts = range(0, len(rows), BLOCK_ROWS)
            blocks = (
                rows[s : s + BLOCK_ROWS] if isinstance(rows, list | tuple) else rows.slice(s, BLOCK_ROWS)
                for s in starts
            )
            try:
                outputs = []
                for block in blocks:
                    outputs.append(self._run(program, block))
            except RowError as error:
                row = None if error.row is None else error.row + len(outputs) * BLOCK_ROWS
                raise RowError(error.message, row, error.feature) from None
            return [x for out in outputs for x in out] if self._programs[program].lists else np.concatenate(outputs)
        read = _Rows(rows, self.columns)
        if not read.count:
            return np.zeros(0, np.float32)
        columns = self.read(read, self._programs[program].features)
        found = self._programs[program](columns, read.count)[0].numpy()
        if (asked := self._programs[program].lists) is None:
            return found
        lengths = columns[asked].lengths
        assert lengths is not None
        return [of_row[:length] for of_row, length in zip(found, lengths, strict=True)]

    def read(self, rows: Any, features: Iterable[str] | None = None) -> dict[str, _Column]:
        """Returns what rows become: by feature (None: all) its table rows or numbers. Raises RowError."""
        rows = rows if isinstance(rows, _Rows) else _Rows(rows, self.columns)
        columns = {n: self._features[n].read(rows) for n in (self._features if features is None else features)}
        self._check_aligned(columns)
        return columns

    def _check_aligned(self, columns: Mapping[str, _Column]) -> None:
        first: dict[str, tuple[str, np.ndarray]] = {}
        for name, column in columns.items():
            if (aligned := self._features[name].aligned) is None or column.full is None:
                continue
            other, full = first.setdefault(aligned, (name, column.full))
            differ = np.flatnonzero(full != column.full)
            if len(differ):
                at = int(differ[0])
                raise RowError(f"found {column.full[at]} elements beside {full[at]} of {other!r}", at, name)

    def _calibrated(self, scores: np.ndarray) -> np.ndarray:
        fit = self._once("calibration", self._read_calibration)
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
        places = self._once("places", self._item_places)
        return self._nearest(
            users, n, [[places[i] for i in of_row if i in places] for of_row in seen or [()] * len(users)]
        )

    def similar(self, ids: Sequence[Any], n: int) -> tuple[list[list[Any]], np.ndarray]:
        """Returns for each item the n others of the largest cosines, as `top_n` does. Raises RowError."""
        self.user_vectors([])
        places = self._once("places", self._item_places)
        for row, item in enumerate(ids):
            if item not in places:
                raise RowError(f"found the item {item!r}, which is not in the catalogue", row)
        at = [places[item] for item in ids]
        norms = self._once("norms", lambda: self._items.norm(dim=1).clamp(min=1e-12))
        return self._nearest((self._items[at] / norms[at, None]).numpy(), n, [[i] for i in at], norms)

    def _nearest(
        self, queries: np.ndarray, n: int, left_out: Sequence[Sequence[int]], norms: Tensor | None = None
    ) -> tuple[list[list[Any]], np.ndarray]:
        """Returns the items of the largest products with queries [B, D], by blocks of items."""
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
        names = self._once("names", self._item_ids)
        found = [
            names.take(pa.array(places[:count].numpy())).to_pylist() for places, count in zip(at, counts, strict=True)
        ]
        scores = np.full((len(queries), n), -np.inf, np.float32)
        scores[:, : best.shape[1]] = best.numpy()
        return found, scores

    @cached_property
    def _items(self) -> Tensor:
        return torch.from_numpy(np.load(self.folder / "items.npy", mmap_mode="c"))  # never written

    def _item_ids(self) -> pa.Array:
        return pq.read_table(self.folder / "items.parquet").column(0).combine_chunks()

    def _item_places(self) -> dict[Any, int]:
        return {item: place for place, item in enumerate(self._once("names", self._item_ids).to_pylist())}

    # ------------------------------------------------------------ files, opened once

    def table(self, name: str) -> _Table:
        """Returns a table."""
        return self._once(("table", name), lambda: _Table(self.folder, self.manifest["tables"][name]))

    def vocabulary(self, stem: str) -> _Vocabulary:
        """Returns the vocabulary of these files."""
        return self._once(("vocabulary", stem), lambda: _Vocabulary(self.folder / stem))

    def id_space(self, name: str) -> _IdSpace:
        """Returns which rows of dynamic tables ids have."""
        return self._once(("ids", name), lambda: _IdSpace(self.folder, self.manifest["id_spaces"][name]))

    def _read_calibration(self) -> Any:
        path = self.folder / "calibration.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._opened:
            self._opened[key] = make()
        return self._opened[key]
