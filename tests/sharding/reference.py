"""Unsharded training in float64, as loops over rows and ids: what every plan must come to."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from shardrec.models.inputs import DenseFeatures, Input, PooledEmbeddings, SequenceEmbeddings
from shardrec.models.table_reads import declared_tables
from shardrec.models.table_settings import TableOptimizer
from shardrec.sharding.tables.first_values import draw_block
from tests.sharding.cases import SEED, Case, Rows, numbers_beside, slopes


@dataclass
class Reference:
    """Unsharded training in float64, written as loops: tables, optimizer state, tower bias.

    samples: table -> row -> in how many rows of the batches trained on it occurs
    """

    case: Case
    weights: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    samples: dict[str, Counter[int]] = field(default_factory=dict)
    bias: float = 0.25

    def __post_init__(self) -> None:
        for table in declared_tables(self.case.inputs).values():
            n = table.num_embeddings
            assert n <= 65_536
            weight = torch.from_numpy(draw_block(table, SEED, 0)[:n]).double()
            assert table.optimizer is not None
            self.weights[table.name] = weight
            self.state[table.name] = {}

    def train(self, batches: list[Rows], tower_rate: float = 0.1) -> list[float]:
        for table in declared_tables(self.case.inputs):
            each = (self._named(table, rows, [r]) for rows in batches for r in range(len(rows.scale)))
            self.samples[table] = Counter(i for named in each for i in named)
        return [self._step(rows, tower_rate) for rows in batches]

    def _step(self, rows: Rows, tower_rate: float) -> float:
        leaves = {n: w.clone().requires_grad_() for n, w in self.weights.items()}
        bias = torch.tensor(self.bias, dtype=torch.float64, requires_grad=True)
        total = torch.zeros((), dtype=torch.float64)
        for r, scale in enumerate(rows.scale):
            inputs = [i for i in self.case.inputs.values() if not isinstance(i, DenseFeatures)]
            read = {False: leaves, True: {n: leaf.detach() for n, leaf in leaves.items()}}
            score = bias + sum(self._score(i, rows, r, read[i.detached]) for i in inputs) / len(inputs)
            total = total + scale * (score - 0.5) ** 2
        loss = total / sum(rows.scale)
        loss.backward()
        for name, leaf in leaves.items():
            gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            self._update(name, gradient, self._named(name, rows, range(len(rows.scale))), sum(rows.scale))
        assert bias.grad is not None
        self.bias -= tower_rate * float(bias.grad)
        return float(loss.detach())

    def _named(self, table: str, rows: Rows, which: Iterable[int]) -> set[int]:
        """The table rows that some rows of a batch name by a feature that is learned from."""
        features = {f for i in self.case.inputs.values() if not isinstance(i, DenseFeatures) and not i.detached
                    for f, t in i.tables.items() if t.name == table}  # fmt: skip
        return {i for f in features for r in which for i in rows.ids[f][r]}

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
                number = torch.tensor([numbers_beside(rows.ids[first][r])[p]], dtype=torch.float64)
                flat = torch.cat([flat, *([number] * len(asked.dense))])
                weight = rows.weights[first][r][p] if first in rows.weights else 1.0
                total = total + weight * (torch.tanh(flat) * slopes(len(flat)).double()).sum()
            return total
        return 0.0

    def _update(self, name: str, gradient: Tensor, named: set[int], loss_weight: float) -> None:
        o, weight = declared_tables(self.case.inputs)[name].optimizer, self.weights[name]
        assert o is not None
        for row in range(len(weight)) if o.decay == "table" else sorted(named):
            w, g, beside = weight[row].clone(), gradient[row], 0.0
            if o.decay == "frequency":
                beside = o.learning_rate * o.weight_decay / self.samples[name][row] * w
            else:
                g = g + o.weight_decay * w
            g = g * loss_weight if o.name == "ftrl" else g  # of the loss summed over the batch
            weight[row] = change_row(o, w, g, self.state[name], row) - beside


def change_row(o: TableOptimizer, w: Tensor, g: Tensor, state: dict[str, Tensor], row: int) -> Tensor:
    """The new weights of a row after a gradient, by the formulas of each optimizer's paper, in float64."""

    def held(name: str) -> Tensor:
        """A row's state, 0 at first but for FTRL's z, to be changed in place."""
        first = torch.zeros_like(w)
        if name == "z":  # of which the first w follows, while n is 0
            first = -w.sign() * o.l1 - w * (o.beta / o.learning_rate + o.l2)
        return state.setdefault(f"{name} {row}", first)

    match o.name:
        case "sgd":
            u = held("momentum")
            u.copy_(o.momentum * u + g)
            return w - o.learning_rate * u
        case "adagrad" | "rowwise_adagrad":
            n = held("n")
            n += g.square() if o.name == "adagrad" else g.square().mean()
            return w - o.learning_rate * g / (n.sqrt() + o.eps)
        case "rmsprop":
            n = held("n")
            n.copy_(o.smoothing * n + (1 - o.smoothing) * g.square())
            return w - o.learning_rate * g / (n.sqrt() + o.eps)
        case "adam":
            m, v, t = held("m"), held("v"), held("t")
            t += 1
            m.copy_(o.betas[0] * m + (1 - o.betas[0]) * g)
            v.copy_(o.betas[1] * v + (1 - o.betas[1]) * g.square())
            m_hat, v_hat = m / (1 - o.betas[0] ** t), v / (1 - o.betas[1] ** t)
            return w - o.learning_rate * m_hat / (v_hat.sqrt() + o.eps)
        case "ftrl":
            z, n = held("z"), held("n")
            z += g - ((n + g.square()).sqrt() - n.sqrt()) / o.learning_rate * w
            n += g.square()
            c = (o.beta + n.sqrt()) / o.learning_rate + o.l2
            return torch.where(z.abs() <= o.l1, 0.0, -(z - z.sign() * o.l1) / c)
