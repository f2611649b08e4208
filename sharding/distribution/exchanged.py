"""The tables that TorchRec shards are looked up by an exchange of ours, but for those that are summed within hosts.

TorchRec says which kernels each rank has, and makes this one's.
"""

from typing import Any

import torch
import torch.distributed as dist
from torchrec.distributed.embedding_types import GroupedEmbeddingConfig

from shardrec.sharding.distribution.codecs import GRADIENT_NUMBERS, VECTOR_NUMBERS
from shardrec.sharding.distribution.host_groups import SUMMED_WITHIN_HOSTS
from shardrec.sharding.distribution.sharded import ShardedBags, ShardedSequences, shardings
from shardrec.sharding.exchange.exchange import TableExchange
from shardrec.sharding.exchange.slots import KernelSlots, Slot
from shardrec.sharding.exchange.vectors import Numbers
from shardrec.sharding.lookup.lookup import EmbeddingLookup
from shardrec.sharding.lookup.part import Part
from shardrec.sharding.planning.plan import Plan
from shardrec.sharding.tables.module_names import feature_name, table_name


def use_exchange(lookup: EmbeddingLookup, plan: Plan, device: torch.device, process_group: dist.ProcessGroup) -> None:
    """Lets one exchange look up all the parts of a lookup that it can, where there are several ranks."""
    rank = dist.get_rank(process_group)
    of_ranks: list[list[KernelSlots]] = [[] for _ in range(plan.world_size)]
    kernels: list[tuple[KernelSlots, Any]] = []
    served = [
        (i, part, part.collection)
        for i, part in enumerate(lookup.collections)
        if isinstance(part.collection, ShardedBags | ShardedSequences)
        and not any(plan.tables[t.name].placement in SUMMED_WITHIN_HOSTS for t in part.group.tables)
    ]
    if plan.world_size == 1 or not served:
        return
    for i, part, collection in served:
        for sharding, its_lookup in shardings(collection):
            for other, configs in enumerate(sharding._grouped_embedding_configs_per_rank):
                of_ranks[other] += [_slots(i, part, plan, config, other) for config in configs]
            kernels += [(_slots(i, part, plan, _config(kernel), rank), kernel) for kernel in its_lookup._emb_modules]
    kernels.sort(key=_pooled_first)
    of_ranks[rank] = [slots for slots, _ in kernels]  # of the same slots, in kernels as they were made
    tables = [table for _, part, _ in served for table in part.group.tables]
    lookup.use_exchange(
        TableExchange(
            [sorted(kernels_of, key=lambda slots: not slots.pooled) for kernels_of in of_ranks],
            [kernel for _, kernel in kernels],
            single=lookup.narrow_features,
            weighted=lookup.weighted_names,
            learns=any(not table.frozen for table in tables),
            numbers=Numbers(VECTOR_NUMBERS[plan.exchange], GRADIENT_NUMBERS[plan.exchange]),
            device=device,
            process_group=process_group,
        )
    )


def _pooled_first(kernel: tuple[KernelSlots, Any]) -> bool:
    return not kernel[0].pooled


def _config(kernel: Any) -> GroupedEmbeddingConfig:
    """Returns what a kernel was made of, ours or FBGEMM's."""
    config = kernel.config if hasattr(kernel, "config") else kernel._config
    assert isinstance(config, GroupedEmbeddingConfig)
    return config


def _slots(part: int, of: Part, plan: Plan, config: GroupedEmbeddingConfig, rank: int) -> KernelSlots:
    """Returns the slots of the tables that one kernel of a rank has."""
    slots = []
    for shard in config.embedding_tables:
        assert shard.local_metadata is not None
        planned, (row, column) = plan.tables[table_name(shard.name)], shard.local_metadata.shard_offsets
        block = planned.shards[0].rows if planned.placement == "row_wise" else 0
        for feature in map(feature_name, shard.feature_names):
            key = of.group.key(feature, planned.table)
            slots.append(Slot(feature, key, column, shard.local_cols, row, block, rank == plan.world_size - 1))
    return KernelSlots(part, of.group.kind != "sequences", of.group.kind == "weighted_bags", tuple(slots))
