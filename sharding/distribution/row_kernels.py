"""The one module that leans on TorchRec's private hooks (checked with torchrec 1.6.1 and 1.8.0).

What stock TorchRec lacks and is made here:
- kernels that do not fill tables with values of their own at construction, and that say where their live rows are,
- row-wise placement on CPU, and tables updated by `RowTables` (all that FBGEMM does not fuse) or only read, unpadded,
- live rows behind a cache in device memory that are always the true ones,
- sequence lookups on CPU as bags of one id: FBGEMM's unpooled backward ran at 2 M rows/s there, its pooled one at 50 M,
- sharded modules without a `state_dict` of their own: checkpoints read the kernels' memory, and whoever asks the
  surrounding module for parameters or buffers gets the tower's alone.
Data-parallel tables never come here (`lookup.py` has them), so that nothing is wrapped in DistributedDataParallel.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode, PoolingMode
from torch import Tensor, nn
from torchrec.distributed.batched_embedding_kernel import BatchedFusedEmbedding, BatchedFusedEmbeddingBag
from torchrec.distributed.embedding_types import GroupedEmbeddingConfig
from torchrec.modules.embedding_configs import data_type_to_dtype
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.distribution.frozen_rows import FrozenRows
from shardrec.sharding.planning.row_memory import memory_parameters
from shardrec.sharding.tables.live import is_fused, is_rounded
from shardrec.sharding.tables.rounding import ShardRounding
from shardrec.sharding.updates.choose import fbgemm_parameters, row_update
from shardrec.sharding.updates.context import UpdateContext
from shardrec.sharding.updates.row_tables import RowTables

_ROW_UPDATE, _ROUNDING_SEED, _FROZEN = (
    "row_update",
    "rounding_seed",
    "frozen",
)  # our keys among a table's fused parameters

# ---------------------------------------------------------------- what a table is told


def mark_table(parameter: nn.Parameter, table: EmbeddingTable, device: str, seed: int) -> None:
    """Tells TorchRec, through a table's parameter on the meta device, how the table is updated.

    seed: of the draws by which our own kernel rounds. On CPUs FBGEMM rounds to nearest, whatever it is told.
    """
    assert table.optimizer is not None
    rounded = is_rounded(table)
    told: dict[str, Any] = {_ROW_UPDATE: row_update(table), _ROUNDING_SEED: seed if rounded else None}
    if table.frozen:
        told = {_FROZEN: table.dtype}
    elif is_fused(table.optimizer) and not (rounded and device == "cpu"):
        told = {**fbgemm_parameters(table), "bounds_check_mode": BoundsCheckMode.FATAL, "stochastic_rounding": rounded}
        told |= memory_parameters(table)
    parameter._optimizer_classes = [None]  # type: ignore[attr-defined]
    parameter._optimizer_kwargs = [told]  # type: ignore[attr-defined]


# ---------------------------------------------------------------- kernels


class _FusedRows:
    """FBGEMM's kernel as made by TorchRec, left at zeros."""

    _config: GroupedEmbeddingConfig
    _emb_module: Any

    def init_parameters(self) -> None:
        """Rows are filled in place by `initialize.py` or a checkpoint."""

    def begin(self, context: UpdateContext) -> None:
        """Sets the learning rate: no fused rule is of a summed loss, and FBGEMM rounds by draws of its own."""
        base = (self._config.fused_params or {})["learning_rate"]
        self._emb_module.set_learning_rate(base * context.learning_rate_factor)

    def shards(self) -> Iterator[tuple[str, int, int, Mapping[str, Tensor]]]:
        """(table, row, column, live tensors) of every shard in this kernel."""
        cached = self._emb_module.lxu_cache_weights.numel() > 0
        states = self._emb_module.split_optimizer_states()
        states = states or [()] * len(self._config.embedding_tables)
        weights = self._emb_module.split_embedding_weights()
        for table, weight, state in zip(self._config.embedding_tables, weights, states, strict=True):
            row, column = table.local_metadata.shard_offsets
            tensors = {"weight": weight.detach()}
            if state:
                (tensors["accumulator"],) = (s.detach() for s in state)
            yield table.name, row, column, BehindCache(self._emb_module, tensors) if cached else tensors


class BehindCache(Mapping[str, Tensor]):
    """Live tensors of a kernel that has rows in a cache as well: `memory: cached`.

    Before one is handed out, the cache is written back and emptied. So readers see what was learned, and lookups what
    was overwritten. Who holds a tensor over a lookup sees neither.
    """

    def __init__(self, kernel: Any, tensors: Mapping[str, Tensor]) -> None:
        self._kernel, self._tensors = kernel, tensors

    def __getitem__(self, name: str) -> Tensor:
        if self._kernel.timestep > 1:  # 1: no lookup since the cache was last emptied
            self._kernel.flush()
            self._kernel.reset_cache_states()
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class FusedBags(_FusedRows, BatchedFusedEmbeddingBag):
    """Pooled lookups."""


class FusedSequences(_FusedRows, BatchedFusedEmbedding):
    """Unpooled lookups on GPU."""


class OneIdBags(_FusedRows, BatchedFusedEmbedding):
    """One table's unpooled lookups on CPU, as bags of one id through FBGEMM's pooled kernel."""

    def __init__(
        self,
        config: GroupedEmbeddingConfig,
        pg: dist.ProcessGroup | None = None,
        device: torch.device | None = None,
    ) -> None:
        (table,) = config.embedding_tables
        super().__init__(
            replace(config, embedding_tables=[replace(table, feature_names=table.feature_names[:1])]), pg, device
        )
        self._config = config
        self._emb_module.pooling_mode = PoolingMode.SUM

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        ids = features.values().long()
        return self._emb_module(ids, torch.arange(ids.numel() + 1, device=ids.device))


class _OwnKernel(nn.Module):
    """Rows of ours behind the surface that TorchRec's lookups use. Sequences: one table, bags of one id."""

    rows: RowTables | FrozenRows

    def __init__(self, config: GroupedEmbeddingConfig, *, pooled: bool) -> None:
        super().__init__()
        self.config = config
        self.pooled = pooled
        tables = config.embedding_tables
        self.feature_tables = [t for t, table in enumerate(tables) for _ in table.feature_names] if pooled else [0]
        self.shapes = [(table.local_rows, table.local_cols) for table in tables]

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        ids = features.values()
        if self.pooled:
            return self.rows(ids, features.offsets(), features.weights_or_none())
        return self.rows(ids, torch.arange(ids.numel() + 1, device=ids.device))


class FrozenKernel(_OwnKernel):
    """`FrozenRows`: nothing is learned."""

    def __init__(self, config: GroupedEmbeddingConfig, device: torch.device, *, pooled: bool) -> None:
        super().__init__(config, pooled=pooled)
        dtypes = [(config.fused_params or {})[_FROZEN]] * len(self.shapes)
        self.rows = FrozenRows(self.shapes, self.feature_tables, dtypes=dtypes, device=device)

    def begin(self, context: UpdateContext) -> None:
        """Does nothing: there is no update."""

    def shards(self) -> Iterator[tuple[str, int, int, dict[str, Tensor]]]:
        for table, weight in zip(self.config.embedding_tables, self.rows.weights, strict=True):
            row, column = table.local_metadata.shard_offsets
            yield table.name, row, column, {"weight": weight}


class RowUpdateKernel(_OwnKernel):
    """`RowTables`."""

    rows: RowTables

    def __init__(self, config: GroupedEmbeddingConfig, device: torch.device, *, pooled: bool) -> None:
        super().__init__(config, pooled=pooled)
        parameters = config.fused_params or {}
        seed = parameters[_ROUNDING_SEED]
        self.rows = RowTables(
            self.shapes,
            self.feature_tables,
            [parameters[_ROW_UPDATE]] * len(self.shapes),
            dtypes=[data_type_to_dtype(config.data_type)] * len(self.shapes),
            device=device,
            roundings=[
                None if seed is None else ShardRounding(seed, table.name, *table.local_metadata.shard_offsets)
                for table in config.embedding_tables
            ],
        )

    def begin(self, context: UpdateContext) -> None:
        """Starts a step of its tables."""
        self.rows.begin(context)

    def shards(self) -> Iterator[tuple[str, int, int, dict[str, Tensor]]]:
        for i, table in enumerate(self.config.embedding_tables):
            row, column = table.local_metadata.shard_offsets
            yield table.name, row, column, {"weight": self.rows.weights[i], **self.rows.states[i]}


def own_kernel(config: GroupedEmbeddingConfig) -> type[RowUpdateKernel] | type[FrozenKernel] | None:
    """The kernel of ours that serves a group of tables; None: FBGEMM's does."""
    told = config.fused_params or {}
    return FrozenKernel if _FROZEN in told else RowUpdateKernel if _ROW_UPDATE in told else None


# ---------------------------------------------------------------- lookups: groups of kernels


# ---------------------------------------------------------------- sharded modules
