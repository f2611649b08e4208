"""The bound of a training step is the time of its matrix products alone, and of its tables' rows in memory.

Products: those of one step, forward and backward, are recorded with their shapes, strides and precisions, and timed on
tensors that are there already. Rows: each id of a batch is read once, and each row that the batch changes is read and
written with its optimizer's state, at the rate at which torch gathers drawn rows of the largest table.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from shardrec.data_pipeline.batch import Batch
from shardrec.models.layers.kernels.library import torch_alone
from shardrec.models.table_reads import features_of
from shardrec.sharding.distribution.distribute import Distributed
from shardrec.sharding.lookup.lookup import EmbeddingLookup
from shardrec.sharding.tables.live import LiveTable

_FACTORS = {  # operator -> where its first factor stands
    **dict.fromkeys(("mm", "bmm", "mv"), 0),
    **dict.fromkeys(("addmm", "addmm_", "_addmm_activation", "baddbmm", "baddbmm_", "addmv", "addmv_"), 1),
}
_ATTENTION = "_scaled_dot_product_"


class Factor(NamedTuple):
    """A factor is what a matrix product takes, without its numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> "Factor":
        """Returns a tensor's."""
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype)

    def drawn(self, device: torch.device) -> Tensor:
        """Returns a tensor of this form."""
        last = sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True) if size)
        numbers = torch.randn(last + 1, device=device).to(self.dtype)
        return numbers.as_strided(self.shape, self.stride)


class Product(NamedTuple):
    """A product is one of two matrices, of as many pairs of them, or of a matrix and a vector."""

    first: Factor
    second: Factor

    @property
    def operations(self) -> int:
        """Returns how many numbers are multiplied and added."""
        columns = self.second.shape[-1] if len(self.second.shape) > 1 else 1
        return 2 * columns * torch.Size(self.first.shape).numel()


class RecordedProducts(TorchDispatchMode):
    """The matrix products that are computed while this lasts are its `products`, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _FACTORS:
            first, second = args[_FACTORS[name] :][:2]
            self.products.append(Product(Factor.of(first), Factor.of(second)))
        elif name.startswith(_ATTENTION):
            self.products += _of_attention(args, backward=name.endswith("_backward") or "_backward_" in name)
        return func(*args, **(kwargs or {}))


def _of_attention(args: Sequence[Any], *, backward: bool) -> Iterator[Product]:
    """Yields the products of fused attention: q k' and a v; of its backward pass those of dv, da, dq and dk."""
    query, key, value = (t.flatten(0, 1) for t in (args[1:4] if backward else args[:3]))
    scores = query.new_empty(len(query), query.shape[1], key.shape[1])
    pairs = [(query, key.mT), (scores, value)]
    if backward:
        output = value.new_empty(len(query), query.shape[1], value.shape[2])
        pairs = [(scores.mT, output), (output, value.mT), (scores, key), (scores.mT, query)]
    for first, second in pairs:
        yield Product(Factor.of(first), Factor.of(second))


class RowBytes(NamedTuple):
    """How many bytes of tables' rows a step reads and writes, and how many rows it looks up."""

    bytes: int
    rows: int


def row_bytes(tables: Iterable[LiveTable], lookup: EmbeddingLookup, batch: Batch) -> RowBytes:
    """Returns those of a batch: every id is read, every distinct row that is learned from read and written."""
    read = batch.ids.to_dict() | (batch.weighted_ids.to_dict() if batch.weighted_ids is not None else {})
    found, rows = 0, 0
    for table in tables:
        ids = [read[feature].values() for feature in features_of(lookup.inputs, table.name)]
        looked_up = sum(i.numel() for i in ids)
        learned = [read[feature].values() for feature in lookup.learned_from(table.name)]
        changed = torch.cat(learned).unique().numel() if learned and not table.table.frozen else 0
        weight, state = _bytes_of_a_row(table)
        found += looked_up * weight + 2 * changed * (weight + state)
        rows += looked_up
    return RowBytes(found, rows)


def _bytes_of_a_row(table: LiveTable) -> tuple[int, int]:
    """Returns a row's bytes of weights and of state, of what this rank holds of a table."""
    shard = next(iter(table.shards), None)
    if shard is None:
        return 0, 0
    sizes = {n: t[:1].numel() * t.element_size() for n, t in shard.tensors.items()}
    return sizes["weight"], sum(sizes.values()) - sizes["weight"]


class Bound:
    """A bound is measured in turns with the steps that it is the bound of.

    table: the rows that are gathered; None where this rank has no table.
    """

    def __init__(self, products: Sequence[Product], rows: RowBytes, table: Tensor | None, device: torch.device) -> None:
        self.products, self.rows = products, rows
        self._table, self._device = table, device
        self._factors = {factor: factor.drawn(device) for product in products for factor in product}
        self._product_seconds: list[float] = []
        self._row_seconds: list[float] = []

    @classmethod
    def of_step(cls, train_step: Callable[[Batch], None], distributed: Distributed, batch: Batch) -> "Bound":
        """Makes one step, and returns the bound of such steps."""
        with RecordedProducts() as recorded, torch_alone():
            train_step(batch)
        tables = distributed.tables.values()
        weights = [shard.weight for table in tables for shard in table.shards]
        rows = row_bytes(tables, distributed.lookup, batch)
        return cls(recorded.products, rows, max(weights, key=torch.numel, default=None), batch.weights.device)

    def measure(self) -> None:
        """Times all products once, and one gathering of rows."""
        self._product_seconds.append(self._seconds(self._multiply))
        if self._table is not None and self.rows.rows:
            drawn = torch.randint(len(self._table), (self.rows.rows,), device=self._device)
            self._row_seconds.append(self._seconds(torch.index_select, self._table, 0, drawn))

    def _multiply(self) -> None:
        for first, second in self.products:
            torch.matmul(self._factors[first], self._factors[second])

    @torch.no_grad()
    def _seconds(self, work: Callable[..., Any], *arguments: Any) -> float:
        began = time.perf_counter()
        work(*arguments)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - began

    def figures(self) -> dict[str, float]:
        """Returns the bound and its parts, medians, with the rates that they were measured at."""
        products = statistics.median(self._product_seconds)
        operations = sum(p.operations for p in self.products)
        rate, rows = 0.0, 0.0
        if self._row_seconds:
            assert self._table is not None
            gathered = self.rows.rows * self._table[:1].numel() * self._table.element_size()
            rate = gathered / statistics.median(self._row_seconds)
            rows = self.rows.bytes / rate
        return {
            "bound_milliseconds": 1e3 * (products + rows),
            "products_milliseconds": 1e3 * products,
            "products_gflop": operations / 1e9,
            "products_gflop_per_second": operations / products / 1e9 if operations else 0.0,
            "rows_milliseconds": 1e3 * rows,
            "rows_megabytes": self.rows.bytes / 1e6,
            "gather_gigabytes_per_second": rate / 1e9,
        }
