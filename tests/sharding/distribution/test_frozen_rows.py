"""Tables that are only read: int8 rows as a loop quantises them, whatever the plan; lookups against loops."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.models.inputs import PooledEmbeddings
from shardrec.models.table_settings import TableOptimizer
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.checkpoints.frozen import read_frozen_tables
from shardrec.sharding.checkpoints.saved_tables import SavedTable
from shardrec.sharding.checkpoints.tables import read_tables, write_tables
from shardrec.sharding.distribution.frozen_rows import (
    FrozenRows,
    dequantise,
    frozen_inputs,
    quantise,
)
from shardrec.sharding.planning.planner import plan_tables
from shardrec.sharding.planning.topology import Topology
from shardrec.sharding.tables.live import LiveTable, TableShard
from tests.sharding.cases import table
from tests.sharding.checkpoints.test_tables import live, plan_for
from tests.sharding.everywhere import STATEFUL
from tests.sharding.frozen_everywhere import FROZEN_RANKS, frozen_batch, frozen_cases
from tests.sharding.reference import Reference


def rows_by_loop(rows: np.ndarray) -> np.ndarray:
    """What int8 rows stand for, in float64."""
    found = np.empty(rows.shape)
    for r, row in enumerate(rows.astype(np.float64)):
        low, high = row.min(), row.max()
        for c, value in enumerate(row):
            found[r, c] = np.rint((value - low) * 255 / (high - low + 1e-8)) * (high - low) / 255 + low
    return found


def draw(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Rows of unlike ranges, one of them constant, one all 0."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator) * torch.logspace(-4, 2, rows).unsqueeze(1)
    values[0], values[1] = 0.25, 0.0
    return values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("columns", [3, 16, 17])
def test_quantised_rows_are_those_of_a_loop(dtype: torch.dtype, columns: int) -> None:
    values = draw(40, columns).to(dtype)
    held = quantise(values)
    assert held.dtype == torch.uint8 and held.shape == (40, columns + 8)
    found, expected = dequantise(held).numpy(), rows_by_loop(values.float().numpy())
    span = np.ptp(values.float().numpy(), axis=1, keepdims=True)
    off = np.abs(found - expected)
    rounded_otherwise = np.abs(off - span / 255) <= 1e-3 * span / 255  # within fp32's error of a half
    assert (np.where(rounded_otherwise, 0, off) <= 1e-6 * span + 1e-9).all()
    assert rounded_otherwise[2:].mean() < 0.01
    assert (np.abs(found - values.float().numpy()) <= span / 255 * 0.501 + 1e-7).all()


@pytest.mark.parametrize("dtypes", [("int8", "fp32", "fp16"), ("fp16", "fp32", "fp16")], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_lookups_are_those_of_a_loop(weighted: bool, dtypes: tuple[str, ...]) -> None:
    """Three tables, one shared by features, with and without int8 rows; bags of 0 to 4 ids; some features empty."""
    shapes, features, bags = [(30, 5), (20, 1), (25, 4)], (0, 1, 2, 0), 6
    rows = FrozenRows(shapes, features, dtypes=dtypes, device=torch.device("cpu"))
    means = []
    for (n, columns), dtype, held in zip(shapes, dtypes, rows.weights, strict=True):
        values = draw(n, columns, seed=n)
        held.copy_(quantise(values) if dtype == "int8" else values)
        means.append(rows_by_loop(values.numpy()) if dtype == "int8" else held.double().numpy())
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(0, 5, (len(features), bags), generator=generator)
    lengths[1] = 0
    ids = torch.cat([torch.randint(0, shapes[t][0], (int(lengths[f].sum()),), generator=generator)
                     for f, t in enumerate(features)])  # fmt: skip
    weights = torch.rand(len(ids), generator=generator) if weighted else None
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.flatten().cumsum(0)])
    expected = []
    for f, t in enumerate(features):
        part = np.zeros((bags, shapes[t][1]))
        for b in range(bags):
            for i in range(offsets[f * bags + b], offsets[f * bags + b + 1]):
                part[b] += means[t][ids[i]] * (1.0 if weights is None else float(weights[i]))
        expected.append(part)
    found = rows(ids, offsets, weights)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), np.concatenate(expected, axis=1), rtol=1e-5, atol=1e-4)


def test_plain_operations_sum_as_the_cpu_kernel_does() -> None:
    """What other devices do with int8 rows."""
    held, ids = quantise(draw(50, 7)), torch.tensor([3, 3, 49, 20, 7])
    rows = FrozenRows([(50, 7)], [0], dtypes=["int8"], device=torch.device("cpu"))
    rows.weights[0].copy_(held)
    torch.testing.assert_close(rows(ids, torch.arange(6)), dequantise(held[ids]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "fp16", "fp32"])
def test_gpus_look_up_what_cpus_do(dtype: str, gpu: str) -> None:
    values, generator = draw(50, 7), torch.Generator().manual_seed(1)
    ids, offsets = torch.randint(0, 50, (40,), generator=generator), torch.tensor([0, 3, 3, 10, 25, 40, 40])
    weights = torch.rand(40, generator=generator)
    found = []
    for device in ("cpu", "cuda"):
        rows = FrozenRows([(50, 7)], [0, 0], dtypes=[dtype], device=torch.device(device))
        rows.weights[0].copy_(quantise(values) if dtype == "int8" else values)
        found.append(rows(ids.to(device), offsets.to(device), weights.to(device)).cpu())
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-4)


def test_no_ids_at_all() -> None:
    rows = FrozenRows([(9, 5)], [0, 0], dtypes=["int8"], device=torch.device("cpu"))
    none = torch.zeros(0, dtype=torch.int64)
    assert torch.equal(rows(none, torch.zeros(7, dtype=torch.int64)), torch.zeros(3, 10))
    assert rows(none, torch.zeros(1, dtype=torch.int64)).shape == (0, 10)


def test_which_tables_have_int8_rows() -> None:
    """Those whose rows it makes smaller: 8 bytes of scale and bias are more than narrow rows spare."""
    declared = [("a", 2, "fp32"), ("b", 3, "fp32"), ("c", 8, "fp16"), ("d", 9, "fp16"), ("e", 16, "fp32")]
    inputs = {n: PooledEmbeddings({n: table(n, 5, dim, dtype=dtype)}) for n, dim, dtype in declared}
    frozen = [next(iter(given.tables.values())) for given in frozen_inputs(inputs).values()]
    assert [t.dtype for t in frozen] == ["fp32", "int8", "fp16", "int8", "int8"]
    assert all(t.frozen for t in frozen)
    plan = plan_tables(frozen_inputs(inputs), TableOptimizer(name="adam"), Topology(1, 1, "cpu", 1 << 20))
    assert plan.bytes_per_rank == (5 * (2 * 4 + (3 + 8) + 8 * 2 + (9 + 8) + (16 + 8)),)


@pytest.mark.parametrize("ranks", FROZEN_RANKS)
def test_every_plan_holds_the_same_rows(ranks: int, everywhere: dict) -> None:
    """A checkpoint of two ranks under four placements and five optimizers, read by one to four ranks."""
    saved = everywhere[2][0]["wrote"]["saved"]
    for name, found in everywhere[ranks][0]["frozen"].items():
        assert found["placements"].keys() == saved.keys()
        rows_cut = {1: "table_wise", 4: "table_row_wise"}.get(ranks, "row_wise")
        assert set(found["placements"].values()) <= {"row_wise", "table_wise", rows_cut}
        assert name == "trained" or rows_cut in found["placements"].values()
        for table_name, rows in found["rows"].items():
            weight = saved[table_name]["weight"]
            assert torch.equal(rows, quantise(weight) if weight.shape[1] > 2 else weight), table_name
        assert sum(found["bytes"]) == sum(r.numel() * r.element_size() for r in found["rows"].values())


@pytest.mark.parametrize("ranks", FROZEN_RANKS)
def test_scores_are_those_of_loops_over_quantised_rows(ranks: int, everywhere: dict) -> None:
    reference = Reference(frozen_cases(STATEFUL)["trained"])
    for name, tensors in everywhere[2][0]["wrote"]["saved"].items():
        weight = tensors["weight"].numpy()
        reference.weights[name] = torch.from_numpy(rows_by_loop(weight) if weight.shape[1] > 2 else weight).double()
    (expected,) = reference.train([frozen_batch()])
    for found in everywhere[ranks][0]["frozen"].values():
        assert found["loss"] == pytest.approx(expected, abs=1e-6)


def test_blocks_smaller_than_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows written in columns by three ranks are put together before they are quantised."""
    wide = EmbeddingTable(name="t", num_embeddings=40, embedding_dim=12, placement="column_wise")
    adagrad = TableOptimizer(name="adagrad")
    wrote = plan_for([replace(wide, optimizer=adagrad)], 3)
    entries = [e for rank in range(3) for e in write_tables(tmp_path, live(wrote, rank, 1))]
    assert {e["column"] for e in entries} == {0, 4, 8}
    monkeypatch.setattr(SavedTable, "block_rows", lambda *_: 7)
    frozen = next(iter(frozen_inputs({"x": PooledEmbeddings({"f": wide})}).values())).tables["f"]
    whole = plan_for([replace(wide, placement=None, optimizer=adagrad)], 1)
    expected = live(whole, 0, None)
    read_tables(tmp_path, entries, expected)
    held = torch.zeros(15, 20, dtype=torch.uint8)
    shard = TableShard(20, 0, {"weight": held})
    read_frozen_tables(tmp_path, entries, {"t": LiveTable(replace(frozen, optimizer=adagrad), (shard,))})
    assert torch.equal(held, quantise(expected["t"].logical(expected["t"].shards[0], "weight")[20:35]))


def test_training_int8_rows_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        plan_for([table("item", 9, 8, dtype="int8")], 1)
    assert str(caught.value) == (
        "table 'item': int8 rows cannot be trained; train with dtype fp32 or fp16, and score with "
        "`shardrec evaluate --rows int8` or `shardrec predict --rows int8`"
    )
