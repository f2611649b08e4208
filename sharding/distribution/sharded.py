"""TorchRec's sharded modules get our kernels here, and no `state_dict` of their own.

Checkpoints read the kernels' memory, and whoever asks the surrounding module for parameters or buffers gets the tower's
alone. Checked with torchrec 1.6.1 and 1.8.0; what is overridden or private is pinned by
`tests/sharding/distribution/test_private_surface.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torch.distributed._shard.sharding_spec import EnumerableShardingSpec, ShardMetadata
from torchrec.distributed.embedding import EmbeddingCollectionSharder, ShardedEmbeddingCollection
from torchrec.distributed.embedding_lookup import GroupedEmbeddingsLookup, GroupedPooledEmbeddingsLookup
from torchrec.distributed.embedding_types import GroupedEmbeddingConfig
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder, ShardedEmbeddingBagCollection
from torchrec.distributed.sharding.grid_sharding import BaseGridEmbeddingSharding
from torchrec.distributed.sharding.twrw_sharding import BaseTwRwEmbeddingSharding
from torchrec.distributed.types import ParameterSharding

from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.distribution.row_kernels import (
    FusedBags,
    FusedSequences,
    OneIdBags,
    has_fbgemm_kernel,
    own_kernel,
)
from shardrec.sharding.planning.row_memory import cache_parameters, compute_kernel
from shardrec.sharding.tables.live import is_rounded

TYPES = {"grid": "grid_shard"}
"""Placements that TorchRec has other names for."""


def parameter_sharding(
    table: EmbeddingTable,
    placement: str,
    shards: list[tuple[int, int, int, int, int]],
    devices: Sequence[torch.device],
    *,
    compiled: bool,
) -> ParameterSharding:
    """Returns TorchRec's form of a table's placement; a shard is (rank, row, column, rows, columns), physical ones.

    devices: of all ranks, as each one knows its own. compiled: whether our own kernel is.
    """
    by_fbgemm = has_fbgemm_kernel(table, devices[0].type, compiled=compiled)
    return ParameterSharding(
        sharding_type=TYPES.get(placement, placement),
        compute_kernel=compute_kernel(table),
        ranks=[rank for rank, *_ in shards],
        sharding_spec=EnumerableShardingSpec(
            [
                ShardMetadata(
                    shard_offsets=[row, column], shard_sizes=[rows, columns], placement=f"rank:{rank}/{devices[rank]}"
                )
                for rank, row, column, rows, columns in shards
            ]
        ),
        cache_params=cache_parameters(table) if by_fbgemm else None,
        stochastic_rounding=is_rounded(table) if by_fbgemm else None,
        bounds_check_mode=BoundsCheckMode.FATAL if by_fbgemm else None,
    )


class BagLookup(GroupedPooledEmbeddingsLookup):
    """Kernels of ours or FBGEMM's look up the pooled inputs of one placement."""

    def _create_embedding_kernel(
        self, config: Any, device: Any, pg: Any, sharding_type: Any = None, env: Any = None
    ) -> Any:
        if own := own_kernel(config):
            return own(config, device, pooled=True)
        return FusedBags(config, pg, device, sharding_type)


class SequenceLookup(GroupedEmbeddingsLookup):
    """Kernels look up the sequences of one placement: one kernel a table, but for FBGEMM's on GPU."""

    def __init__(self, grouped_configs: list[GroupedEmbeddingConfig], device: torch.device, **rest: Any) -> None:
        split = [
            replace(config, embedding_tables=tables, fused_params=dict(config.fused_params or {}))
            for config in grouped_configs
            for tables in self._kernel_tables(config, device)
        ]
        super().__init__(split, device=device, **rest)

    @staticmethod
    def _kernel_tables(config: GroupedEmbeddingConfig, device: torch.device) -> list[list[Any]]:
        if device.type == "cpu" or own_kernel(config):
            return [[table] for table in config.embedding_tables]
        return [config.embedding_tables]

    def _create_embedding_kernel(self, config: Any, pg: Any, device: Any, env: Any = None) -> Any:
        if own := own_kernel(config):
            return own(config, device, pooled=False)
        return (OneIdBags if device.type == "cpu" else FusedSequences)(config, pg, device)


class ShardedBags(ShardedEmbeddingBagCollection):
    """A sharded EmbeddingBagCollection has our lookups in it."""

    def _create_lookups(self) -> None:
        for sharding in self._embedding_shardings:
            configs = (
                sharding._grouped_embedding_configs_per_rank[sharding._rank]
                if isinstance(sharding, BaseTwRwEmbeddingSharding | BaseGridEmbeddingSharding)
                else sharding._grouped_embedding_configs
            )
            self._lookups.append(BagLookup(configs, device=self._device, pg=sharding._pg, env=self._env))

    def _initialize_torch_state(self, skip_registering: bool = False) -> None:
        """Makes no parameters: see the module's docstring."""

    def feature_order(self) -> list[str]:
        """Returns the keys in the order that needs no permutation of the ids."""
        return [f for sharding in self._embedding_shardings for f in sharding.feature_names()]


class ShardedSequences(ShardedEmbeddingCollection):
    """A sharded EmbeddingCollection has our lookups in it."""

    def _create_lookups(self) -> None:
        for sharding in self._sharding_type_to_sharding.values():
            self._lookups.append(
                SequenceLookup(sharding._grouped_embedding_configs, self._device, pg=sharding._pg, env=self._env)
            )

    def _initialize_torch_state(self, skip_registering: bool = False) -> None:
        """Makes no parameters: see the module's docstring."""

    def feature_order(self) -> list[str]:
        """Returns the keys in the order that needs no permutation of the ids."""
        return [f for sharding in self._sharding_type_to_sharding.values() for f in sharding.feature_names()]


def kernels(module: ShardedBags | ShardedSequences) -> list[Any]:
    """Returns all kernels of a sharded module on this rank."""
    return [kernel for lookup in module._lookups for kernel in lookup._emb_modules]


def shardings(module: ShardedBags | ShardedSequences) -> list[tuple[Any, Any]]:
    """Returns (TorchRec's sharding, this rank's lookup) of each placement in a sharded module."""
    is_bags = isinstance(module, ShardedBags)
    found = module._embedding_shardings if is_bags else module._sharding_type_to_sharding.values()
    return list(zip(found, module._lookups, strict=True))


class _Sharder:
    """What our sharders have in common: `sharded_module` is what they make, of any placement but replicas."""

    sharded_module: type
    fused_params: dict[str, Any] | None
    qcomm_codecs_registry: dict[str, Any] | None

    def sharding_types(self, compute_device_type: str) -> list[str]:
        return ["table_wise", "column_wise", "row_wise", "table_row_wise", "grid_shard"]

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        return ["fused"]

    def shard(
        self,
        module: Any,
        params: Mapping[str, ParameterSharding],
        env: Any,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> Any:
        return self.sharded_module(
            module,
            dict(params),
            env=env,
            fused_params=self.fused_params,
            device=device,
            qcomm_codecs_registry=self.qcomm_codecs_registry,
            module_fqn=module_fqn,
        )

    @property
    def sharded_module_type(self) -> type:
        return self.sharded_module


class BagSharder(_Sharder, EmbeddingBagCollectionSharder):
    """DistributedModelParallel makes `ShardedBags` by it."""

    sharded_module = ShardedBags


class SequenceSharder(_Sharder, EmbeddingCollectionSharder):
    """DistributedModelParallel makes `ShardedSequences` by it."""

    sharded_module = ShardedSequences
