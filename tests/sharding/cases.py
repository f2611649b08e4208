"""Cases for comparing sharded lookups with plain loops (`reference.py`): small inputs and global batches."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from shardrec.data_pipeline.batch import Batch
from shardrec.models.inputs import DenseFeatures, Input, Jagged, PooledEmbeddings, SequenceEmbeddings
from shardrec.models.table_reads import declared_tables
from shardrec.models.table_settings import TableOptimizer
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.distribution.distribute import Distributed, distribute
from shardrec.sharding.lookup.lookup import EmbeddingLookup, Started
from shardrec.sharding.planning.exchange import Exchange
from shardrec.sharding.planning.placements import CUT_COLUMNS
from shardrec.sharding.planning.planner import plan_tables
from shardrec.sharding.planning.topology import Topology
from shardrec.sharding.updates.context import UpdateContext

GIB = 1 << 30
SEED = 7
DEFAULT = TableOptimizer(name="adagrad", eps=1e-3)


@dataclass
class Case:
    """Inputs, how many ids each feature has a row (0 to `lengths`), and which features have weights."""

    inputs: dict[str, Input]
    lengths: dict[str, int]
    weighted: tuple[str, ...] = ()
    aligned: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, int]:
        """Ids that each feature may name: the rows of the smallest table that it reads."""
        read = [i.tables.items() for i in self.inputs.values() if not isinstance(i, DenseFeatures)]
        every = [(f, t.num_embeddings) for items in read for f, t in items]
        return {f: min(n for g, n in every if g == f) for f, _ in every}

    def changed(self, change: Callable[[EmbeddingTable], EmbeddingTable]) -> "Case":
        """The same with every table changed."""

        def one(asked: Input) -> Input:
            if isinstance(asked, DenseFeatures):
                return asked
            return replace(asked, tables={f: change(t) for f, t in asked.tables.items()})

        return replace(self, inputs={n: one(i) for n, i in self.inputs.items()})

    def placed(self, placement: str | None) -> "Case":
        """The same with every table placed so, where its optimizer allows it; the others are left free."""

        def change(table: EmbeddingTable) -> EmbeddingTable:
            o = table.optimizer
            refused = o and ((placement in CUT_COLUMNS and o.name == "rowwise_adagrad") or o.decay == "table")
            return replace(table, placement=None if refused else placement)

        return self.changed(change)

    def rotated(
        self,
        placements: Sequence[str | None],
        first: int = 0,
        optimizers: Sequence[TableOptimizer] = (DEFAULT,),
    ) -> "Case":
        """The same with placements and optimizers, each of which any table may have, dealt to the tables in turn."""
        names = list(declared_tables(self.inputs))
        dealt = {
            name: {"placement": placements[(i + first) % len(placements)], "optimizer": optimizers[i % len(optimizers)]}
            for i, name in enumerate(names)
        }
        return self.changed(lambda t: replace(t, **dealt[t.name]))

    def changed_optimizer(self, optimizer: TableOptimizer) -> "Case":
        return self.changed(lambda t: replace(t, optimizer=optimizer))

    def optimized(self, optimizers: dict[str, TableOptimizer]) -> "Case":
        """All tables once for each optimizer, in one model; the features are the same."""
        inputs: dict[str, Input] = {}
        for prefix, optimizer in optimizers.items():
            case = self.changed(lambda t, p=prefix, o=optimizer: replace(t, name=f"{p}/{t.name}", optimizer=o))
            inputs |= {f"{prefix}/{n}": i for n, i in case.inputs.items()}
        return replace(self, inputs=inputs)

    def with_detached(self, only: Sequence[str] | None = None) -> "Case":
        """The same, and every input (or `only` some) once more, detached, by other features, called next_....

        One is read a third time, by a feature that finds no key free; one table by nothing else.
        """

        def twin(i: PooledEmbeddings | SequenceEmbeddings) -> Input:
            found = replace(i, tables={f"next_{f}": t for f, t in i.tables.items()}, detached=True)
            if isinstance(found, SequenceEmbeddings):
                return replace(found, dense=tuple(f"next_{name}" for name in found.dense))
            return found

        twins: dict[str, Input] = {
            f"next/{n}": twin(i)
            for n, i in self.inputs.items()
            if not isinstance(i, DenseFeatures) and (only is None or n in only)
        }
        tags = next(t for t in declared_tables(self.inputs).values() if t.name.endswith("tags"))
        alone = replace(tags, name="alone")
        twins["later"] = SequenceEmbeddings({"later_tags": tags}, detached=True)
        twins["alone"] = PooledEmbeddings({"alone": alone}, detached=True)
        read = {f for i in twins.values() if not isinstance(i, DenseFeatures) for f in i.tables}
        names = {f: f"next_{f}" for f in self.lengths if f"next_{f}" in read}
        return replace(
            self,
            inputs=self.inputs | twins,
            lengths=self.lengths | {names[f]: self.lengths[f] for f in names} | {"later_tags": 2, "alone": 2},
            weighted=(*self.weighted, *(names[f] for f in self.weighted if f in names)),
            aligned=self.aligned | {names[f]: names[like] for f, like in self.aligned.items() if f in names},
        )


@dataclass
class Rows:
    """A global batch as plain lists: ids and weights of each feature and row, what the loss multiplies rows by."""

    ids: dict[str, list[list[int]]]
    weights: dict[str, list[list[float]]]
    scale: list[float]


def draw_rows(case: Case, count: int, generator: torch.Generator) -> Rows:
    """A global batch of `count` rows; the last is padding: no ids and weight 0."""
    ids: dict[str, list[list[int]]] = {}
    for feature, most in case.lengths.items():
        rows = case.rows[feature]
        like = case.aligned.get(feature)
        ids[feature] = []
        for r in range(count):
            length = len(ids[like][r]) if like else int(torch.randint(0, most + 1, (), generator=generator))
            length = 1 if most == 1 else length
            drawn = torch.randint(0, rows, (length,), generator=generator).tolist()
            ids[feature].append([] if r == count - 1 else drawn)
    weights = {f: [torch.rand(len(x), generator=generator).tolist() for x in ids[f]] for f in case.weighted}
    scale = (torch.rand(count, generator=generator) + 0.5).tolist()
    return Rows(ids, weights, [*scale[:-1], 0.0])


def numbers_beside(ids: list[int]) -> list[float]:
    """A dense sequence's numbers of a row, one for each id of the first sequence that its input reads."""
    return [(place % 5 - 2) / 20 for place in range(len(ids))]


def share(
    case: Case, rows: Rows, rank: int, world_size: int, lookup: EmbeddingLookup, mine: range | None = None
) -> Batch:
    """One rank's rows, padded so that all ranks have equally many; or those that are named."""
    count = -(-len(rows.scale) // world_size)
    mine = range(rank * count, (rank + 1) * count) if mine is None else mine
    count = len(mine)

    def of(values: list[Any], fill: Any) -> list[Any]:
        return [values[r] if r < len(values) else fill for r in mine]

    def jagged(names: tuple[str, ...], weighted: bool) -> KeyedJaggedTensor:
        lists = [x for f in names for x in of(rows.ids[f], [])]
        weights = [w for f in names for x in of(rows.weights[f], []) for w in x] if weighted else None
        return KeyedJaggedTensor(
            keys=list(names),
            values=torch.tensor([i for x in lists for i in x], dtype=torch.int64),
            lengths=torch.tensor([len(x) for x in lists], dtype=torch.int64),
            weights=None if weights is None else torch.tensor(weights),
        )

    scale = torch.tensor(of(rows.scale, 0.0))
    sequences = [i for i in case.inputs.values() if isinstance(i, SequenceEmbeddings)]
    beside = {name: next(iter(i.tables)) for i in sequences for name in i.dense}
    return Batch(
        dense=torch.arange(count * 3, dtype=torch.float32).view(count, 3),
        ids=jagged(lookup.id_names, False),
        weighted_ids=jagged(lookup.weighted_id_names, True) if lookup.weighted_id_names else None,
        labels={},
        weights=scale,
        groups=None,
        rows=torch.tensor([r if r < len(rows.scale) else -1 for r in mine]),
        dense_sequences={
            name: torch.tensor([x for ids in of(rows.ids[feature], []) for x in numbers_beside(ids)])
            for name, feature in beside.items()
        },
    )


class Tower(nn.Module):
    """Per row sum over inputs of tanh(x) . w, so that gradients differ by row, feature and column."""

    def __init__(self, inputs: dict[str, Input]) -> None:
        super().__init__()
        self.names = [n for n, i in inputs.items() if not isinstance(i, DenseFeatures)]
        self.bias = nn.Parameter(torch.tensor(0.25))

    def forward(self, found: dict[str, Any]) -> Tensor:
        there = [self.one(found[n]) for n in self.names if n in found]
        return torch.stack(there).sum(0) / len(self.names) + self.bias

    @staticmethod
    def one(value: Tensor | Jagged) -> Tensor:
        if isinstance(value, Tensor):
            flat = value.flatten(1)
            return (torch.tanh(flat) * slopes(flat.shape[1])).sum(1)
        flat = value.values.flatten(1)
        flat = flat if value.dense is None else torch.cat([flat, value.dense.to(flat.dtype)], 1)
        scores = (torch.tanh(flat) * slopes(flat.shape[1])).sum(1)
        if value.weights is not None:
            scores = scores * value.weights
        row = torch.arange(len(value.lengths)).repeat_interleave(value.lengths)
        return torch.zeros(len(value.lengths), dtype=scores.dtype).index_add(0, row, scores)


def slopes(count: int) -> Tensor:
    return torch.linspace(-1.0, 2.0, count)


class Step(nn.Module):
    """lookup -> tower -> (weighted sum of squares, sum of weights), the shape of a loss term."""

    def __init__(self, case: Case, device: str = "meta") -> None:
        super().__init__()
        self.lookup = EmbeddingLookup(
            case.inputs,
            ("x", "y", "z"),
            weighted_names=case.weighted,
            single_names=[f for f, most in case.lengths.items() if most == 1],
            device=device,
            seed=SEED,
        )
        self.tower = Tower(case.inputs)

    def forward(self, batch: Batch, started: Started | None = None) -> tuple[Tensor, Tensor]:
        score = self.tower(self.lookup(started or batch))
        return ((score - 0.5).square() * batch.weights).sum(), batch.weights.sum()


def make(
    case: Case,
    optimizer: TableOptimizer = DEFAULT,
    memory: int = GIB,
    exchange: Exchange = "fp32",
    *,
    compiled: bool = True,
) -> Distributed:
    """The case's step, sharded over the process group that is here; `optimizer` is for tables that name none."""
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    topology = Topology(world_size, local_world_size, "cpu", memory, exchange=exchange)
    plan = plan_tables(case.inputs, optimizer, topology)
    device = torch.device("cpu")
    return distribute(Step(case), plan, optimizer=optimizer, seed=SEED, device=device, compiled=compiled)


def train(
    case: Case,
    distributed: Distributed,
    batches: list[Rows],
    tower_rate: float = 0.1,
    first_step: int = 0,
    factor: float = 1.0,
    *,
    ahead: bool = False,
    cuts: Sequence[Sequence[int]] | None = None,
) -> list[float]:
    """Trains on the global batches as the trainer does, at `factor` of the tables' rates; the global losses.

    ahead: each batch's ids are sent before the batch before it goes backward. cuts: of each batch the first rows of
    all ranks' shares, and the end of the last one's; None: they have equally many.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    of_rank = [None if cuts is None else range(*cuts[i][rank : rank + 2]) for i in range(len(batches))]
    started: list[Started | None] = [None] * (len(batches) + 1)
    shares = [
        share(case, rows, rank, world_size, distributed.lookup, mine)
        for rows, mine in zip(batches, of_rank, strict=True)
    ]
    tower = torch.optim.SGD(distributed.tower_parameters().values(), lr=tower_rate)
    losses = []
    for i, batch in enumerate(shares):
        weight = batch.weights.sum()
        dist.all_reduce(weight)
        distributed.begin(UpdateContext(first_step + i, factor, float(weight)))
        total, count = distributed.module(batch, started[i])
        if ahead and i + 1 < len(shares):
            started[i + 1] = distributed.lookup.start(shares[i + 1])
        sums = torch.stack([total.detach(), count])
        dist.all_reduce(sums)
        losses.append(float(sums[0] / sums[1]))
        tower.zero_grad()
        (world_size * total / sums[1]).backward()
        tower.step()
        distributed.step()
    return losses


@torch.no_grad()
def score(case: Case, distributed: Distributed, rows: Rows) -> float:
    """The loss of a global batch as evaluation sees it."""
    distributed.module.eval()
    total, count = distributed.module(share(case, rows, dist.get_rank(), dist.get_world_size(), distributed.lookup))
    distributed.module.train()
    sums = torch.stack([total, count])
    dist.all_reduce(sums)
    return float(sums[0] / sums[1])


def count_samples(case: Case, distributed: Distributed, batches: list[Rows]) -> None:
    """What tables with `decay: frequency` divide by, of these global batches."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    distributed.count_samples(share(case, rows, rank, world_size, distributed.lookup) for rows in batches)


def whole_tables(distributed: Distributed) -> dict[str, dict[str, Tensor]]:
    """All ranks' shards put together: table -> {weight [rows, dim], accumulator [rows(, dim)]}."""
    mine = {
        name: [(s.row, s.column, {n: live.logical(s, n).clone() for n in s.tensors}) for s in live.shards]
        for name, live in distributed.tables.items()
    }
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    found: dict[str, dict[str, Tensor]] = {}
    for name, live in distributed.tables.items():
        whole: dict[str, Tensor] = {}
        for row, column, tensors in (shard for part in parts for shard in part[name]):
            for tensor, values in tensors.items():
                width = () if values.dim() == 1 else (live.table.embedding_dim,)
                shape = (live.table.num_embeddings, *width)
                into = whole.setdefault(tensor, torch.full(shape, torch.nan, dtype=values.dtype))
                at = into[row : row + len(values)]
                (at[:, column : column + values.shape[1]] if width else at).copy_(values)
        assert not any(t.isnan().any() for t in whole.values()), f"{name} has holes"
        found[name] = whole
    return found


# ---------------------------------------------------------------- the cases


def table(name: str, rows: int, dim: int, **more: Any) -> EmbeddingTable:
    return EmbeddingTable(name=name, num_embeddings=rows, embedding_dim=dim, **more)


def pooled_case() -> Case:
    """Unequal dims, a table of fewer rows than ranks, one shared by features, bags, means, a concatenated input."""
    small, shared, wide = table("small", 3, 5), table("group/shared", 29, 5), table("wide", 41, 8)
    mean = table("mean.of", 23, 6, pooling="mean", zero_columns=1)
    return Case(
        {
            "fields": PooledEmbeddings({"a": small, "b": shared, "c": shared}),
            "wide": PooledEmbeddings({"a2": wide}),
            "both": PooledEmbeddings({"d": mean, "a2": table("again", 17, 3)}, concat=True),
            "dense": DenseFeatures(("x", "z")),
        },
        {"a": 1, "b": 3, "c": 2, "a2": 1, "d": 4},
    )


def sequence_case() -> Case:
    """Two aligned sequences sharing tables with pooled targets, a pooled list (mean) on a sequence table, a 1-d one.

    The aligned ones have a number beside each pair of ids.
    """
    item, kind = table("item", 37, 6), table("kind", 11, 6, pooling="mean")
    return Case(
        {
            "target": PooledEmbeddings({"item": item, "kind": kind}),
            "history": SequenceEmbeddings({"items": item, "kinds": kind}, dense=("prices",)),
            "liked": PooledEmbeddings({"likes": kind, "other": table("plain", 19, 6)}),
            "short": SequenceEmbeddings({"tags": table("tags", 13, 1)}),
        },
        {"item": 1, "kind": 1, "items": 5, "kinds": 5, "likes": 3, "other": 2, "tags": 3},
        aligned={"kinds": "items"},
    )


def weighted_case() -> Case:
    """Weighted bags, a 1-d table read with and without weights, weighted means, a weighted sequence and its bag."""
    rated, both = table("rated", 31, 7), table("both", 21, 1)
    mean, sequence = table("weighted_mean", 15, 1, pooling="mean"), table("sequence", 27, 4)
    return Case(
        {
            "bags": PooledEmbeddings({"r": rated}),
            "pair": PooledEmbeddings({"u": both, "v": both, "m": mean}),
            "steps": SequenceEmbeddings({"s": sequence}),
            "summed": PooledEmbeddings({"s": sequence, "plain": sequence}),
        },
        {"r": 4, "u": 2, "v": 3, "m": 3, "s": 4, "plain": 2},
        weighted=("r", "v", "m", "s"),
    )


def every_case() -> Case:
    """All of the above in one model."""
    cases = [pooled_case(), sequence_case(), weighted_case()]
    return Case(
        {n: i for c in cases for n, i in c.inputs.items()},
        {f: n for c in cases for f, n in c.lengths.items()},
        tuple(f for c in cases for f in c.weighted),
        {f: like for c in cases for f, like in c.aligned.items()},
    )
