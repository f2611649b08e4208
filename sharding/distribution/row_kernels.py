"""The kernels that look rows up and update them, in the form that TorchRec's sharded modules call.

What stock TorchRec lacks and is made here:
- kernels that do not fill tables with values of their own at construction, and that say where their live rows are,
- tables updated by `RowTables` (on CPU all, elsewhere what FBGEMM does not fuse) or only read, under any placement,
- live rows behind a cache in device memory that are always the true ones,
- sequence lookups on CPU as bags of one id: FBGEMM's unpooled backward ran at 2 M rows/s there, its pooled one at 50 M.
FBGEMM's kernels serve a CPU's tables only where ours is not compiled, and ours is then made of torch operations.
`sharded.py` puts them into TorchRec's modules. These two lean on TorchRec's private surface, which
`tests/sharding/distribution/test_private_surface.py` pins. Data-parallel tables have no kernel (`replicas.py`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from torch import Tensor, nn
from torchrec.distributed.batched_embedding_kernel import BatchedFusedEmbedding, BatchedFusedEmbeddingBag
from torchrec.distributed.embedding_types import GroupedEmbeddingConfig
from torchrec.modules.embedding_configs import data_type_to_dtype
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.distribution.frozen_rows import FrozenRows
from shardrec.sharding.planning.row_memory import memory_parameters
from shardrec.sharding.tables.live import is_fused, is_rounded
from shardrec.sharding.tables.module_names import quoted, table_name
from shardrec.sharding.tables.rounding import ShardRounding
from shardrec.sharding.updates.choose import fbgemm_parameters, row_update
from shardrec.sharding.updates.compiled_rows import MOST_ROWS
from shardrec.sharding.updates.context import UpdateContext
from shardrec.sharding.updates.row_tables import RowTables

_ROW_UPDATE, _ROUNDING_SEED, _COMPILED, _FROZEN = (
    "row_update",
    "rounding_seed",
    "compiled",
    "frozen",
)  # our keys among a table's fused parameters

# ---------------------------------------------------------------- what a table's kernel is told


def has_fbgemm_kernel(table: EmbeddingTable, device: str, *, compiled: bool) -> bool:
    """Says whether FBGEMM's kernels serve a table: on CPUs where ours is not compiled, and they only round to nearest.

    compiled: whether ours is.
    """
    assert table.optimizer is not None
    if table.frozen or not is_fused(table.optimizer):
        return False
    return device != "cpu" or not (is_rounded(table) or (compiled and table.num_embeddings < MOST_ROWS))


def mark_table(parameter: nn.Parameter, table: EmbeddingTable, device: str, seed: int, *, compiled: bool) -> None:
    """Writes on a table's parameter, which is on the meta device, which kernel it gets and by which rule it changes.

    TorchRec passes that on to `_create_embedding_kernel`; it has no public field for a rule of one table. seed: of the
    draws by which our own kernel rounds. compiled: whether ours is.
    """
    parameters: dict[str, Any]
    if table.frozen:
        parameters = {_FROZEN: table.dtype}
    elif has_fbgemm_kernel(table, device, compiled=compiled):
        parameters = fbgemm_parameters(table) | memory_parameters(table)
    else:
        seed_of_draws = seed if is_rounded(table) else None
        parameters = {_ROW_UPDATE: row_update(table), _ROUNDING_SEED: seed_of_draws, _COMPILED: compiled}
    parameter._optimizer_kwargs = [parameters]  # type: ignore[attr-defined]


# ---------------------------------------------------------------- kernels


class _FusedRows:
    """FBGEMM's kernel is made by TorchRec, and left at zeros."""

    _config: GroupedEmbeddingConfig
    _emb_module: Any
    form = "FBGEMM"

    def init_parameters(self) -> None:
        """Does nothing: rows are filled in place by `first_values.py` or a checkpoint."""

    def begin(self, context: UpdateContext) -> None:
        """Sets the learning rate: no fused rule is of a summed loss, and FBGEMM rounds by draws of its own."""
        base = (self._config.fused_params or {})["learning_rate"]
        self._emb_module.set_learning_rate(base * context.learning_rate_factor)

    def look_up(self, ids: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        """Sums rows by bag as `RowTables` does; a kernel that does not pool returns those of all ids [T, D]."""
        return self._emb_module(ids, offsets, per_sample_weights=weights)

    def shards(self) -> Iterator[tuple[str, int, int, Mapping[str, Tensor]]]:
        """Yields (table, row, column, live tensors) of every shard in this kernel."""
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
    """The live tensors of a kernel with `memory: cached` are true only while no row is in its cache.

    Before one is handed out, the cache is written back and emptied. So readers see what was learned, and lookups what
    was overwritten. Who keeps a tensor over a lookup sees neither.
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
    """FBGEMM's kernel serves pooled lookups."""


class FusedSequences(_FusedRows, BatchedFusedEmbedding):
    """FBGEMM's kernel serves unpooled lookups on GPU."""

    def look_up(self, ids: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        """Returns the rows [T, D] of all ids [T]."""
        return self._emb_module(ids, offsets)


class OneIdBags(_FusedRows, BatchedFusedEmbedding):
    """FBGEMM's pooled kernel serves one table's unpooled lookups on CPU, as bags of one id."""

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
        """Returns the rows [T, D] of all ids [T]."""
        return self.look_up(features.values().long(), features.offsets(), None)

    def look_up(self, ids: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        """Returns the rows [T, D] of all ids [T], each a bag of its own."""
        return self._emb_module(ids, torch.arange(ids.numel() + 1, device=ids.device))


class _OwnKernel(nn.Module):
    """A kernel of ours has the surface that TorchRec's lookups use. Sequences are of one table, as bags of one id."""

    tables: RowTables | FrozenRows
    form: str | None
    """What updates rows; None: nothing does."""

    def __init__(self, config: GroupedEmbeddingConfig, *, pooled: bool) -> None:
        super().__init__()
        self.config = config
        self.pooled = pooled
        configs = config.embedding_tables
        self.feature_tables = [t for t, table in enumerate(configs) for _ in table.feature_names] if pooled else [0]
        self.shapes = [(table.local_rows, table.local_cols) for table in configs]

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        return self.look_up(features.values(), features.offsets(), features.weights_or_none())

    def look_up(self, ids: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        """Sums rows by bag as `RowTables` does; a kernel that does not pool returns those of all ids [T, D]."""
        if self.pooled:
            return self.tables(ids, offsets, weights)
        return self.tables(ids, torch.arange(ids.numel() + 1, device=ids.device))


class FrozenKernel(_OwnKernel):
    """Tables that are only read are looked up in `FrozenRows`."""

    def __init__(self, config: GroupedEmbeddingConfig, device: torch.device, *, pooled: bool) -> None:
        super().__init__(config, pooled=pooled)
        dtypes = [(config.fused_params or {})[_FROZEN]] * len(self.shapes)
        self.tables = FrozenRows(self.shapes, self.feature_tables, dtypes=dtypes, device=device)
        self.form = None

    def begin(self, context: UpdateContext) -> None:
        """Does nothing: there is no update."""

    def shards(self) -> Iterator[tuple[str, int, int, dict[str, Tensor]]]:
        """Yields (table, row, column, live tensors) of every shard in this kernel."""
        for table, weight in zip(self.config.embedding_tables, self.tables.weights, strict=True):
            row, column = table.local_metadata.shard_offsets
            yield table.name, row, column, {"weight": weight}


class RowUpdateKernel(_OwnKernel):
    """Tables with a `RowUpdate` are looked up and updated by `RowTables`."""

    tables: RowTables

    def __init__(self, config: GroupedEmbeddingConfig, device: torch.device, *, pooled: bool) -> None:
        super().__init__(config, pooled=pooled)
        parameters = config.fused_params or {}
        seed = parameters[_ROUNDING_SEED]
        names = [quoted(table_name(table.name)) for table in config.embedding_tables]
        self.tables = RowTables(
            self.shapes,
            self.feature_tables,
            [parameters[_ROW_UPDATE]] * len(self.shapes),
            dtypes=[data_type_to_dtype(config.data_type)] * len(self.shapes),
            device=device,
            roundings=[
                None if seed is None else ShardRounding(seed, name, *table.local_metadata.shard_offsets)
                for name, table in zip(names, config.embedding_tables, strict=True)
            ],
            compiled=parameters[_COMPILED],
        )
        self.form = self.tables.form

    def begin(self, context: UpdateContext) -> None:
        """Starts a step of its tables."""
        self.tables.begin(context)

    def shards(self) -> Iterator[tuple[str, int, int, dict[str, Tensor]]]:
        """Yields (table, row, column, live tensors) of every shard in this kernel."""
        for i, table in enumerate(self.config.embedding_tables):
            row, column = table.local_metadata.shard_offsets
            yield table.name, row, column, {"weight": self.tables.weights[i], **self.tables.states[i]}


def own_kernel(config: GroupedEmbeddingConfig) -> type[RowUpdateKernel] | type[FrozenKernel] | None:
    """Returns the kernel of ours that serves a group of tables; None: FBGEMM's does."""
    parameters = config.fused_params or {}
    return FrozenKernel if _FROZEN in parameters else RowUpdateKernel if _ROW_UPDATE in parameters else None
