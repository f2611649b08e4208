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
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed import comm

from shardrec.data_pipeline.batch import Batch
from shardrec.models.dynamic_ids import DynamicConfig
from shardrec.models.inputs import PooledEmbeddings
from shardrec.models.table_settings import TableOptimizer
from shardrec.sharding.checkpoints.tables import read_tables, write_tables
from shardrec.sharding.distribution.distribute import distribute
from shardrec.sharding.planning.exchange import Exchange
from shardrec.sharding.planning.planner import plan_tables
from shardrec.sharding.planning.topology import Topology
from shardrec.sharding.tables.collective import ProcessGroupCollective
from shardrec.sharding.updates.context import UpdateContext
from shardrec.trainer.benchmarks.id_stream import Stream, build_table, run_stream
from tests.sharding.cases import (
    SEED,
    Case,
    Rows,
    Step,
    count_samples,
    draw_rows,
    every_case,
    make,
    pooled_case,
    score,
    share,
    table,
    train,
    whole_tables,
)
from tests.sharding.dynamic_everywhere import train_dynamic
from tests.sharding.frozen_everywhere import FROZEN_RANKS, score_frozen

STEPS, ROWS = 8, 14
OPTIMIZERS = {
    "sgd": TableOptimizer(name="sgd", learning_rate=1.0),
    "adagrad": TableOptimizer(name="adagrad", learning_rate=0.05, eps=1e-3),
    "rowwise_adagrad": TableOptimizer(name="rowwise_adagrad", learning_rate=0.05, eps=1e-3),
    "momentum_l2": TableOptimizer(name="sgd", learning_rate=0.2, momentum=0.9, weight_decay=0.1),
    "rowwise_l2": TableOptimizer(name="rowwise_adagrad", learning_rate=0.05, eps=1e-3, weight_decay=0.1),
    "rmsprop": TableOptimizer(name="rmsprop", learning_rate=0.01, eps=1e-3, smoothing=0.9),
    "frequency_adam": TableOptimizer(name="adam", learning_rate=0.05, eps=1e-3, weight_decay=4.0, decay="frequency"),
    "ftrl": TableOptimizer(name="ftrl", learning_rate=2.0, beta=13.0, l1=0.1, l2=1.0),
    "whole_l2": TableOptimizer(name="adagrad", learning_rate=0.05, eps=1e-3, weight_decay=0.1, decay="table"),
}
FEWER = ("adagrad", "rowwise_adagrad", "ftrl", "whole_l2")
STATEFUL = tuple(OPTIMIZERS[n] for n in ("adagrad", "frequency_adam", "ftrl", "momentum_l2", "rmsprop"))
ANY = ("data_parallel", "table_wise", "row_wise", "column_wise")
OF_HOSTS = ("table_row_wise", "grid")  # on four ranks, which are two hosts; sequences are row-wise then
PLACEMENTS = (*ANY, None)
FURTHER = (2, 3)  # world sizes of what need not be seen on all
ROUNDED_RANKS = (2, 4)
WRITER = 2  # the world size that writes the checkpoint which the others read; it runs first
CHAIN = (2, 1, 4, 2)  # world sizes, each of which goes on from what the one before saved


def optimizers_of(world_size: int) -> tuple[str, ...]:
    """Everything on two ranks, less on others, for time's sake."""
    return tuple(OPTIMIZERS) if world_size == 2 else FEWER


def placements_of(world_size: int) -> tuple[str | None, ...]:
    """Likewise; on one rank they are all the same."""
    return {1: (None,), 4: (*OF_HOSTS, None)}.get(world_size, PLACEMENTS)


def training_case(optimizers: tuple[str, ...]) -> Case:
    return every_case().optimized({name: OPTIMIZERS[name] for name in optimizers})


def training_batches() -> list[Rows]:
    generator = torch.Generator().manual_seed(3)
    return [draw_rows(every_case(), ROWS, generator) for _ in range(STEPS)]


def train_everywhere() -> dict[str | None, dict[str, Any]]:
    """The case under every placement: losses, whole tables before and after, the tower's bias, the placements.

    Three ranks do it as where there is no compiler.
    """
    found = {}
    world_size = dist.get_world_size()
    for placement in placements_of(world_size):
        optimizers = optimizers_of(world_size)
        case = training_case(optimizers).placed(placement)
        distributed = make(case, compiled=world_size != 3)
        fresh = whole_tables(distributed)
        count_samples(case, distributed, training_batches())
        losses = train(case, distributed, training_batches())
        found[placement] = {
            "losses": losses,
            "fresh": fresh,
            "tables": whole_tables(distributed),
            "bias": distributed.tower_parameters()["tower.bias"].item(),
            "placements": [t.placement for t in distributed.plan.tables.values()],
            "columns": {n: t.shards[0].weight.shape[1] if t.shards else 0 for n, t in distributed.tables.items()},
            "zeros": distributed.zero_shares(),
        }
    return found


def batches_around_checkpoint() -> tuple[list[Rows], list[Rows]]:
    generator = torch.Generator().manual_seed(1)
    batches = [draw_rows(every_case(), 20, generator) for _ in range(5)]
    return batches[:2], batches[2:]


def write_checkpoint(folder: Path) -> dict[str, Any]:
    """Two steps, this rank's manifest entries, the whole tables as they are and as they are three steps later."""
    case = every_case().rotated(ANY, optimizers=STATEFUL)
    distributed = make(case)
    before, after = batches_around_checkpoint()
    count_samples(case, distributed, before)
    train(case, distributed, before, tower_rate=0.0)
    entries, saved = write_tables(folder, distributed.tables), whole_tables(distributed)
    train(case, distributed, after, tower_rate=0.0)
    return {"entries": entries, "saved": saved, "later": whole_tables(distributed)}


def read_checkpoint(folder: Path, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same from what was read, under two plans in which every table is placed otherwise than when written."""
    found = []
    for first in (1, 2):
        case = every_case().rotated(OF_HOSTS if dist.get_world_size() == 4 else ANY, first, STATEFUL)
        distributed = make(case)
        read_tables(folder, entries, distributed.tables)
        saved = whole_tables(distributed)
        train(case, distributed, batches_around_checkpoint()[1], tower_rate=0.0)
        found.append({"saved": saved, "later": whole_tables(distributed)})
    return found


def chain_case(link: int) -> Case:
    """SGD and AdaGrad, dealt to pooled and sequence tables; every table is placed otherwise at every link."""
    return every_case().rotated(OF_HOSTS if CHAIN[link] == 4 else ANY, link, (OPTIMIZERS["sgd"], OPTIMIZERS["adagrad"]))


def walk_link(rank: int, folder: Path, link: int, entries: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Goes on from the files of the link before, trains on its share of the batches and saves.

    The first link of the chain also walks all of it unbroken.
    """
    case, steps = chain_case(link), STEPS // len(CHAIN)
    distributed = make(case)
    if entries is not None:
        read_tables(folder / f"link-{link - 1}", entries, distributed.tables)
    loaded = whole_tables(distributed)
    train(case, distributed, training_batches()[link * steps :][:steps], tower_rate=0.0)
    found = {
        "loaded": loaded,
        "saved": whole_tables(distributed),
        "entries": write_tables(folder / f"link-{link}", distributed.tables),
        "placements": {name: planned.placement for name, planned in distributed.plan.tables.items()},
    }
    if entries is None:
        train(case, distributed, training_batches()[steps:], tower_rate=0.0)
        found["unbroken"] = whole_tables(distributed)
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
        train(case, distributed, training_batches()[:1], factor=factor)
        after = whole_tables(distributed)
        found[factor] = {n: after[n]["weight"] - before[n]["weight"] for n in after}
    return found


def partly_trained_case(placement: str | None) -> Case:
    """Sequences that only training reads, of tables that others read too and of one that none does."""
    case = every_case().changed_optimizer(OPTIMIZERS["sgd"])
    only = {name: replace(case.inputs[name], read="training") for name in ("history", "short")}
    return replace(case, inputs=case.inputs | only).placed(placement)


def without_training_features(rows: Rows) -> Rows:
    return replace(rows, ids=rows.ids | {name: [[] for _ in rows.scale] for name in ("items", "kinds", "tags")})


def score_between_steps() -> dict[str | None, list[float]]:
    """Losses of a step, of the next batch scored without and with the ids of what only training reads, of its step."""
    found = {}
    first, second = training_batches()[:2]
    for placement in ANY:
        case = partly_trained_case(placement)
        distributed = make(case)
        losses = train(case, distributed, [first])
        losses += [score(case, distributed, rows) for rows in (without_training_features(second), second)]
        found[placement] = losses + train(case, distributed, [second])
    return found


LAZY_ADAM = TableOptimizer(name="adam", learning_rate=0.05, eps=1e-3, weight_decay=0.1)
DETACHED = (
    (ANY, (*(OPTIMIZERS[n] for n in ("momentum_l2", "rmsprop", "sgd", "ftrl")), LAZY_ADAM)),
    (ANY[:3], tuple(OPTIMIZERS[n] for n in ("rowwise_l2", "adagrad", "rowwise_adagrad", "momentum_l2"))),
)


def detached_case(plan: int) -> Case:
    """Every input twice, of which one is detached; placements and optimizers are dealt to the tables."""
    placements, optimizers = DETACHED[plan]
    return every_case().rotated(placements, plan, optimizers).with_detached()


def detached_batches() -> list[Rows]:
    generator = torch.Generator().manual_seed(8)
    return [draw_rows(detached_case(0), 9, generator) for _ in range(3)]


def train_detached() -> list[dict[str, Any]]:
    """Losses and tables before and after, under two plans."""
    found = []
    for plan in range(len(DETACHED)):
        case = detached_case(plan)
        distributed = make(case)
        fresh = whole_tables(distributed)
        losses = train(case, distributed, detached_batches())
        found.append({"losses": losses, "fresh": fresh, "tables": whole_tables(distributed)})
    return found


def spoil_gradients(value: float, spoiled_rank: int) -> dict[str, Any]:
    """Tables before and after a step whose loss one rank multiplies by `value`, and which parts it stopped here."""
    case = every_case().rotated(ANY, optimizers=(*STATEFUL, OPTIMIZERS["sgd"], OPTIMIZERS["rowwise_adagrad"]))
    distributed = make(case)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    rows = training_batches()[0]
    count_samples(case, distributed, [rows])
    before = whole_tables(distributed)
    distributed.begin(UpdateContext(0))
    total, _ = distributed.module(share(case, rows, rank, ranks, distributed.lookup))
    (total * (value if rank == spoiled_rank else 1.0)).backward()
    distributed.step()
    stopped = distributed.lookup.guard.stopped(torch.device("cpu")).tolist()
    return {"before": before, "after": whole_tables(distributed), "stopped": stopped}


def train_ahead() -> dict[bool, tuple[list[float], dict[str, Any]]]:
    """Losses and tables of a case with detached inputs, ids sent in their own step and while the step before lasts."""
    found = {}
    for ahead in (False, True):
        distributed = make(detached_case(0))
        losses = train(detached_case(0), distributed, detached_batches(), ahead=ahead)
        found[ahead] = losses, whole_tables(distributed)
    return found


def uneven_case() -> Case:
    return every_case().rotated(ANY, 1, (OPTIMIZERS["momentum_l2"], OPTIMIZERS["adagrad"], OPTIMIZERS["ftrl"]))


def uneven_batches() -> list[Rows]:
    generator = torch.Generator().manual_seed(5)
    return [draw_rows(uneven_case(), count, generator) for count in (9, 9, 4, 12, 9)]


def train_uneven() -> dict[str, Any]:
    """Losses and tables of steps of which ranks have unequal shares, some of them none."""
    sizes = [len(rows.scale) for rows in uneven_batches()]
    ends = {2: ((5, 9), (0, 9), (4, 4), (2, 12), (5, 9)), 3: ((3, 6, 9), (5, 5, 9), (0, 1, 4), (4, 8, 12), (3, 6, 9))}
    cuts = [(0, *of_step) for of_step in ends[dist.get_world_size()]]
    assert [cut[-1] for cut in cuts] == sizes
    distributed = make(uneven_case())
    losses = train(uneven_case(), distributed, uneven_batches(), cuts=cuts)
    return {"losses": losses, "tables": whole_tables(distributed)}


def messages_of(case: Case, optimizer: TableOptimizer) -> list[int]:
    """How many messages of ids, vectors and gradients each of three steps sends."""
    case = case.rotated(("table_wise", "row_wise", "column_wise"), optimizers=(optimizer,))
    distributed = make(case)
    sent, send = [0], dist.all_to_all_single

    def counted(*arguments: Any, **named: Any) -> Any:
        sent[-1] += 1
        return send(*arguments, **named)

    dist.all_to_all_single = counted
    try:
        for rows in (draw_rows(case, 8, torch.Generator().manual_seed(0)) for _ in range(3)):
            train(case, distributed, [rows])
            sent.append(0)
    finally:
        dist.all_to_all_single = send
    return sent[:-1]


def one_id_case() -> Case:
    tables = {f"f{i}": table(f"t{i}", 11 + i, 4 + 4 * (i % 3)) for i in range(7)}
    return Case(
        {
            "fields": PooledEmbeddings({f: t for f, t in tables.items() if t.embedding_dim == 4}),
            "concat": PooledEmbeddings(tables, concat=True),
        },
        dict.fromkeys(tables, 1),
    )


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
        "wrapped": wrapped_options(made.module),
    }


def wrapped_options(module: nn.Module) -> dict[str, Any] | None:
    """How DistributedDataParallel wraps the tower; None: it does not."""
    wrapped = [m for m in module.modules() if isinstance(m, DistributedDataParallel)]
    options = ("static_graph", "broadcast_buffers", "gradient_as_bucket_view", "find_unused_parameters", "device_ids")
    return {name: getattr(wrapped[0], name) for name in options} if wrapped else None


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


ROUNDED = {"bf16": torch.bfloat16, "fp16": torch.float16}


def rounded_case() -> Case:
    placements = OF_HOSTS if dist.get_world_size() == 4 else ("table_wise", "row_wise", "column_wise")
    return every_case().changed_optimizer(OPTIMIZERS["sgd"]).rotated(placements, optimizers=(OPTIMIZERS["sgd"],))


def train_in_rounded_exchanges() -> dict[Exchange, dict[str, Any]]:
    """Losses, and the most by which vectors and sequences that a lookup gives differ from their rounded selves.

    Sums of several rows over the ranks would, which are of rounded numbers.
    """
    found: dict[Exchange, dict[str, Any]] = {}
    for exchange, dtype in ROUNDED.items():
        case = rounded_case()
        distributed = make(case, exchange=exchange)
        batch = share(case, training_batches()[0], dist.get_rank(), dist.get_world_size(), distributed.lookup)
        given = distributed.lookup(batch)
        vectors = [given["wide"], given["history"].values]
        found[exchange] = {
            "unrounded": max(float((v - v.to(dtype).float()).abs().max()) for v in vectors),
            "losses": train(case, distributed, training_batches()),
        }
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


def groups_of_hosts() -> list[tuple[list[int], bool]]:
    """The ranks of this one's host, those of its place on all hosts, and whether they are as patient as all are."""
    made = make(rounded_case())
    cpu = torch.device("cpu")
    patience = made._process_group._get_backend(cpu).options._timeout
    groups = [group for group in (comm._INTRA_PG, comm._CROSS_PG) if group]
    return [(dist.get_process_group_ranks(g), g._get_backend(cpu).options._timeout == patience) for g in groups]


def agree_on_memory() -> tuple[int, int | None]:
    ranks = dist.get_world_size()
    mine = Topology(ranks, ranks, "cpu", 1000 - dist.get_rank(), host_memory=500 - 2 * dist.get_rank())
    return mine.agreed().memory_per_rank, mine.agreed().host_memory


def gathered(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The manifest entries of all ranks."""
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, entries)
    return [entry for part in parts for entry in part]


def stream_ids() -> dict[str, Any]:
    """What a stream of raw ids comes to, in batches that no two ranks share evenly; without its speed."""
    stream = Stream(events=2_000, space=400, batch=201, skew=1.05)
    made = build_table(DynamicConfig(rows=128, after=2), 4, torch.device("cpu"))
    found = run_stream(stream, made, torch.device("cpu"))
    return {name: value for name, value in found.items() if isinstance(value, int) and name != "workers"}


def run_everything(
    rank: int, folder: Path, entries: list[dict[str, Any]] | None, link: list[dict[str, Any]] | None
) -> dict[str, Any]:
    """entries: of the files that `WRITER` wrote; link: of those of the chain's last link. None: they are written."""
    results = {
        "training": train_everywhere(),
        "collective": collect(),
        "unused": unused_parameters(),
        "memory": agree_on_memory(),
    }
    if dist.get_world_size() in (1, 2, 3):
        results["dynamic"] = train_dynamic(rank, folder)
        results["stream"] = stream_ids()
    if dist.get_world_size() == 1:
        results["grown"] = measure_memory(folder)
    if dist.get_world_size() in ROUNDED_RANKS:
        results["groups"] = groups_of_hosts()
        results["rounded"] = train_in_rounded_exchanges()
    if dist.get_world_size() in FURTHER:
        results |= {"learning_rate": change_learning_rate(), "half": train_in_half_precision()}
        results["scored"] = score_between_steps()
        results["detached"] = train_detached()
        results["ahead"] = train_ahead()
        results["uneven"] = train_uneven()
        results["messages"] = {
            "one id": messages_of(one_id_case(), OPTIMIZERS["sgd"]),
            "several": messages_of(every_case(), OPTIMIZERS["sgd"]),
        }
        results["spoiled"] = spoil_gradients(float("inf"), spoiled_rank=1)
    if dist.get_world_size() in CHAIN:
        results["link"] = walk_link(rank, folder, CHAIN.index(dist.get_world_size()), link)
    results |= {"wrote": write_checkpoint(folder)} if entries is None else {"read": read_checkpoint(folder, entries)}
    if dist.get_world_size() in FROZEN_RANKS:
        results["frozen"] = score_frozen(folder, entries or gathered(results["wrote"]["entries"]), STATEFUL)
    return results if rank == 0 else {n: results[n] for n in results if n not in ("training", "read")}
