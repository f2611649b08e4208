"""FTRL-Proximal against the recurrences of its paper in NumPy, warm starts, schedules, zeros."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from shardrec.models.table_settings import TableOptimizer
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.tables.live import LiveTable, TableShard, physical_dim
from shardrec.sharding.updates.choose import row_update, warm_start_tables
from shardrec.sharding.updates.context import UpdateContext
from shardrec.sharding.updates.row_tables import RowTables
from tests.sharding.cases import table

ROWS = 12


def ftrl_table(dim: int, dtype: str = "fp32", **settings: float) -> EmbeddingTable:
    return replace(
        table("wide", ROWS, dim),
        optimizer=TableOptimizer(name="ftrl", **{"learning_rate": 0.3} | settings),  # type: ignore[arg-type]
        dtype=dtype,  # type: ignore[arg-type]
    )


def build(spec: EmbeddingTable) -> RowTables:
    shape = (spec.num_embeddings, physical_dim(spec))
    return RowTables([shape], [0], [row_update(spec)], dtypes=[torch.float32], device=torch.device("cpu"))


class Paper:
    """w, z, n of one table [rows, dim] in float64, one coordinate at a time; alpha may change by step."""

    def __init__(self, spec: EmbeddingTable, weight: np.ndarray | None = None) -> None:
        assert spec.optimizer is not None
        self.o, shape = spec.optimizer, (spec.num_embeddings, spec.embedding_dim)
        self.w, self.z, self.n = (np.zeros(shape) for _ in range(3))
        self.alpha = np.full(shape, self.o.learning_rate)  # of each coordinate's last step
        if weight is not None:
            self.w += weight
            self.z = -self.w * (self.o.beta / self.o.learning_rate + self.o.l2) - np.sign(self.w) * self.o.l1

    def step(self, rows: set[int], gradient: np.ndarray, factor: float = 1.0) -> None:
        o, alpha = self.o, self.o.learning_rate * factor
        for i in rows:
            for d in range(self.w.shape[1]):
                g, w, n = gradient[i, d], self.w[i, d], self.n[i, d]
                sigma = (o.beta + np.sqrt(n + g * g)) / alpha - (o.beta + np.sqrt(n)) / self.alpha[i, d]
                if factor == 1:
                    assert np.isclose(sigma, (np.sqrt(n + g * g) - np.sqrt(n)) / alpha, atol=1e-12)
                self.z[i, d] += g - sigma * w
                self.n[i, d] += g * g
                self.alpha[i, d] = alpha
                z, c = self.z[i, d], (o.beta + np.sqrt(self.n[i, d])) / alpha + o.l2
                self.w[i, d] = 0 if abs(z) <= o.l1 else -(z - np.sign(z) * o.l1) / c


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("bags", ["one id", "sum", "mean", "weighted"])
def test_equals_the_paper_step_by_step(dim: int, bags: str) -> None:
    spec = ftrl_table(dim, l1=0.15, l2=0.05, beta=0.7)
    kernel, paper = build(spec), Paper(spec)
    r = np.random.default_rng(dim)
    zeros = set()
    for _ in range(20):
        lengths = np.ones(8, int) if bags == "one id" else r.integers(0, 4, 8)
        ids = r.integers(0, ROWS, lengths.sum())
        bag = np.repeat(np.arange(8), lengths)
        scale = {"mean": 1 / lengths[bag], "weighted": r.normal(size=len(ids))}.get(bags, np.ones(len(ids)))
        scale = scale.astype(np.float32)
        upstream = r.normal(scale=0.2, size=(8, dim)).astype(np.float32)
        offsets = torch.tensor([0, *np.cumsum(lengths)])
        weights = torch.from_numpy(scale) if bags in ("mean", "weighted") else None
        kernel(torch.from_numpy(ids), offsets, weights).backward(torch.from_numpy(upstream))
        gradient = np.zeros((ROWS, dim))
        for i, b, s in zip(ids, bag, scale, strict=True):
            gradient[i] += s * upstream[b].astype(np.float64)
        paper.step(set(ids.tolist()), gradient)
        np.testing.assert_allclose(kernel.weights[0], paper.w, atol=1e-6)
        for name in ("z", "n"):
            np.testing.assert_allclose(kernel.states[0][name], getattr(paper, name), atol=3e-6)
        zeros.add(int((paper.w == 0).sum()))
    assert len(zeros) > 2  # weights come and go, so that the threshold is tested


def test_gradients_of_a_mean_loss_count_as_those_of_its_sum() -> None:
    """Settings mean the same for any batch size; other optimizers take the mean's gradient as it is."""
    spec = ftrl_table(3, l1=0.15, l2=0.05)
    kernel, paper = build(spec), Paper(spec)
    r = np.random.default_rng(7)
    for rows in (4096, 512, 4096):
        ids, upstream = r.integers(0, ROWS, 20), r.normal(size=(20, 3)).astype(np.float32)
        kernel.begin(UpdateContext(0, loss_weight=rows))
        kernel(torch.from_numpy(ids), torch.arange(21)).backward(torch.from_numpy(upstream) / rows)
        gradient = np.zeros((ROWS, 3))
        np.add.at(gradient, ids, upstream)
        paper.step(set(ids.tolist()), gradient)
    np.testing.assert_allclose(kernel.weights[0], paper.w, atol=1e-6)
    assert 0 < (paper.w == 0).sum() < ROWS * 3 / 2

    sgd = build(replace(spec, optimizer=TableOptimizer(name="sgd", learning_rate=1.0)))
    sgd.begin(UpdateContext(0, loss_weight=4096.0))
    sgd(torch.tensor([1]), torch.tensor([0, 1])).sum().backward()
    assert sgd.weights[0][1, 0] == -1


def test_a_schedule_does_not_rescale_weights() -> None:
    """alpha of a step counts for that step's move: equal to the recurrence whose sigma is the change of 1 / rate."""
    spec = ftrl_table(3, l1=0.05, l2=0.1)
    kernel, paper = build(spec), Paper(spec)
    r = np.random.default_rng(5)
    for step in range(30):
        factor = 1.0 if step < 10 else 1.0 - (step - 9) / 25
        kernel.begin(UpdateContext(step, factor))
        ids, upstream = r.integers(0, ROWS, 6), r.normal(size=(6, 3)).astype(np.float32)
        before = kernel.weights[0].clone()
        kernel(torch.from_numpy(ids), torch.arange(7)).backward(torch.from_numpy(upstream))
        gradient = np.zeros((ROWS, 3))
        np.add.at(gradient, ids, upstream)
        paper.step(set(ids.tolist()), gradient, factor)
        np.testing.assert_allclose(kernel.weights[0], paper.w, atol=2e-6)
    kernel.begin(UpdateContext(30, 0.0))
    before = kernel.weights[0].clone()
    kernel(torch.arange(ROWS), torch.arange(ROWS + 1)).sum().backward()
    assert torch.equal(kernel.weights[0], before) and before.any()


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_gradient_of_zero_leaves_warm_started_weights(dtype: str) -> None:
    spec = ftrl_table(3, dtype=dtype, l1=0.4, l2=0.1)
    update = row_update(spec)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(ROWS, 3, generator=generator).to({"fp32": torch.float32, "fp16": torch.float16}[dtype])
    weight[2], weight[3, 1] = 0, 1e-6
    state = {name: torch.full((ROWS, 3), 9.0) for name in ("z", "n")}
    shards = [
        TableShard(row, 0, {"weight": weight[row : row + 6], **{n: t[row : row + 6] for n, t in state.items()}})
        for row in (0, 6)
    ]
    warm_start_tables([LiveTable(spec, tuple(shards))])
    paper = Paper(spec, weight.double().numpy())
    torch.testing.assert_close(state["z"], torch.from_numpy(paper.z).float())
    assert not state["n"].any() and not state["z"][2].any()
    before = weight.clone()
    for _ in range(3):
        update.apply(weight, state, torch.arange(ROWS), torch.zeros(ROWS, 3))
    assert torch.equal(weight, before)
    for _ in range(3):
        update.apply(weight, state, torch.arange(ROWS), torch.full((ROWS, 3), 1e-30))
    torch.testing.assert_close(weight, before, atol=3e-8, rtol=3e-7)  # so through the formula too
    assert not weight[2].any()


def test_warm_started_tables_train_like_the_paper_from_there() -> None:
    spec = ftrl_table(1, l1=0.1)
    kernel = build(spec)
    generator = torch.Generator().manual_seed(2)
    kernel.weights[0].normal_(generator=generator)
    paper = Paper(spec, kernel.weights[0].double().numpy())
    warm_start_tables([LiveTable(spec, (TableShard(0, 0, {"weight": kernel.weights[0], **kernel.states[0]}),))])
    for _ in range(10):
        upstream = torch.randn(ROWS, 1, generator=generator)
        kernel(torch.arange(ROWS), torch.arange(ROWS + 1)).backward(upstream)
        paper.step(set(range(ROWS)), upstream.double().numpy())
    np.testing.assert_allclose(kernel.weights[0], paper.w, atol=1e-6)


def test_other_optimizers_start_afresh() -> None:
    spec = replace(table("t", 4, 2), optimizer=TableOptimizer(name="adam"))
    update = row_update(spec)
    weight = torch.ones(4, 2)
    state = {name: torch.ones_like(tensor) for name, tensor in update.state(weight).items()}
    warm_start_tables([LiveTable(spec, (TableShard(0, 0, {"weight": weight, **state}),))])
    assert weight.all() and not any(tensor.any() for tensor in state.values())


def test_zeros_grow_with_l1() -> None:
    """Labels that two of twelve ids explain; the others' weights are noise, which a larger l1 leaves at 0."""
    shares = []
    for l1 in (0.0, 0.3, 3.0, 100.0):
        spec = ftrl_table(1, l1=l1)
        kernel = build(spec)
        generator = torch.Generator().manual_seed(4)
        for _ in range(60):
            ids = torch.randint(0, ROWS, (32,), generator=generator)
            wanted = (ids < 2).float() + 0.3 * torch.randn(32, generator=generator)
            error = kernel(ids, torch.arange(33)).squeeze(1) - wanted
            error.square().mean().backward()
        live = LiveTable(spec, (TableShard(0, 0, {"weight": kernel.weights[0]}),))
        shares.append(live.zeros() / ROWS)
        if l1 == 3.0:
            assert kernel.weights[0][:2].all()  # what explains something stays
    assert shares[0] == 0 and shares == sorted(shares) and shares[2] > 0.5 and shares[3] == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "adagrad", "l1": 0.1}, "l1 is a setting of ftrl, not of adagrad; leave it out"),
        ({"name": "ftrl", "eps": 0.1}, "eps is a setting of adagrad, rowwise_adagrad, rmsprop, adam, not of ftrl"),
        ({"name": "ftrl", "weight_decay": 0.1}, "not of ftrl; l2 is its L2"),
        ({"name": "adam", "momentum": 0.9}, "momentum is a setting of sgd, not of adam"),
        ({"name": "lamb"}, "Input should be 'sgd', 'adagrad', 'rowwise_adagrad', 'rmsprop', 'adam' or 'ftrl'"),
    ],
)
def test_settings_of_another_optimizer(settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TableOptimizer(**settings)


def test_settings_that_are_defaults_may_be_said() -> None:
    """So that a resolved run file, which says all, can be read back."""
    for name in ("sgd", "ftrl", "adam"):
        found = TableOptimizer(name=name)
        assert TableOptimizer(**found.model_dump()) == found
