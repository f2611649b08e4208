"""`shardrec checkpoint diff` says what differs between two checkpoints, of any plans and world sizes."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from shardrec.data_pipeline.errors import printable
from shardrec.data_pipeline.stores.location import Location
from shardrec.sharding.checkpoints.saved_tables import SavedRows
from shardrec.trainer.checkpoints.contents import tower_tensors
from shardrec.trainer.checkpoints.saved_model import SavedModel

_IDS = ("id", "candidate_id")  # columns in which the size of a difference means nothing

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Unlike:
    """Something is unlike: `what` of a table or tensor is `a` in A and `b` in B; None where only the other has it."""

    name: str
    what: str
    a: str | None
    b: str | None

    def __str__(self) -> str:
        if self.a is None or self.b is None:
            return f"{self.name}: only in {'A' if self.b is None else 'B'}"
        return f"{self.name}: {self.what} {self.a} in A, {self.b} in B"


@dataclass(frozen=True)
class UnlikeValues:
    """Values are unlike: `differing` of the `of` rows of a table's tensor, or values of a tower's, are not bit-equal.

    first: the number of the first one. largest: the largest absolute difference, infinite or NaN where one side is;
    None of ids.
    """

    name: str
    unit: str
    differing: int
    of: int
    first: int
    largest: float | None

    def __str__(self) -> str:
        which = f"{self.differing:,} of {self.of:,} {self.unit}s differ, first {self.unit} {self.first:,}"
        return f"{self.name}: {which}" + ("" if self.largest is None else f", largest difference {self.largest:.4g}")


Difference = Unlike | UnlikeValues


@dataclass(frozen=True)
class Comparison:
    """A comparison of two checkpoints: their differences, and how many parts are equal in all that they hold."""

    a: SavedModel
    b: SavedModel
    differences: tuple[Difference, ...]
    equal_tables: int
    equal_id_maps: int
    equal_tensors: int

    def __str__(self) -> str:
        sides = [_side(letter, saved) for letter, saved in (("A", self.a), ("B", self.b))]
        id_maps = f"{self.equal_id_maps} id map(s), " if self.a.id_maps or self.b.id_maps else ""
        equal = f"equal: {self.equal_tables} table(s), {id_maps}{self.equal_tensors} tensor(s) of the tower"
        return "\n".join([*sides, *map(str, self.differences), equal])

    def as_json(self) -> dict[str, Any]:
        """Returns what `--json` prints."""
        return {
            "a": str(self.a.path),
            "b": str(self.b.path),
            "equal_tables": self.equal_tables,
            "equal_id_maps": self.equal_id_maps,
            "equal_tower_tensors": self.equal_tensors,
            "differences": [_plain(asdict(d)) for d in self.differences],
        }


def compare_checkpoints(a: Location, b: Location, progress: Callable[[str], None] = lambda _: None) -> Comparison:
    """Compares tables and towers with their state, and id maps with their settings; not how far the runs had come.

    Raises UserError where one of the checkpoints is missing or damaged.
    """
    one, other = SavedModel.open(a), SavedModel.open(b)
    tables = list(_compared(one.tables, other.tables, "table", lambda name: _table(name, one, other, progress)))
    maps = list(_compared(one.id_maps, other.id_maps, "id map", lambda name: _id_map(name, one, other, progress)))
    towers = tower_tensors(one), tower_tensors(other)
    tensors = list(_compared(*towers, "tower", lambda name: _tensor(name, *(t[name] for t in towers))))
    parts = (tables, maps, tensors)
    differences = tuple(d for part in parts for of_name in part for d in of_name)
    return Comparison(one, other, differences, *(sum(not d for d in part) for part in parts))


def _compared(
    a: Mapping[str, Any], b: Mapping[str, Any], what: str, compare: Callable[[str], Iterable[Difference]]
) -> Iterator[list[Difference]]:
    """Yields the differences of each name of either side."""
    for name in dict.fromkeys((*a, *b)):
        if name in a and name in b:
            yield list(compare(name))
        else:
            yield [_only(f"{what} {printable(name)}", name in a)]


def _only(name: str, in_a: bool) -> Unlike:
    return Unlike(name, "content", "there" if in_a else None, None if in_a else "there")


def _table(name: str, a: SavedModel, b: SavedModel, progress: Callable[[str], None]) -> Iterator[Difference]:
    one, other = a.tables[name], b.tables[name]
    progress(f"comparing table {name}")
    for what in ("num_embeddings", "embedding_dim", "dtype", "optimizer", "dynamic"):
        if getattr(one, what) != getattr(other, what):
            yield Unlike(f"table {printable(name)}", what, str(getattr(one, what)), str(getattr(other, what)))
    scale = other.physical_dim / one.physical_dim  # of what is a mean over the columns that each kernel stores
    yield from _tensors(f"table {printable(name)}", one, other, {"accumulator": scale})


def _id_map(name: str, a: SavedModel, b: SavedModel, progress: Callable[[str], None]) -> Iterator[Difference]:
    one, other = a.id_maps[name], b.id_maps[name]
    progress(f"comparing the id map of {name}")
    facts, others = (m.ids.config.model_dump() | asdict(m.counters) for m in (one, other))
    for what, value in facts.items():
        if value != others[what]:
            yield Unlike(f"id map {printable(name)}", what, str(value), str(others[what]))
    yield from _tensors(f"id map {printable(name)}", one.rows, other.rows)
    if one.candidates and other.candidates:
        yield from _tensors(f"id map {printable(name)}", one.candidates, other.candidates)


def _tensors(
    name: str, a: SavedRows, b: SavedRows, of_row_means: Mapping[str, float] | None = None
) -> Iterator[Difference]:
    """Yields the differences of two sides' tensors.

    of_row_means: what B's values of a tensor are to be multiplied by, where it has one number a row.
    """
    for tensor in dict.fromkeys((*a.tensors, *b.tensors)):
        where = f"{name}, {tensor}"
        if tensor not in a.tensors or tensor not in b.tensors:
            yield _only(where, tensor in a.tensors)
        elif _alike(a, b, tensor):
            scale = (of_row_means or {}).get(tensor, 1.0) if len(a.tensors[tensor]) == 1 else 1.0
            if unlike := _values(where, a, b, tensor, scale):
                yield replace(unlike, largest=None) if tensor in _IDS else unlike


def _alike(a: SavedRows, b: SavedRows, tensor: str) -> bool:
    """Says whether rows can be compared; what keeps them from it is a difference of the table, and told as one."""
    return a.tensors[tensor] == b.tensors[tensor] and a.element_bytes(tensor) == b.element_bytes(tensor)


def _values(where: str, a: SavedRows, b: SavedRows, tensor: str, scale: float) -> UnlikeValues | None:
    step = a.block_rows([tensor])
    row_count, first, largest = 0, -1, 0.0
    for (start, one), (_, other) in zip(a.blocks(tensor, step), b.blocks(tensor, step), strict=True):
        differing, furthest = _differing(one, other if scale == 1 else other * scale)
        if len(differing):
            first = start + int(differing[0]) if first < 0 else first
            row_count, largest = row_count + len(differing), _larger(largest, furthest)
    return UnlikeValues(where, "row", row_count, a.num_embeddings, first, largest) if row_count else None


def _tensor(name: str, a: Tensor, b: Tensor) -> Iterator[Difference]:
    name = f"tower {name}"
    shapes = [" x ".join(map(str, t.shape)) or "number" for t in (a, b)]
    for what, (one, other) in (("shape", shapes), ("dtype", [str(t.dtype) for t in (a, b)])):
        if one != other:
            yield Unlike(name, what, one.removeprefix("torch."), other.removeprefix("torch."))
            return
    differing, largest = _differing(a.reshape(-1), b.reshape(-1))
    if len(differing):
        yield UnlikeValues(name, "value", len(differing), a.numel(), int(differing[0]), largest)


def _differing(a: Tensor, b: Tensor) -> tuple[Tensor, float]:
    """Returns the rows that are not bit-equal, and the largest absolute difference in them."""
    kind = _BITS[a.element_size()]
    unequal = a.contiguous().view(kind) != b.contiguous().view(kind)
    rows = unequal.reshape(len(a), -1).any(1).nonzero().squeeze(1)
    if not len(rows):
        return rows, 0.0
    one, other = a[unequal].double(), b[unequal].double()
    return rows, float((one - other).abs().max())


def _larger(a: float, b: float) -> float:
    """Returns the larger one; NaN where either is."""
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)


def _side(letter: str, saved: SavedModel) -> str:
    return f"{letter}: {saved.path}, step {saved.content['position']['step']}, {saved.content['world_size']} worker(s)"


def _plain(difference: dict[str, Any]) -> dict[str, Any]:
    """Returns a difference as JSON can hold it: numbers that are not finite become text."""
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in difference.items()}
