"""Features say what rows become: table rows by ids, and numbers, as the manifest of a bundle has it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .hashing import hash_words
from .rows import ANY, PLAIN_NUMBERS, RowError, Rows, bad, floats, hash_values, integers, kind_of, read_as, rounded
from .tables import Tables

MISSING_RAW = -(2**63)
LARGEST_NUMBER = 1e15  # of a number after its transforms, or a weight
MOST_COMBINATIONS = 1000  # of a row's crossed ids, where the cross has no max_length
REMEMBERED = 1 << 17  # values that a feature remembers the ids of


class _Ids:
    """Values become rows as a feature's `ids` says; those of the last values are remembered."""

    def __init__(self, spec: Mapping[str, Any], wanted: str, tables: Tables) -> None:
        self._ids, self._missing, self._wanted = spec["ids"], spec["missing"], wanted
        self._kind = self._ids["kind"]
        self._vocabulary = tables.vocabulary(self._ids["file"]) if self._kind == "vocabulary" else None
        self._space = tables.id_space(spec["space"]) if "space" in spec else None
        self._known: dict[Any, int] = {}
        plain: dict[str, list[set[type]]] = {"string": [{str}], "int64": [{int}], ANY: [{str}, {int}]}
        nothing: set[type] = set() if self._missing is None else {type(None)}
        self._remembered = [types | nothing for types in plain.get(wanted, [])]

    def __call__(self, values: Any) -> np.ndarray:
        """Returns the rows of n values: [n] int64. Raises RowError for one that has none."""
        types = set(map(type, values)) if isinstance(values, list) else {pa.Array}
        if not any(types <= some for some in self._remembered):
            return read_as(self._wanted, self._read, values)
        try:
            return np.array([self._known[v] for v in values], np.int64)
        except KeyError:
            rows = read_as(self._wanted, self._read, values)
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
                    raise bad(missing.argmax(), "nothing", "an id")
                rows = np.where(missing, self._missing, rows)
        return rows if self._space is None else self._space(rows)

    def _rows(self, array: pa.Array) -> np.ndarray:
        if self._vocabulary is not None:
            return self._vocabulary.of_values(array)
        if self._kind == "bucketize":
            return np.searchsorted(self._ids["boundaries"], floats(array, self._wanted), side="right")
        if self._kind == "hash":
            return (hash_values(array, self._ids["seed"]) % np.uint64(self._ids["num_ids"])).astype(np.int64)
        if self._kind == "digest" or (self._kind == "raw" and kind_of(array.type) == "string"):
            return hash_values(array).view(np.int64)
        rows = integers(array)
        if self._kind == "identity" and (wrong := (rows < 0) | (rows >= self._ids["num_ids"])).any():
            raise bad(wrong.argmax(), array[int(wrong.argmax())], f"an id in [0, {self._ids['num_ids']})")
        return rows


class _Numbers:
    """Values become float32 numbers by a feature's `steps`, nothing becomes `fill`."""

    def __init__(self, steps: Sequence[Sequence[Any]], fill: float | None, wanted: str) -> None:
        self._steps, self._wanted = steps, wanted
        self._fill = None if fill is None else float(np.float32(fill)) if wanted == "float" else fill

    def __call__(self, values: Any) -> np.ndarray:
        """Returns [n] float32. Raises RowError for what is no finite number that the model can take."""
        if isinstance(values, list) and PLAIN_NUMBERS.issuperset(map(type, values)):
            try:
                return self._read(rounded(np.array(values, np.float64), self._wanted))  # in a tenth of the time
            except OverflowError:  # an integer of hundreds of digits
                pass
        return read_as(self._wanted, lambda array: self._read(floats(array, self._wanted)), values)

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
            raise bad(at, "nothing" if np.isnan(raw[at]) else raw[at], expected)
        return numbers.astype(np.float32)


class Column(NamedTuple):
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


def check_equal(found: np.ndarray, full: np.ndarray, name: str, said: str) -> None:
    """Raises RowError for the first row where two lists differ in length."""
    found, full = np.broadcast_arrays(found, full)  # one row of context stands for all
    if len(differ := np.flatnonzero(found != full)):
        raise RowError(said.format(found[differ[0]], full[differ[0]]), int(differ[0]), name)


class Feature:
    """A feature reads its column, with one value or a list of them a row, or crosses what other features read."""

    def __init__(self, spec: Mapping[str, Any], types: Mapping[str, str], tables: Tables) -> None:
        self.name, self.columns, self.aligned = spec["name"], spec["columns"], spec.get("aligned")
        self._spec, self._most = spec, spec.get("max_length")
        self._parts = [Feature(part, types, tables) for part in spec.get("parts", ())]
        self._weights = Feature(spec["weights"], types, tables) if "weights" in spec else None
        self._space = tables.id_space(spec["space"]) if "space" in spec else None
        if self._parts:
            return
        self._type, self._optional = types[self.columns[0]].removesuffix("?"), types[self.columns[0]].endswith("?")
        inner = self._type.removeprefix("list<").removesuffix(">")
        self._read = _Ids(spec, inner, tables) if "ids" in spec else _Numbers(spec["steps"], spec["fill"], inner)

    def read(self, rows: Rows) -> Column:
        """Returns the feature's column. Raises RowError."""
        if self._parts:
            return self._crossed(rows)
        values, lengths = rows.get(self.columns[0]), None
        if values is None and not self._optional:
            raise RowError(f"there is no column {self.columns[0]!r}", None, self.name)
        values = [None] * rows.count if values is None else values
        try:
            if not (self._type.startswith("list<") or (self._spec.get("kind") == "any" and _any_list(values))):
                return Column(self._read(values))
            flat, lengths, full = _flat(values, self._most, self._type)
            found = self._read(flat)
        except RowError as error:
            at = error.row or 0
            row = at if lengths is None else int(np.searchsorted(np.cumsum(lengths), at, side="right"))
            raise RowError(error.message, row, self.name) from None
        if self._weights is None:
            return Column(found, lengths, None, full)
        weights = self._weights.read(rows)
        assert weights.full is not None
        check_equal(weights.full, full, self.name, "found {} weights, expected as many as ids: {}")
        return Column(found, lengths, weights.values, full)

    def _crossed(self, rows: Rows) -> Column:
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
            words.insert(0, (part.values if ids["digests"] else hash_words([part.values]))[at])
            missing |= (part.values[at] == MISSING_RAW) & ids["digests"]
            weights[:0] = [] if part.weights is None else [part.weights[at]]
        found = (hash_words(words, ids["seed"]) % np.uint64(ids["num_ids"])).astype(np.int64)
        if missing.any():
            if self._spec["missing"] is None:
                raise RowError("found nothing, expected an id", int(row[missing.argmax()]), self.name)
            found = np.where(missing, self._spec["missing"], found)
        found = found if self._space is None else self._space(found)
        if self._spec["kind"] == "id":
            return Column(found)
        if not weights:
            return Column(found, lengths, None, lengths)
        products = np.prod(np.stack(weights), axis=0, dtype=np.float64)
        if not (right := np.abs(products) <= LARGEST_NUMBER).all():
            raise RowError(f"multiplies weights to {products[right.argmin()]:g}", int(row[right.argmin()]), self.name)
        return Column(found, lengths, products.astype(np.float32), lengths)


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
        raise bad(at, repr(values[at].as_py()), wanted)
    flat, full = pc.list_flatten(values), integers(pc.list_value_length(values)).copy()  # to be a tensor
    flat = flat.cast(pa.large_binary()) if "_view" in str(flat.type) else flat  # which `take` cannot take
    kept = full if most is None else np.minimum(full, most)
    return flat if kept is full else flat.take(pa.array(_places(np.cumsum(full) - kept, kept))), kept, full


def _list(value: Any, row: int, wanted: str) -> list[Any]:
    if value is None or (isinstance(value, float) and np.isnan(value)):  # as pandas writes nothing
        return []
    found = value.tolist() if hasattr(value, "tolist") else list(value) if isinstance(value, tuple) else value
    if not isinstance(found, list):
        raise bad(row, repr(value), wanted)
    return found
