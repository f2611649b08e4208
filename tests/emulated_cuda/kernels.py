"""FBGEMM's module of tables as it is built for CUDA, with its kernels played by our own.

Buffers, caches and their bookkeeping are FBGEMM's; a cache is as large as its tables here, and as stale: rows that were
updated are in host memory only after `flush`, and rows written there are seen only after `reset_cache_states`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen as Tables
from torch import Tensor

from shardrec.sharding.updates.context import UpdateContext
from shardrec.sharding.updates.row_tables import RowTables
from shardrec.sharding.updates.rules import AdaGrad, RowUpdate, RowwiseAdaGrad, Sgd
from tests.emulated_cuda.device import DeviceTensor

ON_DEVICE = ("weights_dev", "weights_uvm", "weights_offsets", "weights_placements", "D_offsets", "hash_size_cumsum",
             "lxu_cache_weights", "rows_per_table", "bounds_check_warning")  # fmt: skip
"""Buffers that FBGEMM's kernels read on the device."""


class _Played:
    """What the kernels of one module do: lookups of its own weights, updated in backward."""

    def __init__(self, module: Any) -> None:
        for name in ON_DEVICE:
            assert isinstance(getattr(module, name), DeviceTensor), f"{name} is on the CPU"
        assert type(module.learning_rate_tensor) is Tensor, "FBGEMM reads the learning rate on the host"
        self.module = module
        self.bags = module.pooling_mode != PoolingMode.NONE
        self.behind = list(module.split_embedding_weights())
        cached = module.lxu_cache_weights.numel() > 0
        self.weights = [w.clone() for w in self.behind] if cached else self.behind
        states = module.split_optimizer_states() or [[] for _ in self.weights]
        self.states = [{"accumulator": s[0]} if s else {} for s in states]

    def flush(self) -> None:
        for there, here in zip(self.behind, self.weights, strict=True):
            if there is not here:
                there.copy_(here)

    def lookup(self, ids: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        tables = list(self.module.feature_table_map)
        if self.bags:
            return self._rows(range(len(self.weights)), tables)(ids, offsets, weights)
        batch = (offsets.numel() - 1) // len(tables)
        first = offsets[::batch].tolist()
        spans = [ids[first[f] : first[f + 1]] for f in range(len(tables))]
        found: dict[int, Tensor] = {}
        for t in dict.fromkeys(tables):  # each once, since an update is of all that was read of a table
            mine = [f for f, table in enumerate(tables) if table == t]
            read = torch.cat([spans[f] for f in mine])
            rows = self._rows([t], [0])(read, torch.arange(read.numel() + 1, device=read.device))
            found |= dict(zip(mine, rows.split([spans[f].numel() for f in mine]), strict=True))
        return torch.cat([found[f] for f in range(len(tables))])

    def _rows(self, tables: Any, features: list[int]) -> RowTables:
        update = _update(self.module)
        shapes, dtypes = [(1, 1) for _ in tables], [self.weights[t].dtype for t in tables]
        rows = RowTables(
            shapes, features, [update for _ in tables], dtypes=dtypes, device=DeviceTensor.home, compiled=False
        )
        rows.weights, rows.states = [self.weights[t] for t in tables], [self.states[t] for t in tables]
        rows.begin(UpdateContext(0, self.module.learning_rate_tensor.item()))
        return rows


def _update(module: Any) -> RowUpdate:
    """Returns the module's rule for a learning rate of 1, to be multiplied by today's."""
    eps = module.optimizer_args.eps
    match module.optimizer:
        case EmbOptimType.EXACT_SGD:
            return Sgd(learning_rate=1.0)
        case EmbOptimType.EXACT_ADAGRAD:
            return AdaGrad(learning_rate=1.0, eps=eps)
        case EmbOptimType.EXACT_ROWWISE_ADAGRAD:
            return RowwiseAdaGrad(learning_rate=1.0, eps=eps)
    raise NotImplementedError(module.optimizer)


@contextmanager
def emulated_kernels() -> Iterator[None]:
    """Has FBGEMM's modules on CUDA look up and update by what is played here."""
    forward, reset, played = Tables.forward, Tables.reset_cache_states, "_played"

    def play(self: Any, indices: Tensor, offsets: Tensor, per_sample_weights: Tensor | None = None,
             *rest: Any, **settings: Any) -> Tensor:  # fmt: skip
        if self.use_cpu:
            return forward(self, indices, offsets, per_sample_weights, *rest, **settings)
        assert isinstance(indices, DeviceTensor) and isinstance(offsets, DeviceTensor)
        indices, offsets, per_sample_weights, _ = self.prepare_inputs(indices, offsets, per_sample_weights)
        assert indices.dtype == offsets.dtype
        self.timestep += 1  # as with every look into the cache
        if played not in self.__dict__:
            self.__dict__[played] = _Played(self)
        return self.__dict__[played].lookup(indices, offsets, per_sample_weights)

    def flush(self: Any) -> None:
        if played in self.__dict__:
            self.__dict__[played].flush()

    def forget(self: Any) -> None:
        reset(self)
        self.__dict__.pop(played, None)

    def unified(like: Tensor, sizes: list[int], is_host_mapped: bool = False) -> Tensor:
        return DeviceTensor(torch.zeros(sizes, dtype=like.dtype))

    with (
        patch.multiple(Tables, forward=play, flush=flush, reset_cache_states=forget),
        patch.object(torch.ops.fbgemm, "new_unified_tensor", unified, create=True),
    ):
        yield
