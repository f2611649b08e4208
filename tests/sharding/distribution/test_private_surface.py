"""The part of TorchRec that is private and that we override or read is the part that was checked.

On another version a test here fails for each thing that changed. Then compare it with ours, run the tests of
`sharding/`, and put the new values in: `python -m tests.sharding.distribution.test_private_surface` prints them.
"""

import hashlib
import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
from torchrec.distributed import comm, embedding, embeddingbag
from torchrec.distributed.batched_embedding_kernel import (
    BaseBatchedEmbedding,
    BaseBatchedEmbeddingBag,
    BatchedFusedEmbedding,
    BatchedFusedEmbeddingBag,
)
from torchrec.distributed.embedding_lookup import GroupedEmbeddingsLookup, GroupedPooledEmbeddingsLookup
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper
from torchrec.distributed.sharding import grid_sharding, rw_sharding, tw_sharding, twrw_sharding

from shardrec.sharding.distribution import host_groups, row_kernels, sharded, tower

Bags, BagSharder = embeddingbag.ShardedEmbeddingBagCollection, embeddingbag.EmbeddingBagCollectionSharder
Sequences, SequenceSharder = embedding.ShardedEmbeddingCollection, embedding.EmbeddingCollectionSharder

OVERRIDDEN: dict[Callable[..., Any], object] = {
    GroupedPooledEmbeddingsLookup._create_embedding_kernel: sharded.BagLookup._create_embedding_kernel,
    GroupedEmbeddingsLookup._create_embedding_kernel: sharded.SequenceLookup._create_embedding_kernel,
    GroupedEmbeddingsLookup.__init__: sharded.SequenceLookup.__init__,
    Bags._create_lookups: sharded.ShardedBags._create_lookups,
    Bags._initialize_torch_state: sharded.ShardedBags._initialize_torch_state,
    Sequences._create_lookups: sharded.ShardedSequences._create_lookups,
    Sequences._initialize_torch_state: sharded.ShardedSequences._initialize_torch_state,
    BagSharder.shard: sharded.BagSharder.shard,
    SequenceSharder.shard: sharded.SequenceSharder.shard,
    BaseBatchedEmbeddingBag.init_parameters: row_kernels.FusedBags.init_parameters,
    BaseBatchedEmbedding.init_parameters: row_kernels.FusedSequences.init_parameters,
    BaseBatchedEmbedding.forward: row_kernels.OneIdBags.forward,
    BatchedFusedEmbedding.__init__: row_kernels.OneIdBags.__init__,
    BatchedFusedEmbeddingBag.__init__: row_kernels.FusedBags,
    Bags.create_grouped_sharding_infos: row_kernels.mark_table,
    embeddingbag.create_sharding_infos_by_sharding_device_group: row_kernels.mark_table,
    Sequences.create_grouped_sharding_infos: row_kernels.mark_table,
    embedding.create_sharding_infos_by_sharding_device_group: row_kernels.mark_table,
    comm.intra_and_cross_node_pg: host_groups.use_host_groups,
    DefaultDataParallelWrapper._ddp_wrap: tower.TowerWrapper._ddp_wrap,
}
"""TorchRec's functions, and what of ours takes their place, calls them or writes what they read."""

ATTRIBUTES: dict[type, tuple[str, ...]] = {
    Bags: ("_lookups", "_embedding_shardings", "_device", "_env"),
    Sequences: ("_lookups", "_sharding_type_to_sharding", "_device", "_env"),
    tw_sharding.BaseTwEmbeddingSharding: (
        "_grouped_embedding_configs",
        "_grouped_embedding_configs_per_rank",
        "_pg",
    ),
    rw_sharding.BaseRwEmbeddingSharding: (
        "_grouped_embedding_configs",
        "_grouped_embedding_configs_per_rank",
        "_pg",
    ),
    twrw_sharding.BaseTwRwEmbeddingSharding: ("_grouped_embedding_configs_per_rank", "_rank", "_pg"),
    grid_sharding.BaseGridEmbeddingSharding: ("_grouped_embedding_configs_per_rank", "_rank", "_pg"),
    GroupedPooledEmbeddingsLookup: ("_emb_modules",),
    GroupedEmbeddingsLookup: ("_emb_modules",),
    BatchedFusedEmbeddingBag: ("_emb_module",),
    BatchedFusedEmbedding: ("_emb_module",),
    BaseBatchedEmbeddingBag: ("_config",),
    BaseBatchedEmbedding: ("_config",),
}
"""Private attributes that we read, by the class whose `__init__` sets them."""

CHECKED: dict[str, tuple[str, ...]] = {
    "embedding_lookup.GroupedPooledEmbeddingsLookup._create_embedding_kernel": ("6e8a92dfffe88181", "46351dd9c4996c96"),
    "embedding_lookup.GroupedEmbeddingsLookup._create_embedding_kernel": ("f61f152049b843c6", "ce5ab492fe2bcfe0"),
    "embedding_lookup.GroupedEmbeddingsLookup.__init__": ("117c5dec267ad7a9",),
    "embeddingbag.ShardedEmbeddingBagCollection._create_lookups": ("230d0dce87a93d48",),
    "embeddingbag.ShardedEmbeddingBagCollection._initialize_torch_state": ("572a09c740aa7da8", "a9aed6ca3e5c6ae2"),
    "embedding.ShardedEmbeddingCollection._create_lookups": ("20603c600bd45466",),
    "embedding.ShardedEmbeddingCollection._initialize_torch_state": ("432f517c3f102f98", "ea1e454afdd85f45"),
    "embeddingbag.EmbeddingBagCollectionSharder.shard": ("47fb4b8f1b9316a2", "209043da2518fe86"),
    "embedding.EmbeddingCollectionSharder.shard": ("effa8e15a2090127", "7ddf639248e11bfc"),
    "batched_embedding_kernel.BaseBatchedEmbeddingBag.init_parameters": ("b83e727aef149772",),
    "batched_embedding_kernel.BaseBatchedEmbedding.init_parameters": ("b83e727aef149772",),
    "batched_embedding_kernel.BaseBatchedEmbedding.forward": ("ef3a6f0a862002a9",),
    "batched_embedding_kernel.BatchedFusedEmbedding.__init__": ("175e7e42122a997c",),
    "batched_embedding_kernel.BatchedFusedEmbeddingBag.__init__": ("2722dfa179eb7526",),
    "embeddingbag.ShardedEmbeddingBagCollection.create_grouped_sharding_infos": (
        "0303af9ec18c7182",
        "a49534c54b9e578e",
    ),
    "embeddingbag.create_sharding_infos_by_sharding_device_group": ("f0fed36fdb923923", "532daef1bd225b99"),
    "embedding.ShardedEmbeddingCollection.create_grouped_sharding_infos": ("0f5249ce500a409a",),
    "embedding.create_sharding_infos_by_sharding_device_group": ("2b5026dbfebc857c",),
    "comm.intra_and_cross_node_pg": ("9126419794301d53", "c43441698e4a4db3"),
    "model_parallel.DefaultDataParallelWrapper._ddp_wrap": ("12861093c1597a1a", "40762f03efffc056"),
}
"""The first digits of the SHA-256 of each function's source in torchrec 1.8.0, then in 1.6.1 where that differs."""


def name_of(function: Callable[..., Any]) -> str:
    return f"{function.__module__.removeprefix('torchrec.distributed.')}.{function.__qualname__}"


def source_hash(function: Callable[..., Any]) -> str:
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]


def ours(function: object) -> str:
    return function if isinstance(function, str) else f"{function.__module__}.{function.__qualname__}"  # type: ignore[attr-defined]


@pytest.mark.parametrize("function", OVERRIDDEN, ids=name_of)
def test_functions_are_those_that_were_checked(function: Callable[..., Any]) -> None:
    name = name_of(function)
    assert source_hash(function) in CHECKED.get(name, ()), (
        f"torchrec {version('torchrec')}: {name}{inspect.signature(function)} is not what was checked; "
        f"see whether ours still fits it: {ours(OVERRIDDEN[function])}"
    )


@pytest.mark.parametrize("owner", ATTRIBUTES, ids=lambda owner: owner.__name__)
def test_attributes_are_still_set(owner: type) -> None:
    source = inspect.getsource(owner.__init__)  # type: ignore[misc]
    for name in ATTRIBUTES[owner]:
        assert f"self.{name}:" in source or f"self.{name} =" in source, (
            f"torchrec {version('torchrec')}: {owner.__name__} sets no {name}, which sharding/distribution/ reads"
        )


if __name__ == "__main__":
    for overridden in OVERRIDDEN:
        print(f'    "{name_of(overridden)}": ("{source_hash(overridden)}",),')
