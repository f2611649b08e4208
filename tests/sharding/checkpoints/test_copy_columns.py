"""Rows of one run become the first rows of another: any columns, scaled, from any plan into any other."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.models.table_settings import TableOptimizer
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.checkpoints import shard_files as checkpoint_module
from shardrec.sharding.checkpoints.copy_columns import SourceColumns, copy_tables
from shardrec.sharding.checkpoints.tables import write_tables
from shardrec.sharding.tables.live import LiveTable
from shardrec.sharding.updates.choose import row_update
from tests.sharding.checkpoints.test_tables import live, plan_for

OPTIMIZERS = ("sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl")
PLACEMENTS = ("data_parallel", "table_wise", "row_wise", "column_wise")


def placed(draw: st.DrawFn, table: EmbeddingTable) -> EmbeddingTable:
    """Under some optimizer, dtype and placement."""
    name = draw(st.sampled_from(OPTIMIZERS))
    optimizer = TableOptimizer(name=name, l1=0.5, l2=0.1) if name == "ftrl" else TableOptimizer(name=name)
    allowed = [p for p in PLACEMENTS if not (p == "column_wise" and name == "rowwise_adagrad")]
    dtype = draw(st.sampled_from(["fp32"] if name == "ftrl" else ["fp32", "fp16"]))
    return replace(table, optimizer=optimizer, dtype=dtype, placement=draw(st.sampled_from(allowed)))


@st.composite
def transfers(draw: st.DrawFn) -> tuple[EmbeddingTable, EmbeddingTable, int, float]:
    """A source, a target that takes some of its columns and may have more rows, the first column, and the scale."""
    rows, dim = draw(st.integers(1, 40)), draw(st.integers(1, 20))
    start = draw(st.integers(0, dim - 1))
    width = draw(st.integers(1, dim - start))
    source = EmbeddingTable(name="user", num_embeddings=rows, embedding_dim=dim)
    target = EmbeddingTable(name="deep/user", num_embeddings=rows + draw(st.integers(0, 9)), embedding_dim=width)
    return placed(draw, source), placed(draw, target), start, draw(st.sampled_from([1.0, 0.5, -1.75]))


def written(folder: Path, table: EmbeddingTable, world_size: int) -> list[dict[str, Any]]:
    """The files of a table of random values, as so many ranks write them."""
    plan = plan_for([table], world_size)
    ranks = [live(plan, rank, seed=3) for rank in range(world_size)]
    return [
        entry
        for rank, tables in enumerate(ranks)
        for entry in write_tables(folder, {n: t for n, t in tables.items() if rank == 0 or not t.replicated})
    ]


def started(
    folder: Path, entries: list[dict[str, Any]], table: EmbeddingTable, world_size: int, source: SourceColumns
) -> list[LiveTable]:
    """Each rank's part of a table that was all NaN before its rows were copied."""
    plan = plan_for([table], world_size)
    found = [live(plan, rank, seed=None) for rank in range(world_size)]
    for tables in found:
        copy_tables(folder, entries, tables, {table.name: source})
    return [tables[table.name] for tables in found]


def whole(parts: list[LiveTable], tensor: str) -> Tensor:
    """A tensor of a table, put together from the ranks' shards."""
    table = parts[0].table
    found = torch.full((table.num_embeddings, table.embedding_dim), torch.inf)
    for part in parts:
        for shard in part.shards:
            values = part.logical(shard, tensor)
            found[shard.row : shard.row + len(values), shard.column : shard.column + values.shape[1]] = values.float()
    return found


@settings(max_examples=80)
@given(
    transfer=transfers(),
    ranks=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    chunk=st.sampled_from([1, 100, 1 << 25]),
)
def test_columns_of_any_plan_go_into_any_other(transfer: tuple, ranks: tuple[int, int], chunk: int, tmp_path_factory):
    source, target, start, scale = transfer
    folder = tmp_path_factory.mktemp("source")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_module, "CHUNK_BYTES", chunk)
        entries = written(folder, source, ranks[0])
    parts = started(folder, entries, target, ranks[1], SourceColumns("user", start, scale))

    values = whole([live(plan_for([replace(source, placement=None)], 1), 0, seed=3)["user"]], "weight")
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[target.dtype]
    expected = (values[:, start : start + target.embedding_dim] * scale).to(dtype).float()
    found = whole(parts, "weight")
    assert torch.equal(found[: source.num_embeddings], expected)
    assert found[source.num_embeddings :].isnan().all()  # rows that the source has not stay as they were
    for part in parts:
        for shard in part.shards:
            for name in shard.tensors.keys() - {"weight", "z"}:
                assert not part.logical(shard, name).any(), name


@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.7, 0.3)])
def test_an_ftrl_table_keeps_its_rows_under_a_zero_gradient(l1: float, l2: float, tmp_path: Path) -> None:
    """z0 = -w (beta / alpha + lambda2) - sign(w) lambda1, of an FM's first column."""
    source = EmbeddingTable(name="user", num_embeddings=30, embedding_dim=5, optimizer=TableOptimizer(name="adagrad"))
    optimizer = TableOptimizer(name="ftrl", learning_rate=0.1, beta=1.5, l1=l1, l2=l2)
    target = EmbeddingTable(name="wide/user", num_embeddings=30, embedding_dim=1, optimizer=optimizer)
    (part,) = started(tmp_path, written(tmp_path, source, 2), target, 1, SourceColumns("user"))
    (shard,) = part.shards
    before = shard.weight.clone()
    assert before.abs().min() > 0
    expected = -before.double() * (1.5 / 0.1 + l2) - before.double().sign() * l1
    torch.testing.assert_close(shard.tensors["z"].double(), expected, rtol=1e-6, atol=0)
    state = {name: tensor for name, tensor in shard.tensors.items() if name != "weight"}
    for _ in range(3):
        row_update(target).apply(shard.weight, state, torch.arange(30), torch.zeros(30, 1))
    torch.testing.assert_close(shard.weight, before, rtol=1e-6, atol=0)


def test_what_is_damaged_is_told(tmp_path: Path) -> None:
    source = EmbeddingTable(
        name="user", num_embeddings=40, embedding_dim=6, optimizer=TableOptimizer(name="sgd"), placement="row_wise"
    )
    target = replace(source, name="deep/user", embedding_dim=2)
    entries = written(tmp_path, source, 2)
    with pytest.raises(UserError, match="the files of table 'user' hold 40 of 80 values"):
        started(tmp_path, entries[:1], target, 1, SourceColumns("user", 3))
    path = tmp_path / entries[1]["file"]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"rows 0 to 20 of 'weight' have changed"):
        started(tmp_path, entries, target, 1, SourceColumns("user", 3))
