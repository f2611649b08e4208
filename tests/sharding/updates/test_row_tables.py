"""Our own kernel against float64 loops, and against FBGEMM's where that has the rule."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardrec.models.table_settings import TableOptimizer
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.tables.live import physical_dim
from shardrec.sharding.updates import compiled_rows
from shardrec.sharding.updates import rules as row_rules
from shardrec.sharding.updates.choose import fbgemm_parameters, row_update
from shardrec.sharding.updates.row_tables import RowTables
from shardrec.sharding.updates.rules import Adam
from tests.sharding.cases import SEED, draw_rows, pooled_case, share, table
from tests.sharding.reference import change_row

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def optimized(name: str, dim: int, rows: int = 9, **more: Any) -> EmbeddingTable:
    eps = {"eps": 1e-3} if name not in ("sgd", "ftrl") else {}
    o = TableOptimizer(name=name, **{"learning_rate": 0.1} | eps | more)  # type: ignore[arg-type]
    return replace(table(f"{name}{dim}", rows, dim), optimizer=o)


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms of the kernel pass every test."""
    if request.param == "torch":
        monkeypatch.setattr(compiled_rows, "library", lambda: None)


def build(tables: list[EmbeddingTable], features: list[int], deferred: bool = False) -> RowTables:
    rows = RowTables(
        [(t.num_embeddings, physical_dim(t)) for t in tables],
        features,
        [row_update(t) for t in tables],
        dtypes=[DTYPES[t.dtype] for t in tables],
        device=torch.device("cpu"),
        deferred=deferred,
    )
    generator = torch.Generator().manual_seed(SEED)
    for weight, t in zip(rows.weights, tables, strict=True):
        weight[:, : t.embedding_dim] = torch.rand(t.num_embeddings, t.embedding_dim, generator=generator) - 0.5
    return rows


RULES: list[dict[str, Any]] = [
    {"name": "sgd"},
    {"name": "adagrad"},
    {"name": "rowwise_adagrad"},
    {"name": "sgd", "weight_decay": 0.3},
    {"name": "sgd", "momentum": 0.9},
    {"name": "rowwise_adagrad", "weight_decay": 0.3},
    {"name": "rmsprop", "smoothing": 0.9, "weight_decay": 0.3},
    {"name": "adam", "weight_decay": 0.3},
    {"name": "ftrl", "l1": 0.1, "l2": 0.2, "beta": 0.5},
]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(0, 4), min_size=6, max_size=6),
    weighted=st.booleans(),
    rule=st.sampled_from(RULES),
    seed=st.integers(0, 99),
)
def test_equals_loops(lengths: list[int], weighted: bool, rule: dict[str, Any], seed: int) -> None:
    """Two tables, three features (two of them on one table), two rows: sums and updates, in float64 loops."""
    tables = [optimized(**rule, dim=3), optimized(**rule, dim=8)]
    kernel = build(tables, [0, 1, 0])
    if rule["name"] == "ftrl":
        for weight in kernel.weights:
            weight.zero_()  # as `initialize.py` has it
    generator = torch.Generator().manual_seed(seed)
    expected = [w[:, : t.embedding_dim].double() for w, t in zip(kernel.weights, tables, strict=True)]
    state: list[dict[str, torch.Tensor]] = [{}, {}]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    widths = [kernel.weights[t].shape[1] for t in (0, 1, 0)]
    for _ in range(3):
        before = [w.clone() for w in kernel.weights]
        ids = torch.randint(0, 9, (sum(lengths),), generator=generator)
        scale = torch.rand(sum(lengths), generator=generator) if weighted else None
        out = kernel(ids, offsets, scale)
        upstream = torch.randn(out.shape, generator=generator)
        if widths[0] == 4:
            upstream[:, [3, 15]] = 0  # padded columns get no gradient
        out.backward(upstream)
        gradients = [torch.zeros_like(w) for w in expected]
        named: list[set[int]] = [set(), set()]
        columns = zip((0, 1, 0), out.detach().split(widths, 1), upstream.split(widths, 1), strict=True)
        for f, (t, pooled, given_back) in enumerate(columns):
            dim = tables[t].embedding_dim
            for b in range(2):
                total = torch.zeros(dim, dtype=torch.float64)
                for i in range(int(offsets[f * 2 + b]), int(offsets[f * 2 + b + 1])):
                    w = 1.0 if scale is None else float(scale[i])
                    total += w * expected[t][ids[i]]
                    gradients[t][ids[i]] += w * given_back[b, :dim].double()
                    named[t].add(int(ids[i]))
                torch.testing.assert_close(pooled[b, :dim].double(), total, atol=1e-5, rtol=0)
        for t, spec in enumerate(tables):
            o, dim = spec.optimizer, spec.embedding_dim
            assert o is not None
            for row in named[t]:
                g = gradients[t][row] + o.weight_decay * expected[t][row]
                expected[t][row] = change_row(o, expected[t][row], g, state[t], row)
            torch.testing.assert_close(kernel.weights[t][:, :dim].double(), expected[t], atol=1e-5, rtol=1e-5)
            others = [row for row in range(9) if row not in named[t]]
            assert torch.equal(kernel.weights[t][others], before[t][others])
            assert not kernel.weights[t][:, dim:].any()


def dense_optimizer(o: TableOptimizer, weight: torch.Tensor) -> torch.optim.Optimizer:
    common: dict[str, Any] = {"lr": o.learning_rate, "weight_decay": o.weight_decay}
    match o.name:
        case "sgd":
            return torch.optim.SGD([weight], momentum=o.momentum, **common)
        case "rmsprop":
            return torch.optim.RMSprop([weight], alpha=o.smoothing, eps=o.eps, **common)
        case "adam":
            return torch.optim.Adam([weight], betas=o.betas, eps=o.eps, **common)
    return torch.optim.Adagrad([weight], eps=o.eps, **common)


@pytest.mark.parametrize("everywhere", ["rows in the batch", "whole table"])
@pytest.mark.parametrize(
    "rule",
    [
        {"name": "sgd", "momentum": 0.9, "weight_decay": 0.01},
        {"name": "rmsprop", "smoothing": 0.95, "eps": 1e-8, "weight_decay": 0.01},
        {"name": "adam", "betas": (0.8, 0.99), "eps": 1e-8, "weight_decay": 0.01},
        {"name": "adagrad", "weight_decay": 0.01},
    ],
    ids=lambda rule: rule["name"],
)
def test_equals_torch(rule: dict[str, Any], everywhere: str) -> None:
    """torch.optim on the dense table: where the batch names every row, and else where `decay: table`."""
    whole = everywhere == "whole table"
    spec = optimized(**rule, dim=3, rows=30, decay="table" if whole else "batch")
    kernel = build([spec], [0], deferred=whole)
    dense = kernel.weights[0].clone().requires_grad_()
    optimizer = dense_optimizer(spec.optimizer, dense)
    generator = torch.Generator().manual_seed(1)
    for _ in range(12):
        ids = torch.randint(0, 30, (50,), generator=generator)
        ids = ids if whole else torch.cat([torch.arange(30), ids])
        upstream = torch.randn(len(ids), 3, generator=generator)
        kernel(ids, torch.arange(len(ids) + 1)).backward(upstream)
        optimizer.zero_grad()
        (dense[ids] * upstream).sum().backward()
        optimizer.step()
        if whole:
            gathered = torch.zeros(30, 4)
            kernel.add_gradients(0, gathered)
            kernel.update(0, gathered)
            kernel.forget_gradients()
    torch.testing.assert_close(kernel.weights[0], dense.detach(), atol=2e-6, rtol=0)


@dataclass(frozen=True, kw_only=True)
class SizedAdam(Adam):
    """Adam that notes how many rows it has in work at once."""

    sizes: list[int]

    def change(self, row: Tensor, state: Mapping[str, Tensor], g: Tensor, learning_rate: float) -> None:
        self.sizes.append(len(row))
        super().change(row, state, g, learning_rate)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_whole_tables_are_updated_in_chunks(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the result of a single one, bit for bit."""
    generator = torch.Generator().manual_seed(SEED)
    start, gradient = torch.rand(10, 3, generator=generator).to(dtype), torch.rand(10, 4, generator=generator)[:, :-1]
    found = []
    for weights, sizes in ((100, [10]), (12, [4, 4, 2]), (1, [1] * 10)):
        monkeypatch.setitem(row_rules._CHUNK, "cpu", weights)
        update = SizedAdam(learning_rate=0.1, weight_decay=0.3, eps=1e-8, betas=(0.9, 0.99), sizes=[])
        weight, state = start.clone(), update.state(start)
        for _ in range(3):
            update.apply(weight, state, None, gradient)
        assert update.sizes == sizes * 3
        found.append([weight, *state.values()])
    assert not torch.equal(found[0][0], start)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_a_rare_rows_first_adam_step_is_a_full_one() -> None:
    """The bias correction counts a row's own steps."""
    kernel = build([optimized("adam", 2, eps=1e-8)], [0])
    for _ in range(50):
        kernel(torch.tensor([1]), torch.tensor([0, 1])).sum().backward()
    before = kernel.weights[0][5].clone()
    kernel(torch.tensor([5]), torch.tensor([0, 1])).sum().backward()
    torch.testing.assert_close(before - kernel.weights[0][5], torch.full((2,), 0.1))
    assert kernel.states[0]["steps"].tolist() == [0, 50, 0, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("name", ["sgd", "adagrad", "rowwise_adagrad"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_equals_fbgemm(name: str, dtype: str) -> None:
    """The data-parallel form and FBGEMM's fused one are the same algorithm, state included."""
    from fbgemm_gpu.split_embedding_configs import SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    spec = replace(optimized(name, 6, rows=50), dtype=dtype)
    kernel = build([spec], [0])
    fused = SplitTableBatchedEmbeddingBagsCodegen(
        [(50, 8, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        weights_precision=SparseType.FP32 if dtype == "fp32" else SparseType.FP16,
        **fbgemm_parameters(spec),
    )
    fused.split_embedding_weights()[0].copy_(kernel.weights[0])
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        ids = torch.randint(0, 50, (60,), generator=generator)
        offsets = torch.tensor([0, 3, 3, 30, 60])
        out, expected = kernel(ids, offsets), fused(ids, offsets)
        tolerance = {"fp32": 1e-6, "fp16": 2e-3}[dtype]
        torch.testing.assert_close(out, expected, atol=tolerance * 10, rtol=0)
        upstream = torch.randn(out.shape, generator=generator)
        upstream[:, 6:] = 0
        out.backward(upstream)
        expected.backward(upstream)
        torch.testing.assert_close(kernel.weights[0], fused.split_embedding_weights()[0], atol=tolerance, rtol=0)
    for state in fused.split_optimizer_states():
        torch.testing.assert_close(kernel.states[0]["accumulator"], state[0], rtol=1e-3, atol=1e-6)


def test_deferred_gradients_wait_and_can_be_forgotten() -> None:
    spec = optimized("adagrad", 4)
    kernel = build([spec], [0], deferred=True)
    before = kernel.weights[0].clone()
    for _ in range(2):
        kernel(torch.tensor([1, 1, 3]), torch.tensor([0, 2, 3])).sum().backward()
    assert torch.equal(kernel.weights[0], before)
    gathered = torch.zeros(9, 5)
    kernel.add_gradients(0, gathered)
    assert gathered[:, 0].tolist() == [0, 4, 0, 2, 0, 0, 0, 0, 0]
    kernel.update(0, gathered)
    changed = (kernel.weights[0] != before).any(1).nonzero().squeeze(1)
    assert changed.tolist() == [1, 3]
    kernel.forget_gradients()
    gathered.zero_()
    kernel.add_gradients(0, gathered)
    assert not gathered.any()


def test_no_ids_at_all() -> None:
    kernel = build([optimized("sgd", 4)], [0])
    out = kernel(torch.zeros(0, dtype=torch.int64), torch.zeros(4, dtype=torch.int64))
    out.sum().backward()
    assert out.shape == (3, 4) and not out.any()


def test_without_draws_fp16_rows_round_to_nearest() -> None:
    """As tables with `rounding: nearest` do: a change of it is noticed."""
    spec = replace(optimized("sgd", 4), dtype="fp16", optimizer=TableOptimizer(name="sgd", learning_rate=1e-5))
    kernel = build([spec], [0])
    kernel.weights[0].fill_(1.0)
    kernel(torch.tensor([2]), torch.tensor([0, 1])).sum().backward()
    assert (kernel.weights[0] == 1).all()


def test_share_pads_ranks_to_equal_rows() -> None:
    """The helper that the placement tests rely on."""
    from shardrec.sharding.lookup.lookup import EmbeddingLookup

    case = pooled_case()
    rows = draw_rows(case, 7, torch.Generator().manual_seed(0))
    lookup = EmbeddingLookup(case.inputs, ("x", "y", "z"), device="cpu")
    batches = [share(case, rows, r, 2, lookup) for r in range(2)]
    assert [b.size for b in batches] == [4, 4]
    assert batches[1].rows.tolist() == [4, 5, 6, -1]
    assert sum(b.ids.values().numel() for b in batches) == sum(len(x) for f in rows.ids.values() for x in f)
