"""Cases for comparing sharded lookups with plain loops: small inputs, global batches, and a float64 reference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data_pipeline.batch import Batch
from models.inputs import (
    DenseFeatures,
    EmbeddingTable,
    Input,
    Jagged,
    PooledEmbeddings,
    SequenceEmbeddings,
    TableOptimizer,
)
from sharding import Distributed, EmbeddingLookup, Topology, distribute, plan_tables
from sharding.initialize import draw_block
from sharding.tables import declared_tables

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
        """The same with every table placed so; row-wise AdaGrad tables are left free where it is column-wise."""

        def change(table: EmbeddingTable) -> EmbeddingTable:
            refused = placement == "column_wise" and table.optimizer and table.optimizer.name == "rowwise_adagrad"
            return replace(table, placement=None if refused else placement)

        return self.changed(change)

    def rotated(self, placements: Sequence[str | None], first: int = 0) -> "Case":
        """The same with the placements dealt to the tables in turn; AdaGrad, so that each may have any."""
        order = {name: placements[(i + first) % len(placements)] for i, name in enumerate(declared_tables(self.inputs))}
        return self.changed(lambda t: replace(t, placement=order[t.name], optimizer=DEFAULT))

    def changed_optimizer(self, optimizer: TableOptimizer) -> "Case":
        return self.changed(lambda t: replace(t, optimizer=optimizer))

    def optimized(self, optimizers: dict[str, TableOptimizer]) -> "Case":
        """All tables once for each optimizer, in one model; the features are the same."""
        inputs: dict[str, Input] = {}
        for prefix, optimizer in optimizers.items():
            case = self.changed(lambda t, p=prefix, o=optimizer: replace(t, name=f"{p}/{t.name}", optimizer=o))
            inputs |= {f"{prefix}/{n}": i for n, i in case.inputs.items()}
        return replace(self, inputs=inputs)


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


def share(case: Case, rows: Rows, rank: int, world_size: int, lookup: EmbeddingLookup) -> Batch:
    """One rank's rows, padded so that all ranks have equally many."""
    count = -(-len(rows.scale) // world_size)
    mine = range(rank * count, (rank + 1) * count)

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
    return Batch(
        dense=torch.arange(count * 3, dtype=torch.float32).view(count, 3),
        ids=jagged(lookup.id_names, False),
        weighted_ids=jagged(lookup.weighted_id_names, True) if lookup.weighted_id_names else None,
        labels={},
        weights=scale,
        groups=None,
        rows=torch.tensor([r if r < len(rows.scale) else -1 for r in mine]),
    )


class Tower(nn.Module):
    """Per row sum over inputs of tanh(x) . w, so that gradients differ by row, feature and column."""

    def __init__(self, inputs: dict[str, Input]) -> None:
        super().__init__()
        self.names = [n for n, i in inputs.items() if not isinstance(i, DenseFeatures)]
        self.bias = nn.Parameter(torch.tensor(0.25))

    def forward(self, found: dict[str, Any]) -> Tensor:
        return torch.stack([self.one(found[n]) for n in self.names]).sum(0) / len(self.names) + self.bias

    @staticmethod
    def one(value: Tensor | Jagged) -> Tensor:
        if isinstance(value, Tensor):
            flat = value.flatten(1)
            return (torch.tanh(flat) * slopes(flat.shape[1])).sum(1)
        flat = value.values.flatten(1)
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
            case.inputs, ("x", "y", "z"), weighted_names=case.weighted, device=device, seed=SEED
        )
        self.tower = Tower(case.inputs)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        score = self.tower(self.lookup(batch))
        return ((score - 0.5).square() * batch.weights).sum(), batch.weights.sum()


def make(case: Case, optimizer: TableOptimizer = DEFAULT, memory: int = GIB) -> Distributed:
    """The case's step, sharded over the process group that is here; `optimizer` is for tables that name none."""
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    topology = Topology(world_size, world_size, "cpu", memory)
    plan = plan_tables(case.inputs, optimizer, topology)
    return distribute(Step(case), plan, optimizer=optimizer, seed=SEED, device=torch.device("cpu"))


def train(case: Case, distributed: Distributed, batches: list[Rows], tower_rate: float = 0.1) -> list[float]:
    """Trains on the global batches as the trainer does; the global losses."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    tower = torch.optim.SGD(distributed.tower_parameters().values(), lr=tower_rate)
    losses = []
    for rows in batches:
        batch = share(case, rows, rank, world_size, distributed.lookup)
        total, count = distributed.module(batch)
        sums = torch.stack([total.detach(), count])
        dist.all_reduce(sums)
        losses.append(float(sums[0] / sums[1]))
        tower.zero_grad()
        distributed.zero_grad()
        (world_size * total / sums[1]).backward()
        tower.step()
        distributed.step()
    return losses


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


# ---------------------------------------------------------------- the reference: float64, loops over rows and ids


@dataclass
class Reference:
    """Unsharded training in float64, written as loops: tables, optimizer state, tower bias."""

    case: Case
    weights: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    bias: float = 0.25

    def __post_init__(self) -> None:
        for table in declared_tables(self.case.inputs).values():
            n = table.num_embeddings
            assert n <= 65_536
            self.weights[table.name] = torch.from_numpy(draw_block(table, SEED, 0)[:n]).double()
            assert table.optimizer is not None
            shape = (n, table.embedding_dim) if table.optimizer.name == "adagrad" else (n,)
            self.state[table.name] = torch.zeros(shape, dtype=torch.float64)

    def train(self, batches: list[Rows], tower_rate: float = 0.1) -> list[float]:
        return [self._step(rows, tower_rate) for rows in batches]

    def _step(self, rows: Rows, tower_rate: float) -> float:
        leaves = {n: w.clone().requires_grad_() for n, w in self.weights.items()}
        bias = torch.tensor(self.bias, dtype=torch.float64, requires_grad=True)
        total = torch.zeros((), dtype=torch.float64)
        for r, scale in enumerate(rows.scale):
            inputs = [i for i in self.case.inputs.values() if not isinstance(i, DenseFeatures)]
            score = bias + sum(self._score(i, rows, r, leaves) for i in inputs) / len(inputs)
            total = total + scale * (score - 0.5) ** 2
        loss = total / sum(rows.scale)
        loss.backward()
        for name, leaf in leaves.items():
            self._update(name, leaf.grad, self._named(name, rows))
        assert bias.grad is not None
        self.bias -= tower_rate * float(bias.grad)
        return float(loss.detach())

    def _named(self, table: str, rows: Rows) -> set[int]:
        features = {f for i in self.case.inputs.values() if not isinstance(i, DenseFeatures)
                    for f, t in i.tables.items() if t.name == table}  # fmt: skip
        return {i for f in features for ids in rows.ids[f] for i in ids}

    def _score(self, asked: Input, rows: Rows, r: int, leaves: dict[str, Tensor]) -> Tensor | float:
        if isinstance(asked, PooledEmbeddings):
            bags = []
            for f, table in asked.tables.items():
                ids, one = rows.ids[f][r], [1.0] * len(rows.ids[f][r])
                weights = rows.weights[f][r] if f in rows.weights else one
                bag = torch.zeros(table.embedding_dim, dtype=torch.float64)
                for i, w in zip(ids, weights, strict=True):
                    bag = bag + w * leaves[table.name][i]
                if table.pooling == "mean" and sum(weights):
                    bag = bag / sum(weights)
                bags.append(bag)
            flat = torch.cat(bags)
            return (torch.tanh(flat) * slopes(len(flat)).double()).sum()
        if isinstance(asked, SequenceEmbeddings):
            features = list(asked.tables.items())
            first = features[0][0]
            total = torch.zeros((), dtype=torch.float64)
            for p in range(len(rows.ids[first][r])):
                flat = torch.cat([leaves[t.name][rows.ids[f][r][p]] for f, t in features])
                weight = rows.weights[first][r][p] if first in rows.weights else 1.0
                total = total + weight * (torch.tanh(flat) * slopes(len(flat)).double()).sum()
            return total
        return 0.0

    def _update(self, name: str, gradient: Tensor | None, named: set[int]) -> None:
        o, weight, state = declared_tables(self.case.inputs)[name].optimizer, self.weights[name], self.state[name]
        assert o is not None
        for row in sorted(named):
            assert gradient is not None
            g = gradient[row] + o.weight_decay * weight[row]
            if o.name == "sgd":
                weight[row] -= o.learning_rate * g
                continue
            state[row] += g.square() if o.name == "adagrad" else g.square().mean()
            weight[row] -= o.learning_rate * g / (state[row].sqrt() + o.eps)


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
    """Two aligned sequences sharing tables with pooled targets, a pooled list (mean) on a sequence table."""
    item, kind = table("item", 37, 6), table("kind", 11, 6, pooling="mean")
    return Case(
        {
            "target": PooledEmbeddings({"item": item, "kind": kind}),
            "history": SequenceEmbeddings({"items": item, "kinds": kind}),
            "liked": PooledEmbeddings({"likes": kind, "other": table("plain", 19, 6)}),
            "short": SequenceEmbeddings({"tags": table("tags", 13, 4)}),
        },
        {"item": 1, "kind": 1, "items": 5, "kinds": 5, "likes": 3, "other": 2, "tags": 3},
        aligned={"kinds": "items"},
    )


def weighted_case() -> Case:
    """Weighted bags, one table read with and without weights, weighted means, a weighted sequence and its bag."""
    rated, both = table("rated", 31, 7), table("both", 21, 4)
    mean, sequence = table("weighted_mean", 15, 4, pooling="mean"), table("sequence", 27, 4)
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
