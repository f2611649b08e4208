"""A long stream of raw ids through one dynamic table, beside exact counts of all ids that occurred in it.

Ids are a power law's numbers, spread over all 64-bit integers by a permutation, so that every number's id is known and
can be looked for in the end. Every rank calls the functions here alike, inside a process group; each draws the whole
stream and trains on its share of every batch.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data_pipeline.batch import Batch
from models.dynamic_ids import DynamicConfig, DynamicIds
from models.inputs import EmbeddingTable, PooledEmbeddings, TableOptimizer
from sharding.benchmark import PooledStep, draw_ranks
from sharding.collective import ProcessGroupCollective
from sharding.distribute import Distributed, distribute
from sharding.draws import mixed
from sharding.lookup import EmbeddingLookup
from sharding.planner import plan_tables
from sharding.topology import Topology

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

    def numbers(self, step: int) -> Tensor:
        """[batch] int64 in [0, space), the last step's fewer: what occurs in one step."""
        generator = torch.Generator().manual_seed(self.seed * (1 << 32) + step)
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
    """Trains on all events; the figures of `census`, and how fast it was."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    occurred = torch.zeros(stream.space, dtype=torch.int32)
    seconds = []
    for step in range(stream.steps):
        numbers = stream.numbers(step)
        occurred.index_add_(0, numbers, torch.ones(len(numbers), dtype=torch.int32))
        batch = _batch(id_of(numbers[rank::ranks])).to(device)
        dist.barrier()
        began = time.perf_counter()
        made.set_step(step)
        looked_up = made.module(batch)
        looked_up.backward(torch.full_like(looked_up, 1e-3))
        made.step()
        seconds.append(time.perf_counter() - began)
        on_step(step + 1)
    speed = {"events_per_second": stream.events / sum(seconds), "step_milliseconds": 1e3 * median(seconds)}
    return {**asdict(stream), "workers": ranks, **census(stream, made, occurred), **speed}


def _batch(ids: Tensor) -> Batch:
    count = len(ids)
    read = KeyedJaggedTensor(keys=[NAME], values=ids, lengths=torch.ones(count, dtype=torch.int64), stride=count)
    return Batch(torch.zeros(count, 0), read, None, {}, torch.ones(count), None, torch.arange(count))


def census(stream: Stream, made: Distributed, occurred: Tensor, top: int | None = None) -> dict[str, Any]:
    """Who is there in the end, by exact counts `occurred` [space] of every number, over all ranks.

    residents: ids with a row, each found by its id. overcounted, undercounted: residents whose count is above or below
    the true one (an id that was evicted, or forgotten as a candidate, is counted anew). too_early: residents that
    occurred less often than `after`. rows_of_others: occupied rows that no id of the stream is found in.
    top_resident, top_exact: shares of the `top` most frequent ids (a tenth of the rows) and those as frequent that
    have a row, and whose count is the true one.
    """
    held = made.id_maps[NAME]
    device = held.row_state["count"].device
    top = max(1, held.geometry.rows // 10) if top is None else top
    most = max(1, int(occurred.topk(min(top, stream.space)).values[-1]))
    sums = torch.zeros(7, dtype=torch.int64)
    for first in range(0, stream.space, _CHUNK):
        numbers = torch.arange(first, min(first + _CHUNK, stream.space))
        true = occurred[first : first + _CHUNK]
        numbers, true = numbers[true > 0], true[true > 0].long()
        ids = id_of(numbers)
        bucket = held.geometry.bucket_of(ids)
        mine = (bucket >= held.buckets.start) & (bucket < held.buckets.stop)
        ids, true = ids[mine].to(device), true[mine]
        if not len(ids):
            continue
        rows = held.find(ids)
        here = rows >= 0
        counts = held.row_state["count"][rows[here] - held.first_row].cpu()
        here = here.cpu()
        resident = true[here]
        frequent = true >= most
        sums += torch.tensor(
            [
                int(here.sum()),
                int((counts > resident).sum()),
                int((counts < resident).sum()),
                int((resident < held.config.after).sum()),
                int(frequent.sum()),
                int((frequent & here).sum()),
                int(((counts == resident) & frequent[here]).sum()),
            ]
        )
    counters = asdict(held.counters)
    own = torch.tensor([held.occupied(), held.candidates(), *counters.values()])
    ranks = ProcessGroupCollective()
    residents, over, under, early, frequent_ids, there, exact = ranks.sum(sums.to(device)).tolist()
    occupied, candidates, *totals = ranks.sum(own.to(device)).tolist()
    found = dict(zip(counters, totals, strict=True))
    return {
        "rows": held.geometry.rows,
        "distinct_ids": int((occurred > 0).sum()),
        "occupied": occupied,
        "candidates": candidates,
        **found,
        "balance": found["admissions"] - found["evictions"] - occupied,
        "rows_of_others": occupied - residents,
        "too_early": early,
        "overcounted": over,
        "undercounted": under,
        "top_ids": frequent_ids,
        "top_resident": there / max(1, frequent_ids),
        "top_exact": exact / max(1, frequent_ids),
    }
