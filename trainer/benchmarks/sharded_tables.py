"""A case measures lookup and update of tables under a placement, beside what memory and exchange reach meanwhile.

Every rank calls the functions here alike, inside a process group. Times are medians over steps of the slowest rank.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from shardrec.data_pipeline.batch import Batch
from shardrec.models.inputs import PooledEmbeddings
from shardrec.models.table_settings import Dtype, Placement, TableOptimizer
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.distribution.distribute import Distributed, distribute
from shardrec.sharding.lookup.lookup import EmbeddingLookup
from shardrec.sharding.planning.cost import IDS, VECTORS, Estimate, Workload, estimate_step
from shardrec.sharding.planning.plan import Plan
from shardrec.sharding.planning.planner import plan_tables
from shardrec.sharding.planning.topology import Topology
from shardrec.sharding.tables.draws import mixed
from shardrec.sharding.updates.context import UpdateContext

BATCHES = 4  # batches that steps take turns with
WARM_UP_STEPS = 2


@dataclass(frozen=True)
class Case:
    """A case is `tables` equal tables under one placement and the batches that read them.

    batch: rows of all ranks together. pooling: ids a row and table. skew: ids are as frequent as rank^-skew, 0: alike.
    """

    placement: Placement
    rows: int
    batch: int
    pooling: int
    skew: float
    tables: int = 8
    embedding_dim: int = 16
    dtype: Dtype = "fp32"
    optimizer: str = "rowwise_adagrad"

    def inputs(self) -> dict[str, PooledEmbeddings]:
        """Returns the one input that reads all tables, each by a feature of its name."""
        names = [f"table_{i}" for i in range(self.tables)]
        tables = {
            n: EmbeddingTable(
                name=n,
                num_embeddings=self.rows,
                embedding_dim=self.embedding_dim,
                dtype=self.dtype,
                placement=self.placement,
            )
            for n in names
        }
        return {"pooled": PooledEmbeddings(tables)}


def draw_ids(case: Case, count: int, generator: torch.Generator) -> Tensor:
    """Draws [count] int64 ids of a power law, frequent ones anywhere among the rows."""
    return mixed(draw_ranks(count, case.rows, case.skew, generator)).remainder_(case.rows)


def draw_ranks(count: int, numbers: int, skew: float, generator: torch.Generator) -> Tensor:
    """Draws [count] int64 in [0, numbers), n as frequent as (n + 1)^-skew."""
    u = torch.rand(count, generator=generator, dtype=torch.float64)
    if skew == 0:
        rank = u * numbers
    elif skew == 1:
        rank = torch.exp(u * torch.log(torch.tensor(float(numbers + 1)))) - 1
    else:  # the inverse of the integral of x^-skew from 1 to numbers + 1
        power = 1 - skew
        rank = (1 + u * ((numbers + 1.0) ** power - 1)) ** (1 / power) - 1
    return rank.long().clamp_(0, numbers - 1)


def made_batches(case: Case, names: Iterable[str], device: torch.device, world_size: int, rank: int) -> list[Batch]:
    """Makes this rank's share of `BATCHES` global batches."""
    generator = torch.Generator().manual_seed(rank)
    names, size = list(names), case.batch // world_size
    batches = []
    for _ in range(BATCHES):
        ids = KeyedJaggedTensor(
            keys=names,
            values=draw_ids(case, len(names) * size * case.pooling, generator),
            lengths=torch.full((len(names) * size,), case.pooling),
            stride=size,
        )
        rows = torch.arange(size)
        ones = torch.ones(size)
        batches.append(Batch(torch.zeros(size, 0), ids, None, {}, ones, None, rows).to(device))
    return batches


class PooledStep(nn.Module):
    """A pooled step is a lookup without a tower: its gradients are all equal and cost next to nothing."""

    def __init__(self, lookup: EmbeddingLookup) -> None:
        super().__init__()
        self.lookup = lookup

    def forward(self, batch: Batch) -> Tensor:
        """Returns the pooled rows of all tables [B, F, D]."""
        return self.lookup(batch)["pooled"]


def measure_case(case: Case, topology: Topology, device: torch.device, steps: int) -> dict[str, Any]:
    """Returns a case's milliseconds of lookup and of gradient and update, and the rates that follow."""
    world_size, rank = dist.get_world_size(), dist.get_rank()
    distributed = _built(case, topology, device)
    batches = made_batches(case, distributed.lookup.id_names, device, world_size, rank)
    forward, backward = [], []
    for step in range(WARM_UP_STEPS + steps):
        distributed.begin(UpdateContext(step))
        dist.barrier()
        began = _now(device)
        looked_up = distributed.module(batches[step % BATCHES])
        between = _now(device)
        looked_up.backward(torch.full_like(looked_up, 1e-6))
        distributed.step()
        forward.append(between - began)
        backward.append(_now(device) - between)
    estimate = _estimate(case, distributed.plan, topology)
    traffic = {part.name: int(part.traffic.received.max()) for part in estimate.parts if part.traffic}
    lookup, update = (_slowest(statistics.median(x[WARM_UP_STEPS:]), device) for x in (forward, backward))
    ids = case.batch * case.tables * case.pooling
    return {
        **asdict(case),
        "world_size": world_size,
        "lookup_milliseconds": 1e3 * lookup,
        "update_milliseconds": 1e3 * update,
        "samples_per_second": case.batch / (lookup + update),
        "lookup_rows_per_second": ids / lookup,
        "update_rows_per_second": ids / update,
        "lookup_bytes_per_rank": traffic[IDS] + traffic[VECTORS],
        "exchanged_bytes_per_rank": sum(traffic.values()),
        "row_bytes_per_rank": int(estimate.group_seconds("lookup") * topology.row_bandwidth),
    }


def _built(case: Case, topology: Topology, device: torch.device) -> Distributed:
    optimizer = TableOptimizer.model_validate({"name": case.optimizer, "learning_rate": 0.05})
    inputs = case.inputs()
    plan = plan_tables(inputs, optimizer, topology)
    lookup = EmbeddingLookup(inputs, (), device="meta")
    return distribute(PooledStep(lookup), plan, optimizer=optimizer, seed=0, device=device)


def _estimate(case: Case, plan: Plan, topology: Topology) -> Estimate:
    inputs = case.inputs()
    ids = {feature: float(case.pooling) for pooled in inputs.values() for feature in pooled.tables}
    return estimate_step(plan, topology, Workload(inputs, case.batch, ids))


# ---------------------------------------------------------------- ceilings


def gather_ceiling(case: Case, device: torch.device, steps: int) -> float:
    """Returns the rows/s, of all ranks together, that plain gathers of a case's rows from each rank's memory reach."""
    world_size = dist.get_world_size()
    memory = torch.zeros(max(1, case.rows * case.tables // world_size), case.embedding_dim, device=device)
    generator = torch.Generator().manual_seed(dist.get_rank())
    count = max(1, case.batch * case.tables * case.pooling // world_size)
    row_indices = [draw_ids(case, count, generator).remainder_(len(memory)).to(device) for _ in range(BATCHES)]
    into = torch.empty(count, case.embedding_dim, device=device)
    seconds = _timed(lambda i: torch.index_select(memory, 0, row_indices[i % BATCHES], out=into), steps, device)
    return world_size * count / seconds


def exchange_ceiling(bytes_per_rank: int, device: torch.device, steps: int) -> float:
    """Returns the bytes/s that each rank sends when all send `bytes_per_rank` to the others at once.

    It is infinite for one rank.
    """
    world_size = dist.get_world_size()
    if world_size == 1:
        return float("inf")
    each = max(1, bytes_per_rank // 4 // (world_size - 1))
    sent, received = (torch.zeros(world_size * each, device=device) for _ in range(2))
    seconds = _timed(lambda i: dist.all_to_all_single(received, sent), steps, device)
    return 4 * each * (world_size - 1) / seconds


def exchange_latency(device: torch.device, steps: int) -> float:
    """Returns the seconds that an exchange of next to nothing takes; 0 for one rank."""
    world_size = dist.get_world_size()
    if world_size == 1:
        return 0.0
    sent, received = (torch.zeros(world_size, device=device) for _ in range(2))
    return _timed(lambda i: dist.all_to_all_single(received, sent), steps, device)


def _timed(work: Callable[[int], Any], steps: int, device: torch.device) -> float:
    """Returns the slowest rank's median seconds of `work`."""
    times = []
    for step in range(WARM_UP_STEPS + steps):
        dist.barrier()
        began = _now(device)
        work(step)
        times.append(_now(device) - began)
    return _slowest(statistics.median(times[WARM_UP_STEPS:]), device)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _slowest(seconds: float, device: torch.device) -> float:
    slowest = torch.tensor(seconds, dtype=torch.float64, device=device)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return float(slowest)
