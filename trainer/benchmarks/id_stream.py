"""A long stream of raw ids through one dynamic table, beside exact counts of all ids that occurred in it.

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
from shardrec.sharding.lookup.lookup import EmbeddingLookup
from shardrec.sharding.planning.planner import plan_tables
from shardrec.sharding.planning.topology import Topology
from shardrec.sharding.tables.collective import ProcessGroupCollective
from shardrec.sharding.tables.draws import mixed
from shardrec.sharding.updates.context import UpdateContext
from shardrec.trainer.benchmarks.sharded_tables import PooledStep, draw_ranks

NAME = "ids"
_CHUNK = 1 << 20  # numbers looked at together in the end


@dataclass(frozen=True)
class Stream:
    """`events` ids of `space` possible ones, `batch` in each step, as frequent as rank^-skew."""

    events: int
    space: int
    batch: int
    skew: float
    seed: int = 0

    @property
    def steps(self) -> int:
        return -(-self.events // self.batch)

    @property
    def counter_bytes(self) -> int:
        """Of the exact counts, which every rank has."""
        return 4 * self.space

    def numbers(self, step: int) -> Tensor:
        """[batch] int64 in [0, space), the last step's fewer: what occurs in one step."""
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {step}".encode()))
        count = min(self.batch, self.events - step * self.batch)
        return draw_ranks(count, self.space, self.skew, generator)


def id_of(numbers: Tensor) -> Tensor:
    """The raw 64-bit ids of numbers, each of another."""
    return mixed(numbers.clone())


def build_table(config: DynamicConfig, embedding_dim: int, device: torch.device) -> Distributed:
    """The table, row-wise over all ranks, that the stream goes through."""
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
    topology = Topology.here(ranks, ranks, "cuda" if device.type == "cuda" else "cpu")
    plan = plan_tables(inputs, optimizer, topology.agreed() if ranks > 1 else topology)
    lookup = EmbeddingLookup(inputs, (), device="meta")
    return distribute(PooledStep(lookup), plan, optimizer=optimizer, seed=0, device=device)


def run_stream(
    stream: Stream, made: Distributed, device: torch.device, on_step: Callable[[int], None] = lambda step: None
) -> dict[str, Any]:
    """Trains on all events; the figures of `report`, and how fast it was."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    occurred = torch.zeros(stream.space, dtype=torch.int32)
    seconds = []
    for step in range(stream.steps):
        numbers = stream.numbers(step)
        occurred.index_add_(0, numbers, torch.ones(len(numbers), dtype=torch.int32))
        batch = _batch(id_of(numbers[rank::ranks]), -(-len(numbers) // ranks)).to(device)
        dist.barrier()
        began = time.perf_counter()
        made.begin(UpdateContext(step))
        looked_up = made.module(batch)
        looked_up.backward(torch.full_like(looked_up, 1e-3))
        made.step()
        seconds.append(time.perf_counter() - began)
        on_step(step + 1)
    speed = {"events_per_second": stream.events / sum(seconds), "step_milliseconds": 1e3 * median(seconds)}
    return {**asdict(stream), "workers": ranks, **report(made.id_maps[NAME], occurred), **speed}


def _batch(ids: Tensor, count: int) -> Batch:
    """An id a row, and rows without one up to `count`."""
    lengths = (torch.arange(count) < len(ids)).long()
    read = KeyedJaggedTensor(keys=[NAME], values=ids, lengths=lengths, stride=count)
    rows = torch.where(lengths > 0, torch.arange(count), -1)
    return Batch(torch.zeros(count, 0), read, None, {}, lengths.float(), None, rows)


@dataclass
class Census:
    """Ids by who has a row in the end; true counts are those of the stream.

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


def take_census(held: IdMap, occurred: Tensor, frequent: int) -> Census:
    """Of the buckets of this rank; `occurred` [space]: how often each number did."""
    found = Census()
    device = held.row_state["count"].device
    for first, true in enumerate(occurred.split(_CHUNK)):
        numbers = (true > 0).nonzero().squeeze(1)
        ids = id_of(numbers + first * _CHUNK)
        bucket = held.geometry.bucket_of(ids)
        mine = ((bucket >= held.buckets.start) & (bucket < held.buckets.stop)).nonzero().squeeze(1)
        if not len(mine):
            continue
        rows = held.find(ids[mine].to(device))
        counts = held.row_state["count"][(rows - held.first_row).clamp(min=0)]
        counts = torch.where(rows < 0, 0, counts).cpu()
        found.add(true[numbers[mine]].long(), counts, held.config.after, frequent)
    return found


def report(held: IdMap, occurred: Tensor, top: int | None = None) -> dict[str, Any]:
    """The census over all ranks beside the map's own counters; `top`: most frequent ids, default a tenth of the rows.

    balance: admissions less evictions less occupied rows. rows_of_others: occupied rows that no id of the stream has.
    """
    top = max(1, held.geometry.rows // 10) if top is None else top
    frequent = max(1, int(occurred.topk(min(top, len(occurred))).values[-1]))
    found = asdict(take_census(held, occurred, frequent))
    own = {"occupied": held.occupied(), "candidates": held.candidates(), **asdict(held.counters)}
    mine = torch.tensor([*found.values(), *own.values()], device=held.row_state["count"].device)
    sums = dict(zip([*found, *own], ProcessGroupCollective().sum(mine).tolist(), strict=True))
    return {
        "rows": held.geometry.rows,
        "distinct_ids": int((occurred > 0).sum()),
        **sums,
        "balance": sums["admissions"] - sums["evictions"] - sums["occupied"],
        "rows_of_others": sums["occupied"] - sums["residents"],
        "top_resident_share": sums["top_residents"] / max(1, sums["top_ids"]),
        "top_exact_share": sums["top_exact"] / max(1, sums["top_ids"]),
    }
