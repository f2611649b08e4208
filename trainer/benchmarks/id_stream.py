"""A long stream of raw ids goes through one dynamic table, beside exact counts of all ids that occurred in it.

Ids are a power law's numbers, spread over all 64-bit integers by a permutation, so that every number's id is known and
can be looked for in the end. Every rank calls the functions here alike, inside a process group; each draws the whole
stream and trains on its share of every batch.
"""

import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from shardrec.data_pipeline.batch import Batch
from shardrec.models.dynamic_ids import DynamicConfig, DynamicIds
from shardrec.models.inputs import PooledEmbeddings
from shardrec.models.table_settings import TableOptimizer
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.distribution.distribute import Distributed, distribute
from shardrec.sharding.dynamic.id_map import IdMap
from shardrec.sharding.dynamic.set_cache import bucket_of
from shardrec.sharding.lookup.lookup import EmbeddingLookup
from shardrec.sharding.planning.planner import plan_tables
from shardrec.sharding.planning.topology import Topology
from shardrec.sharding.tables.collective import ProcessGroupCollective
from shardrec.sharding.tables.draws import mixed
from shardrec.sharding.updates.context import UpdateContext
from shardrec.trainer.benchmarks.sharded_tables import PooledStep, draw_ranks

NAME = "ids"
_CHUNK = 1 << 20  # numbers that the census looks at together


@dataclass(frozen=True)
class Stream:
    """A stream is `events` ids of `space` possible ones, `batch` in each step, as frequent as rank^-skew."""

    events: int
    space: int
    batch: int
    skew: float
    seed: int = 0

    @property
    def steps(self) -> int:
        """Returns how many batches the stream is."""
        return -(-self.events // self.batch)

    @property
    def counter_bytes(self) -> int:
        """Returns the bytes of the exact counts, which every rank has."""
        return 4 * self.space

    def numbers(self, step: int) -> Tensor:
        """Returns the numbers of one step: [batch] int64 in [0, space), fewer in the last step."""
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {step}".encode()))
        count = min(self.batch, self.events - step * self.batch)
        return draw_ranks(count, self.space, self.skew, generator)


def id_of(numbers: Tensor) -> Tensor:
    """Returns the raw 64-bit ids of numbers, each number's another one."""
    return mixed(numbers.clone())


def build_table(config: DynamicConfig, embedding_dim: int, device: torch.device) -> Distributed:
    """Builds the table that the stream goes through, row-wise over all ranks."""
    ids = DynamicIds(NAME, config)
    table = EmbeddingTable(
        name=NAME,
        num_embeddings=ids.num_embeddings,
        embedding_dim=embedding_dim,
        dynamic=ids,
        placement="row_wise",
    )
    inputs = {"pooled": PooledEmbeddings({NAME: table})}
    optimizer = TableOptimizer()
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    topology = Topology.here(ranks, ranks, device)
    plan = plan_tables(inputs, optimizer, topology.agreed() if ranks > 1 else topology)
    lookup = EmbeddingLookup(inputs, (), device="meta")
    return distribute(PooledStep(lookup), plan, optimizer=optimizer, seed=0, device=device)


def run_stream(
    stream: Stream, table: Distributed, device: torch.device, on_step: Callable[[int], None] = lambda step: None
) -> dict[str, Any]:
    """Trains on all events; returns the figures of `report`, and how fast it was."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    occurred = torch.zeros(stream.space, dtype=torch.int32)
    seconds = []
    for step in range(stream.steps):
        numbers = stream.numbers(step)
        occurred.index_add_(0, numbers, torch.ones(len(numbers), dtype=torch.int32))
        batch = _batch(id_of(numbers[rank::ranks]), -(-len(numbers) // ranks)).to(device)
        dist.barrier()
        began = time.perf_counter()
        table.begin(UpdateContext(step))
        looked_up = table.module(batch)
        looked_up.backward(torch.full_like(looked_up, 1e-3))
        table.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
        on_step(step + 1)
    speed = {"events_per_second": stream.events / sum(seconds), "step_milliseconds": 1e3 * median(seconds)}
    return {**asdict(stream), "workers": ranks, **report(table.id_maps[NAME], occurred), **speed}


def _batch(ids: Tensor, count: int) -> Batch:
    """Returns a batch of an id a row, and of rows without one up to `count`."""
    lengths = (torch.arange(count) < len(ids)).long()
    read = KeyedJaggedTensor(keys=[NAME], values=ids, lengths=lengths, stride=count)
    rows = torch.where(lengths > 0, torch.arange(count), -1)
    return Batch(torch.zeros(count, 0), read, None, {}, lengths.float(), None, rows)


@dataclass
class Census:
    """A census counts ids by whether they have a row in the end, and whether it counts them as the stream does.

    residents: ids with a row, each found by its id. overcounted, undercounted: residents whose count is above or below
    the true one (an id that was evicted, or forgotten as a candidate, is counted anew). too_early: residents that
    occurred less often than `after`. top_ids: ids that occurred at least as often as asked; top_residents, top_exact:
    of these, those with a row, and those whose count is the true one.
    """

    residents: int = 0
    overcounted: int = 0
    undercounted: int = 0
    too_early: int = 0
    top_ids: int = 0
    top_residents: int = 0
    top_exact: int = 0

    def add(self, true: Tensor, counts: Tensor, after: int, frequent: int) -> None:
        """Takes up ids by their true counts [n] and those of their rows [n], 0 for ids without one."""
        here, top = counts > 0, true >= frequent
        self.residents += int(here.sum())
        self.overcounted += int((counts > true).sum())
        self.undercounted += int((here & (counts < true)).sum())
        self.too_early += int((here & (true < after)).sum())
        self.top_ids += int(top.sum())
        self.top_residents += int((top & here).sum())
        self.top_exact += int((top & (counts == true)).sum())


def take_census(id_map: IdMap, occurred: Tensor, frequent: int) -> Census:
    """Takes the census of this rank's buckets; `occurred` [space]: how often each number did."""
    census = Census()
    device = id_map.row_state["count"].device
    for first, true in enumerate(occurred.split(_CHUNK)):
        numbers = (true > 0).nonzero().squeeze(1)
        ids = id_of(numbers + first * _CHUNK)
        bucket = bucket_of(id_map.geometry, ids)
        mine = ((bucket >= id_map.buckets.start) & (bucket < id_map.buckets.stop)).nonzero().squeeze(1)
        if not len(mine):
            continue
        rows = id_map.find(ids[mine].to(device))
        counts = id_map.row_state["count"][(rows - id_map.first_row).clamp(min=0)]
        counts = torch.where(rows < 0, 0, counts).cpu()
        census.add(true[numbers[mine]].long(), counts, id_map.config.after, frequent)
    return census


def report(id_map: IdMap, occurred: Tensor, top: int | None = None) -> dict[str, Any]:
    """Returns the census over all ranks beside the map's own counters.

    top: how many ids count as the most frequent ones, a tenth of the rows by default.
    balance: admissions less evictions less occupied rows. rows_of_others: occupied rows that no id of the stream has.
    """
    top = max(1, id_map.geometry.rows // 10) if top is None else top
    frequent = max(1, int(occurred.topk(min(top, len(occurred))).values[-1]))
    census = asdict(take_census(id_map, occurred, frequent))
    own = {"occupied": id_map.occupied(), "candidates": id_map.candidates(), **asdict(id_map.counters)}
    mine = torch.tensor([*census.values(), *own.values()], device=id_map.row_state["count"].device)
    sums = dict(zip([*census, *own], ProcessGroupCollective().sum(mine).tolist(), strict=True))
    return {
        "rows": id_map.geometry.rows,
        "distinct_ids": int((occurred > 0).sum()),
        **sums,
        "balance": sums["admissions"] - sums["evictions"] - sums["occupied"],
        "rows_of_others": sums["occupied"] - sums["residents"],
        "top_resident_share": sums["top_residents"] / max(1, sums["top_ids"]),
        "top_exact_share": sums["top_exact"] / max(1, sums["top_ids"]),
    }
