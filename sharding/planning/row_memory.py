"""A GPU's rows lie in device memory or on its host; this is what that takes of both, and what kernels are told of it.

- `device`: weights and optimizer state in device memory.
- `managed`: weights in CUDA's managed memory, which FBGEMM advises to stay on the host and to be mapped on the device:
  rows are read and written over the bus, page faults aside. TorchRec's `fused_uvm`.
- `host`: the same in ordinary host memory that is pinned and mapped (`uvm_host_mapped`).
- `cached`: managed, and the rows used last in a cache of `cache_share` of the table in device memory; TorchRec's
  `fused_uvm_caching`. Such a table has a kernel of its own, as FBGEMM makes all rows of a kernel's cache equally wide.

Optimizer state of one number a row always stays in device memory, that of a row's shape lies with the weights, uncached
(FBGEMM's choice). Only rows that FBGEMM's fused kernels update can lie outside of device memory. CPU workers have one
memory: there everything counts as `device`.

Not offered: TorchRec's key-value kernels (rows on SSD or in a RocksDB-like store beside the process), whose rows are no
tensors that could be initialised, saved or given away in place; and its memory stashing, which copies whole tables out
of device memory and back in every step.
"""

from math import prod
from typing import Any

from fbgemm_gpu.split_table_batched_embeddings_ops_common import CacheAlgorithm
from torchrec.distributed.types import CacheParams

from shardrec.data_pipeline.errors import UserError
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.planning.topology import Topology
from shardrec.sharding.tables.live import is_fused, physical_dim, row_bytes
from shardrec.sharding.updates.choose import row_update

CACHE_WAYS = 32
"""A set of FBGEMM's cache has so many rows, the unit of its size."""

SLOT_BYTES, INDEX_BYTES = 16, 4
"""Bytes of device memory besides: a cached row's number and last use, and an index for each row of a cached table."""

_KERNELS = {"device": "fused", "managed": "fused_uvm", "host": "fused_uvm", "cached": "fused_uvm_caching"}


def check_row_memory(table: EmbeddingTable) -> None:
    """Raises UserError for a table outside of device memory that cannot lie there, on CPU too."""
    assert table.optimizer is not None
    if table.memory == "device":
        return
    subject = f"table {table.name!r}: memory: {table.memory}"
    if not is_fused(table.optimizer):
        raise UserError(
            f"{subject} is for rows that FBGEMM's kernels update, by sgd, adagrad or rowwise_adagrad without momentum "
            f"and weight_decay, but its optimizer is {table.optimizer.name}{_settings(table)}; choose one of these, or "
            "memory: device"
        )
    if table.placement == "data_parallel":
        raise UserError(
            f"{subject} with placement data_parallel, but replicas lie in device memory; change one of the two"
        )
    if table.memory == "cached" and table.dynamic:
        raise UserError(
            f"{subject}, but rows of a dynamic table are given to other ids in any step, which would empty the cache; "
            "choose memory: managed or host"
        )


def may_lie_on_host(table: EmbeddingTable) -> bool:
    """Says whether a table that is in device memory could be elsewhere, cached or not."""
    assert table.optimizer is not None
    free = table.placement != "data_parallel" and table.dynamic is None and not table.frozen
    return table.memory == "device" and free and is_fused(table.optimizer)


def _settings(table: EmbeddingTable) -> str:
    o = table.optimizer
    assert o is not None
    settings = {"momentum": o.momentum, "weight_decay": o.weight_decay}
    return "".join(f" with {name} {value:g}" for name, value in settings.items() if value)


# ---------------------------------------------------------------- what it takes


def shard_bytes(table: EmbeddingTable, rows: int, columns: int) -> int:
    """Returns the bytes of so many rows and physical columns of a table with their state, wherever they are."""
    return rows * row_bytes(table, columns) + sum(_state_bytes(table, rows, columns))


def device_bytes(table: EmbeddingTable, rows: int, columns: int) -> int:
    """Returns how many of `shard_bytes` a rank's own memory holds, and its cache: a GPU's, or all of a CPU worker's."""
    if table.memory == "device":
        return shard_bytes(table, rows, columns)
    narrow, _ = _state_bytes(table, rows, columns)
    if table.memory != "cached":
        return narrow
    sets = max(1, -(-int(rows * table.cache_share) // CACHE_WAYS))
    cached = sets * CACHE_WAYS * (row_bytes(table, columns) + SLOT_BYTES) + rows * INDEX_BYTES
    return narrow + cached


def host_bytes(table: EmbeddingTable, rows: int, columns: int) -> int:
    """Returns how many of `shard_bytes` the memory of the GPU's host holds."""
    if table.memory == "device":
        return 0
    return rows * row_bytes(table, columns) + _state_bytes(table, rows, columns)[1]


def _state_bytes(table: EmbeddingTable, rows: int, columns: int) -> tuple[int, int]:
    """Returns the bytes of optimizer state: of one number a row, and of a row's shape."""
    shapes = () if table.frozen else row_update(table).state_shapes(rows, columns).values()
    narrow = 4 * sum(prod(shape) for shape in shapes if len(shape) == 1)
    return narrow, 4 * sum(prod(shape) for shape in shapes if len(shape) > 1)


def slowdown(table: EmbeddingTable, topology: Topology) -> float:
    """Returns how many times as long rows take as in device memory, if ids are spread evenly over them."""
    if table.memory == "device":
        return 1.0
    over_the_bus = topology.row_bandwidth / topology.bus_bandwidth
    cached_share = table.cache_share if table.memory == "cached" else 0.0
    return cached_share + (1 - cached_share) * over_the_bus


# ---------------------------------------------------------------- what kernels are told


def compute_kernel(table: EmbeddingTable) -> str:
    """Returns TorchRec's name for the kernel of a table's memory."""
    return _KERNELS[table.memory]


def cache_parameters(table: EmbeddingTable) -> CacheParams | None:
    """Returns the cache that a table's rows have in device memory, in TorchRec's form; None: none."""
    if table.memory != "cached":
        return None
    return CacheParams(algorithm=CacheAlgorithm.LRU, load_factor=table.cache_share)


def memory_parameters(table: EmbeddingTable) -> dict[str, Any]:
    """Returns what TorchRec has no field for: pinned rows, and a kernel of its own for a cached table."""
    return {"host": {"uvm_host_mapped": True}, "cached": {"use_one_tbe_per_table": True}}.get(table.memory, {})


def described_memory(table: EmbeddingTable) -> str:
    """Returns `cached (20 %)` and the like."""
    return f"cached ({100 * table.cache_share:g} %)" if table.memory == "cached" else table.memory


def whole_host_bytes(table: EmbeddingTable) -> int:
    """Returns the bytes of a whole table in host memory."""
    return host_bytes(table, table.num_embeddings, physical_dim(table))
