"""Our own kernel against float64 loops, and against FBGEMM's where that has the rule."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.inputs import EmbeddingTable, TableOptimizer
from sharding.optimizers import RowUpdate
from sharding.row_updates import RowTables
from sharding.tables import physical_dim
from tests.sharding.cases import SEED, draw_rows, pooled_case, share, table

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def optimized(name: str, dim: int, rows: int = 9, **more: float) -> EmbeddingTable:
    o = TableOptimizer(name=name, learning_rate=0.1, eps=1e-3, **more)
    return replace(table(f"{name}{dim}", rows, dim), optimizer=o)


def build(tables: list[EmbeddingTable], features: list[int], deferred: bool = False) -> RowTables:
    rows = RowTables(
        [(t.num_embeddings, physical_dim(t.embedding_dim)) for t in tables],
        features,
        [RowUpdate.of(t) for t in tables],
        dtypes=[DTYPES[t.dtype] for t in tables],
        device=torch.device("cpu"),
        deferred=deferred,
    )
    generator = torch.Generator().manual_seed(SEED)
    for weight, t in zip(rows.weights, tables, strict=True):
        weight[:, : t.embedding_dim] = torch.rand(t.num_embeddings, t.embedding_dim, generator=generator) - 0.5
    return rows


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 4), min_size=6, max_size=6),
    weighted=st.booleans(),
    name=st.sampled_from(["sgd", "adagrad", "rowwise_adagrad"]),
    decay=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 99),
)
def test_equals_loops(lengths: list[int], weighted: bool, name: str, decay: float, seed: int) -> None:
    """Two tables, three features (two of them on one table), two rows: sums and one update, in float64 loops."""
    tables = [optimized(name, 3, weight_decay=decay), optimized(name, 8, weight_decay=decay)]
    kernel = build(tables, [0, 1, 0])
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 9, (sum(lengths),), generator=generator)
    scale = torch.rand(sum(lengths), generator=generator) if weighted else None
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    before = [w.double().clone() for w in kernel.weights]
    out = kernel(ids, offsets, scale)
    upstream = torch.randn(out.shape, generator=generator)
    upstream[:, [3, 15]] = 0  # padded columns get no gradient
    out.backward(upstream)

    gradients = [torch.zeros_like(w) for w in before]
    named: list[set[int]] = [set(), set()]
    columns = [(0, slice(0, 4)), (1, slice(4, 12)), (0, slice(12, 16))]
    for f, (t, at) in enumerate(columns):
        for b in range(2):
            bag = f * 2 + b
            expected = torch.zeros(before[t].shape[1], dtype=torch.float64)
            for i in range(int(offsets[bag]), int(offsets[bag + 1])):
                w = 1.0 if scale is None else float(scale[i])
                expected += w * before[t][ids[i]]
                gradients[t][ids[i]] += w * upstream[b, at].double()
                named[t].add(int(ids[i]))
            torch.testing.assert_close(out[b, at].detach().double(), expected, atol=1e-6, rtol=0)
    for t, spec in enumerate(tables):
        dim = spec.embedding_dim
        for row in range(9):
            weight = before[t][row, :dim]
            if row not in named[t]:
                assert torch.equal(kernel.weights[t][row, :dim].double(), weight)
                continue
            g = gradients[t][row, :dim] + decay * weight
            size = {"sgd": 1.0, "adagrad": g.abs() + 1e-3, "rowwise_adagrad": g.square().mean().sqrt() + 1e-3}[name]
            torch.testing.assert_close(
                kernel.weights[t][row, :dim].double(), weight - 0.1 * g / size, atol=1e-5, rtol=0
            )
        assert not kernel.weights[t][:, dim:].any()


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
        **RowUpdate.of(spec).fbgemm(),
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


def test_small_changes_survive_in_fp32_state_only() -> None:
    """fp16 rows round to nearest: documented, so that a change of it is noticed."""
    spec = replace(optimized("sgd", 4), dtype="fp16", optimizer=TableOptimizer(name="sgd", learning_rate=1e-5))
    kernel = build([spec], [0])
    kernel.weights[0].fill_(1.0)
    kernel(torch.tensor([2]), torch.tensor([0, 1])).sum().backward()
    assert (kernel.weights[0] == 1).all()


def test_share_pads_ranks_to_equal_rows() -> None:
    """The helper that the placement tests rely on."""
    from sharding import EmbeddingLookup

    case = pooled_case()
    rows = draw_rows(case, 7, torch.Generator().manual_seed(0))
    lookup = EmbeddingLookup(case.inputs, ("x", "y", "z"), device="cpu")
    batches = [share(case, rows, r, 2, lookup) for r in range(2)]
    assert [b.size for b in batches] == [4, 4]
    assert batches[1].rows.tolist() == [4, 5, 6, -1]
    assert sum(b.ids.values().numel() for b in batches) == sum(len(x) for f in rows.ids.values() for x in f)
