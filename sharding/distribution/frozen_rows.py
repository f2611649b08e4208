"""Tables that are only read, for scoring, have no optimizer state, and int8 rows where these are smaller.

An int8 row is `embedding_dim` bytes, then its scale and its bias in fp32: the layout and the arithmetic of FBGEMM's
FloatToFused8BitRowwiseQuantized (asymmetric, row by row: Guan et al., "Post-Training 4-bit Quantization on Embedding
Tables", 2019), over the logical columns. So a row's bytes depend on that row alone, under any plan and world size; rows
are never cut into columns. They are quantised block by block while a checkpoint streams in.

On CPU torch's own kernel for such bags is used; `docs/scale.md` has it beside the alternatives. Where all of a module's
tables are fp32 or fp16 it is our kernel, if it is compiled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shardrec.models.inputs import Input
from shardrec.models.table_reads import with_tables
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.kernels.library import RowKernel, Rule, TableMemory, library
from shardrec.sharding.tables.live import DTYPES, SCALE_BYTES, row_bytes

RowKind = Literal["int8"]

# ---------------------------------------------------------------- which tables


def frozen_inputs(inputs: Mapping[str, Input]) -> dict[str, Input]:
    """Returns the inputs with tables that are only read: with int8 rows where they are smaller than trained ones.

    They lie in the workers' own memory, and placements that would cut or copy rows are left to the planner.
    """
    return with_tables(inputs, _frozen)


def _frozen(table: EmbeddingTable) -> EmbeddingTable:
    placement = table.placement if table.placement in ("row_wise", "table_wise", "table_row_wise") else None
    kept = replace(table, frozen=True, placement=placement, memory="device")
    small = replace(kept, dtype="int8")
    return min(kept, small, key=lambda t: row_bytes(t, t.embedding_dim))


def frozen_bytes(tables: Mapping[str, EmbeddingTable]) -> dict[str, int]:
    """Returns the bytes of all tables' rows by their dtype."""
    by_dtype: dict[str, int] = {}
    for table in tables.values():
        size = table.num_embeddings * row_bytes(table, table.embedding_dim)
        by_dtype[table.dtype] = by_dtype.get(table.dtype, 0) + size
    return by_dtype


# ---------------------------------------------------------------- rows of bytes


def quantise(rows: Tensor) -> Tensor:
    """Quantises rows [n, D] of any float dtype, on CPU: [n, D + 8] uint8.

    With l and h the least and the largest of a row: scale (h - l) / 255, bias l, each value the nearest whole number of
    (x - l) 255 / (h - l + 1e-8).
    """
    return torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(rows.float().contiguous())


def dequantise(rows: Tensor) -> Tensor:
    """Returns what quantised rows stand for, value x scale + bias: [n, D + 8] uint8 -> [n, D] fp32."""
    scale, bias = rows[:, -SCALE_BYTES:].contiguous().view(torch.float32).split(1, dim=1)
    return torch.addcmul(bias, rows[:, :-SCALE_BYTES].float(), scale)


# ---------------------------------------------------------------- lookups


class FrozenRows(nn.Module):
    """Several tables' rows [rows, columns] are looked up without gradients.

    feature_tables: for each feature of the input the index of its table.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        feature_tables: Sequence[int],
        *,
        dtypes: Sequence[str],
        device: torch.device,
    ) -> None:
        super().__init__()
        self.feature_tables = tuple(feature_tables)
        self.dtypes = tuple(dtypes)
        extra = [SCALE_BYTES if dtype == "int8" else 0 for dtype in dtypes]
        self.weights = [
            torch.zeros(rows, columns + more, dtype=DTYPES[dtype], device=device)
            for (rows, columns), more, dtype in zip(shapes, extra, dtypes, strict=True)
        ]
        self.compiled: RowKernel | None = None
        if device.type == "cpu" and "int8" not in dtypes and library() is not None:
            self.compiled = RowKernel([TableMemory(w, Rule()) for w in self.weights], self.feature_tables)

    @torch.no_grad()
    def forward(self, ids: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Sums rows by bag, B bags of F features: ids [T], offsets [F B + 1] -> fp32 [B, all features' columns]."""
        ids, offsets = ids.long(), offsets.long()
        if self.compiled:
            return self.compiled.pool(ids, offsets, weights)
        bags = (offsets.numel() - 1) // len(self.feature_tables)
        first = offsets[::bags].tolist() if bags else [0] * (len(self.feature_tables) + 1)
        pooled = []
        for f, t in enumerate(self.feature_tables):
            span = slice(first[f], first[f + 1])
            starts = offsets[f * bags : (f + 1) * bags + 1] - first[f]
            scale = None if weights is None else weights[span]
            pooled.append(_bags(self.weights[t], self.dtypes[t], ids[span], starts, scale))
        return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)


def _bags(table: Tensor, dtype: str, ids: Tensor, starts: Tensor, scale: Tensor | None) -> Tensor:
    """Sums rows by bag, in fp32."""
    columns = table.shape[1] - (SCALE_BYTES if dtype == "int8" else 0)
    if not ids.numel():
        return torch.zeros(starts.numel() - 1, columns, device=table.device)
    if dtype == "int8" and table.device.type == "cpu":
        return torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
            table, ids, starts, mode=0, per_sample_weights=scale, include_last_offset=True
        )
    if dtype != "fp32":  # torch's bags would round their sums to the rows' precision
        rows = table.index_select(0, ids)
        table = dequantise(rows) if dtype == "int8" else rows.float()
        ids = torch.arange(ids.numel(), device=ids.device)
    return F.embedding_bag(ids, table, starts, mode="sum", include_last_offset=True, per_sample_weights=scale)
