"""What the tests of this folder do in several processes, all of it in one set of processes per world size.

Starting a process costs seconds (imports); `conftest.py` runs `run_everything` once for each world size and the tests
look at the results.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_pipeline.batch import Batch
from models.inputs import PooledEmbeddings, TableOptimizer
from sharding import ProcessGroupCollective, distribute, plan_tables, read_tables, write_tables
from sharding.topology import Topology
from tests.sharding.cases import (
    SEED,
    Case,
    Rows,
    Step,
    draw_rows,
    every_case,
    make,
    pooled_case,
    share,
    table,
    train,
    whole_tables,
)

STEPS, ROWS = 20, 14
OPTIMIZERS = {
    "sgd": TableOptimizer(name="sgd", learning_rate=0.5),
    "adagrad": TableOptimizer(name="adagrad", learning_rate=0.05, eps=1e-3),
    "rowwise_adagrad": TableOptimizer(name="rowwise_adagrad", learning_rate=0.05, eps=1e-3),
    "sgd_l2": TableOptimizer(name="sgd", learning_rate=0.5, weight_decay=0.1),
    "adagrad_l2": TableOptimizer(name="adagrad", learning_rate=0.05, eps=1e-3, weight_decay=0.1),
    "rowwise_l2": TableOptimizer(name="rowwise_adagrad", learning_rate=0.05, eps=1e-3, weight_decay=0.1),
}
FEWER = ("adagrad", "rowwise_adagrad", "adagrad_l2")
ANY = ("data_parallel", "table_wise", "row_wise", "column_wise")
PLACEMENTS = (*ANY, None)
FURTHER = (2, 3)  # world sizes of what need not be seen on all
WRITER = 2  # the world size that writes the checkpoint which the others read; it runs first


def optimizers_of(world_size: int) -> tuple[str, ...]:
    """Everything on two ranks, less on others, for time's sake."""
    return tuple(OPTIMIZERS) if world_size == 2 else FEWER


def training_case(optimizers: tuple[str, ...]) -> Case:
    return every_case().optimized({name: OPTIMIZERS[name] for name in optimizers})


def training_batches(optimizers: tuple[str, ...] = FEWER) -> list[Rows]:
    generator = torch.Generator().manual_seed(3)
    steps = STEPS // 2 if optimizers == FEWER else STEPS
    return [draw_rows(every_case(), ROWS, generator) for _ in range(steps)]


def train_everywhere() -> dict[str | None, dict[str, Any]]:
    """The case under every placement: losses, whole tables before and after, the tower's bias, the placements."""
    found = {}
    world_size = dist.get_world_size()
    for placement in PLACEMENTS if world_size > 1 else PLACEMENTS[-1:]:
        optimizers = optimizers_of(world_size)
        case = training_case(optimizers).placed(placement)
        distributed = make(case)
        fresh = whole_tables(distributed)
        losses = train(case, distributed, training_batches(optimizers))
        found[placement] = {
            "losses": losses,
            "fresh": fresh,
            "tables": whole_tables(distributed),
            "bias": distributed.tower_parameters()["tower.bias"].item(),
            "placements": [t.placement for t in distributed.plan.tables.values()],
        }
    return found


def write_checkpoint(folder: Path) -> tuple[list[dict[str, Any]], dict[str, dict[str, Tensor]]]:
    """Two steps, then this rank's manifest entries and the whole tables as they are."""
    case = every_case().rotated(ANY)
    distributed = make(case)
    generator = torch.Generator().manual_seed(1)
    train(case, distributed, [draw_rows(case, 20, generator) for _ in range(2)])
    return write_tables(folder, distributed.tables), whole_tables(distributed)


def read_checkpoint(folder: Path, entries: list[dict[str, Any]]) -> list[dict[str, dict[str, Tensor]]]:
    """Whole tables as read under two plans in which every table is placed otherwise than when it was written."""
    found = []
    for first in (1, 2):
        distributed = make(every_case().rotated(ANY, first))
        read_tables(folder, entries, distributed.tables)
        found.append(whole_tables(distributed))
    return found


def collect() -> dict[str, Any]:
    """Every method of the collective, with parts that differ by rank."""
    group = ProcessGroupCollective()
    rank, ranks = group.rank, group.world_size
    mine = torch.arange(rank, dtype=torch.float64).unsqueeze(1) + 10 * rank
    kept = torch.tensor([rank, 1])
    return {
        "sum": group.sum(kept).tolist(),
        "kept": kept.tolist(),
        "concatenate": group.concatenate(mine),
        "flags": group.concatenate(torch.tensor([rank % 2 == 0])),
        "exchange": group.exchange([torch.full((r + rank,), 100 * rank + r) for r in range(ranks)]),
    }


def change_learning_rate() -> dict[str, dict[str, Tensor]]:
    """How far rows move in one step at half the learning rate, relative to a step at the full one."""
    found = {}
    for factor in (1.0, 0.5):
        case = every_case().rotated(ANY).changed_optimizer(OPTIMIZERS["sgd"])
        distributed = make(case)
        before = whole_tables(distributed)
        distributed.set_learning_rate(factor)
        train(case, distributed, training_batches()[:1])
        after = whole_tables(distributed)
        found[factor] = {n: after[n]["weight"] - before[n]["weight"] for n in after}
    return found


class Wide(nn.Module):
    """A tower with a parameter that no loss reaches, a buffer and different values on every rank."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.step = Step(case)
        self.unused = nn.Parameter(torch.full((3,), float(dist.get_rank())))
        self.register_buffer("count", torch.zeros(2))

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.step(batch)


def unused_parameters() -> dict[str, Any]:
    case = Case({"fields": PooledEmbeddings({"a": table("t", 9, 4, optimizer=OPTIMIZERS["sgd"])})}, {"a": 1})
    ranks = dist.get_world_size()
    optimizer = OPTIMIZERS["sgd"]
    plan = plan_tables(case.inputs, optimizer, Topology(ranks, ranks, "cpu", 1 << 20))
    made = distribute(Wide(case), plan, optimizer=optimizer, seed=SEED, device=torch.device("cpu"))
    rows = draw_rows(case, 2 * ranks, torch.Generator().manual_seed(dist.get_rank()))
    for _ in range(3):
        total, _ = made.module(share(case, rows, 0, 1, made.lookup))
        total.backward()
    return {
        "parameters": {n: p.detach().clone() for n, p in made.tower_parameters().items()},
        "buffers": list(made.tower_buffers()),
        "gradient": made.tower_parameters()["step.tower.bias"].grad,
    }


def half_case(placement: str | None) -> Case:
    """fp16 tables."""
    case = pooled_case().changed_optimizer(OPTIMIZERS["adagrad"])
    return case.changed(lambda t: replace(t, dtype="fp16")).placed(placement)


def train_in_half_precision() -> dict[str | None, dict[str, dict[str, Tensor]]]:
    found = {}
    for placement in ANY:
        case = half_case(placement)
        distributed = make(case)
        train(case, distributed, training_batches())
        found[placement] = whole_tables(distributed)
    return found


def peak_memory() -> int:
    """Bytes of the process's largest resident set since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def measure_memory(folder: Path) -> dict[str, int]:
    """How far building, saving and loading a table of 256 MiB raise the resident set, in bytes."""
    large = table("large", 4 << 20, 16, optimizer=OPTIMIZERS["sgd"])
    case = Case({"fields": PooledEmbeddings({"a": large})}, {"a": 1})
    grown = {}
    before = 0

    def measured(name: str) -> None:
        nonlocal before
        grown[name] = peak_memory() - before
        Path("/proc/self/clear_refs").write_text("5")  # makes the peak the present size
        before = peak_memory()

    measured("imports")
    distributed = make(case)
    measured("built")
    entries = write_tables(folder / "large", distributed.tables)
    measured("written")
    read_tables(folder / "large", entries, distributed.tables)
    measured("read")
    return grown


def agree_on_memory() -> int:
    ranks = dist.get_world_size()
    return Topology(ranks, ranks, "cpu", 1000 - dist.get_rank()).agreed().memory_per_rank


def run_everything(rank: int, folder: Path, entries: list[dict[str, Any]] | None) -> dict[str, Any]:
    results = {
        "training": train_everywhere(),
        "collective": collect(),
        "unused": unused_parameters(),
        "memory": agree_on_memory(),
    }
    if dist.get_world_size() == 1:
        results["grown"] = measure_memory(folder)
    if dist.get_world_size() in FURTHER:
        results |= {"learning_rate": change_learning_rate(), "half": train_in_half_precision()}
    results |= {"wrote": write_checkpoint(folder)} if entries is None else {"read": read_checkpoint(folder, entries)}
    return results if rank == 0 else {n: results[n] for n in results if n not in ("training", "read")}
