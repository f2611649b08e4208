"""Checkpoints read front to back, and copied with some rows replaced: under any plan, across every border."""

import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardrec.data_pipeline.errors import UserError
from shardrec.models.table_settings import TableOptimizer
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.checkpoints import saved_tables
from shardrec.sharding.checkpoints import shard_files as checkpoint_module
from shardrec.sharding.checkpoints.replaced_rows import ReplacedRows
from shardrec.sharding.checkpoints.tables import read_tables, write_tables
from shardrec.sharding.planning.plan import Plan
from shardrec.sharding.tables.live import LiveTable
from shardrec.sharding.updates.choose import row_update
from tests.sharding.checkpoints.test_tables import live, plan_for, two_plans

TABLE = EmbeddingTable(
    name="t/x", num_embeddings=40, embedding_dim=6, optimizer=TableOptimizer(name="adam"), placement="column_wise"
)


def written(folder: Path, plan: Plan, seed: int = 0, chunk: int = 64) -> list:
    """Entries of all ranks' files."""
    entries = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_module, "CHUNK_BYTES", chunk)
        for rank in range(plan.world_size):
            tables = live(plan, rank, seed)
            entries += write_tables(folder, {n: t for n, t in tables.items() if rank == 0 or not t.replicated})
    return entries


def whole(plan: Plan, seed: int = 0) -> dict[str, LiveTable]:
    """The same tables in one piece."""
    return live(plan_for([replace(t.table, placement=None) for t in plan.tables.values()], 1), 0, seed)


@settings(max_examples=25)
@given(
    plans=two_plans(),
    chunk=st.sampled_from([1, 64, 700, 1 << 25]),
    block=st.sampled_from([1, 100, 1 << 20]),
    data=st.data(),
)
def test_blocks_make_up_the_table(plans: tuple[Plan, Plan], chunk: int, block: int, data, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("checkpoint")
    found = saved_tables.saved_tables(folder, written(folder, plans[0], 3, chunk))
    for name, expected in whole(plans[0], 3).items():
        table, (shard,) = found[name], expected.shards
        assert next(iter(table.tensors)) == "weight" and table.tensors.keys() == shard.tensors.keys()
        assert sum(table.file_sizes().values()) == sum(p.stat().st_size for p in files(folder, name))
        first = data.draw(st.integers(0, table.num_embeddings))
        last = data.draw(st.integers(first, table.num_embeddings))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(saved_tables, "BLOCK_BYTES", block)
            for tensor in table.tensors:
                right = expected.logical(shard, tensor)
                assert table.tensors[tensor] == tuple(right.shape)
                parts = [(at, values.clone()) for at, values in table.blocks(tensor)]
                assert [at for at, _ in parts] == list(np.cumsum([0, *(len(v) for _, v in parts[:-1])]))
                assert torch.equal(torch.cat([v for _, v in parts]), right)
                some = [values.clone() for _, values in table.blocks(tensor, 3, first=first, last=last)]
                assert torch.equal(torch.cat([right[:0], *some]), right[first:last])
    shutil.rmtree(folder)


def files(folder: Path, table: str) -> list[Path]:
    return list((folder / "tables").glob(table.replace("/", "%2F") + ".r*"))


@settings(max_examples=25)
@given(plans=two_plans(), chunk=st.sampled_from([1, 64, 1 << 25]), data=st.data())
def test_replaced_rows_are_replaced_and_no_others(plans: tuple[Plan, Plan], chunk: int, data, tmp_path_factory) -> None:
    """Written in several calls, read by another plan, which checks every checksum."""
    folder, made = tmp_path_factory.mktemp("checkpoint"), tmp_path_factory.mktemp("copy")
    entries, copied = written(folder, plans[0], 5, chunk), []
    expected = whole(plans[0], 5)
    for name, table in saved_tables.saved_tables(folder, entries).items():
        copy = ReplacedRows(table, made)
        rows = data.draw(st.lists(st.integers(0, table.num_embeddings - 1), unique=True))
        cut = data.draw(st.integers(0, len(rows)))
        for part in (sorted(rows[:cut]), sorted(rows[cut:])):
            given = {}
            for tensor in table.tensors:
                target = expected[name].logical(expected[name].shards[0], tensor)
                given[tensor] = torch.randn(len(part), *target.shape[1:]).to(target.dtype)
                target[part] = given[tensor]
            copy.write(np.array(part, np.int64), given)
        copied += copy.finish()
    for rank in range(plans[1].world_size):
        found = live(plans[1], rank, None)
        read_tables(made, copied, found)
        for name, table in found.items():
            for shard in table.shards:
                for tensor in shard.tensors:
                    values = table.logical(shard, tensor)
                    right = expected[name].logical(expected[name].shards[0], tensor)
                    right = right[shard.row : shard.row + len(values)]
                    columns = slice(shard.column, shard.column + values.shape[1]) if values.dim() == 2 else ...
                    assert torch.equal(values, right[:, columns] if values.dim() == 2 else right)
    shutil.rmtree(folder)
    shutil.rmtree(made)


def test_memory_is_that_of_a_chunk_and_chunks_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row-wise shards and blocks whose borders are not those of chunks; the table has 40 times the bytes of a chunk."""
    table = replace(TABLE, num_embeddings=50_001, embedding_dim=4, placement="row_wise")
    entries = written(tmp_path, plan_for([table], 3), chunk=20_000)
    (saved,) = saved_tables.saved_tables(tmp_path, entries).values()
    monkeypatch.setattr(saved_tables, "BLOCK_BYTES", 3_000)
    reads = []
    plain = checkpoint_module.Scratch.read
    monkeypatch.setattr(checkpoint_module.Scratch, "read", lambda s, *a: (reads.append(a[2:]), plain(s, *a))[1])
    tracemalloc.start()
    try:
        total = sum(float(values.double().sum()) for _, values in saved.blocks("weight"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == pytest.approx(float(whole(plan_for([table], 3))["t/x"].shards[0].weight.double().sum()))
    assert len(reads) == sum(len(e["tensors"]["weight"]["crc32"]) for e in entries)
    assert peak < 100_000


# ---------------------------------------------------------------- damage


@pytest.fixture
def saved(tmp_path: Path) -> saved_tables.SavedTable:
    """Column-wise, the last of the two files holding columns 4 and 5."""
    (table,) = saved_tables.saved_tables(tmp_path, written(tmp_path, plan_for([TABLE], 2))).values()
    assert [e["column"] for e in table.entries][1] > 0
    return table


@pytest.mark.parametrize("tensor", ["weight", "mean", "steps"])
def test_a_changed_bit_in_any_file(saved: saved_tables.SavedTable, tensor: str, tmp_path: Path) -> None:
    """Also in what is one number a row, which loading takes from the other file."""
    entry = saved.entries[1]
    path = saved.folder / entry["file"]
    data = bytearray(path.read_bytes())
    data[entry["tensors"][tensor]["start"] + 9] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"r0\.c\d\.safetensors: rows \d+ to \d+ of '{tensor}' have changed"):
        list(saved.blocks(tensor))
    with pytest.raises(UserError, match="have changed"):
        ReplacedRows(saved, tmp_path / "copy")


@pytest.mark.parametrize("change", [-1, 1])
def test_files_of_another_size(saved: saved_tables.SavedTable, change: int, tmp_path: Path) -> None:
    path = saved.folder / saved.entries[1]["file"]
    data = path.read_bytes()
    path.write_bytes(data[:-1] if change < 0 else data + b"x")
    said = f"(cut short|longer).*: {len(data) + change} bytes found, {len(data)} expected"
    for use in (saved.file_sizes, lambda: ReplacedRows(saved, tmp_path / "copy")):
        with pytest.raises(UserError, match=said) as error:
            use()
        assert str(path) in str(error.value)


def test_a_missing_file(saved: saved_tables.SavedTable) -> None:
    (saved.folder / saved.entries[1]["file"]).unlink()
    for use in (saved.file_sizes, lambda: list(saved.blocks("weight")), lambda: list(saved.blocks("steps"))):
        with pytest.raises(UserError, match=r"t%2Fx\.r0\.c\d\.safetensors: missing"):
            use()


def test_a_shard_that_no_entry_names(saved: saved_tables.SavedTable) -> None:
    with pytest.raises(UserError, match=r"files of table 't/x' hold \d+ of 240 values of rows 0 to 40"):
        list(replace(saved, entries=saved.entries[:1]).blocks("weight"))


# ---------------------------------------------------------------- fresh state


def test_fresh_state_of_ftrl() -> None:
    """McMahan et al. 2013: with n = 0 the z for which the update's w is the one given."""
    optimizer = TableOptimizer(name="ftrl", learning_rate=0.3, beta=2.0, l1=0.5, l2=0.25)
    weight = torch.tensor([[0.0, 1.5], [-0.25, 3.0]])
    state = row_update(replace(TABLE, optimizer=optimizer)).fresh_state(weight)
    assert state.keys() == {"z", "n"} and not state["n"].any()
    for i in range(2):
        for j in range(2):
            w, z = float(weight[i, j]), float(state["z"][i, j])
            again = 0.0 if abs(z) <= 0.5 else -(z - np.sign(z) * 0.5) / (2.0 / 0.3 + 0.25)
            assert again == pytest.approx(w, abs=1e-6)


def test_fresh_state_leaves_counts_of_samples() -> None:
    optimizer = TableOptimizer(name="adam", weight_decay=0.1, decay="frequency")
    state = row_update(replace(TABLE, optimizer=optimizer)).fresh_state(torch.ones(3, 6))
    assert {name: tuple(t.shape) for name, t in state.items()} == {"mean": (3, 6), "mean_square": (3, 6), "steps": (3,)}
    assert not any(t.any() for t in state.values())
