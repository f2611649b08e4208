"""Tables to files and back: any plan loads what any other wrote, bit for bit; damage is told in one line."""

import shutil
import zlib
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from shardrec.data_pipeline.errors import UserError
from shardrec.models.inputs import PooledEmbeddings
from shardrec.models.table_settings import Placement, TableOptimizer
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.checkpoints import shard_files as checkpoint_module
from shardrec.sharding.checkpoints.tables import read_tables, write_tables
from shardrec.sharding.planning.placements import CUT_COLUMNS
from shardrec.sharding.planning.plan import Plan
from shardrec.sharding.planning.planner import plan_tables
from shardrec.sharding.planning.topology import Topology
from shardrec.sharding.tables.live import DTYPES, LiveTable, TableShard
from shardrec.sharding.updates.choose import row_update
from tests.sharding.everywhere import OPTIMIZERS, STATEFUL

PLACEMENTS = get_args(Placement)


def plan_for(tables: list[EmbeddingTable], world_size: int) -> Plan:
    inputs = {"all": PooledEmbeddings({t.name: t for t in tables}, concat=True)}
    local_world_size = 2 if world_size == 4 else world_size
    return plan_tables(inputs, TableOptimizer(), Topology(world_size, local_world_size, "cpu", 1 << 30))


def live(plan: Plan, rank: int, seed: int | None) -> dict[str, LiveTable]:
    """The tables of one rank in memory of its own: values that depend on row and column only, or NaN."""
    found = {}
    for name, planned in plan.tables.items():
        table = planned.table
        assert table.optimizer is not None
        shards = []
        for s in (s for s in planned.shards if s.rank == rank):
            tensors = {"weight": torch.full((s.rows, s.columns), torch.nan, dtype=DTYPES[table.dtype])}
            shapes = row_update(table).state_shapes(s.rows, s.columns)
            tensors |= {n: torch.full(shape, torch.nan) for n, shape in shapes.items()}
            shard = TableShard(s.row, s.column, tensors)
            shards.append(shard)
            for tensor in tensors if seed is not None else ():
                into = LiveTable(table, ()).logical(shard, tensor)
                generator = torch.Generator().manual_seed(seed + zlib.crc32(tensor.encode()))
                values = torch.randn(table.num_embeddings, 64, generator=generator)[s.row : s.row + s.rows]
                into.copy_(values[:, s.column : s.column + into.shape[1]] if into.dim() == 2 else values[:, 0])
        found[name] = LiveTable(table, tuple(shards), planned.placement == "data_parallel")
    return found


@st.composite
def two_plans(draw: st.DrawFn) -> tuple[Plan, Plan]:
    """The same tables under two plans for two world sizes."""
    tables = []
    for i in range(draw(st.integers(1, 3))):
        optimizer = OPTIMIZERS[draw(st.sampled_from(sorted(OPTIMIZERS)))]
        rows, dim = draw(st.integers(1, 50)), draw(st.integers(1, 20))
        dtype = draw(st.sampled_from(["fp32", "fp16"])) if optimizer.name != "ftrl" else "fp32"
        tables.append(
            EmbeddingTable(
                name=f"group/{i}.x", num_embeddings=rows, embedding_dim=dim, dtype=dtype, optimizer=optimizer
            )
        )

    def placed() -> Plan:
        chosen = []
        for t in tables:
            allowed = [p for p in PLACEMENTS if not (p in CUT_COLUMNS and t.optimizer.name == "rowwise_adagrad")]
            if t.optimizer.decay == "table":
                allowed = ["data_parallel"]
            chosen.append({**t.__dict__, "placement": draw(st.sampled_from(allowed))})
        return plan_for([EmbeddingTable(**c) for c in chosen], draw(st.integers(1, 4)))

    return placed(), placed()


@settings(max_examples=100)
@given(plans=two_plans(), chunk=st.sampled_from([1, 64, 700, 1 << 25]), seed=st.integers(0, 9))
def test_any_plan_loads_any_other(plans: tuple[Plan, Plan], chunk: int, seed: int, tmp_path_factory) -> None:
    wrote, reads = plans
    folder = tmp_path_factory.mktemp("checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_module, "CHUNK_BYTES", chunk)
        entries = []
        for rank in range(wrote.world_size):
            tables = live(wrote, rank, seed)
            once = {n: t for n, t in tables.items() if rank == 0 or not t.replicated}
            entries += write_tables(folder, once)
    for rank in range(reads.world_size):
        expected, found = live(reads, rank, seed), live(reads, rank, None)
        read_tables(folder, entries, found)
        for name, table in found.items():
            for shard, right in zip(table.shards, expected[name].shards, strict=True):
                for tensor in shard.tensors:
                    assert torch.equal(table.logical(shard, tensor), table.logical(right, tensor))
    shutil.rmtree(folder)


@pytest.mark.parametrize("world_size", [1, 3, pytest.param(4, marks=pytest.mark.long)])
def test_a_trained_model_moves_between_world_sizes(world_size: int, everywhere: dict) -> None:
    """2 ranks to others, each table under another placement than before: weights and state of live kernels.

    They are read bit for bit and go on as if nothing had happened.
    """
    wrote = [result["wrote"] for result in everywhere[2]]
    entries = [e for part in wrote for e in part["entries"]]
    assert {frozenset(t) for t in wrote[0]["saved"].values()} == {
        frozenset({"weight", *row_update(replace(TABLE, optimizer=o)).state_shapes(1, 1)}) for o in STATEFUL
    }
    assert all(v.any() for tensors in wrote[0]["saved"].values() for v in tensors.values())
    assert {e["row"] for e in entries if e["table"] == "small"} == {0, 1}  # each rank wrote its share of the replicas
    for found in everywhere[world_size][0]["read"]:
        for name, tensors in wrote[0]["saved"].items():
            assert tensors.keys() == found["saved"][name].keys()
            for tensor, values in tensors.items():
                assert torch.equal(values, found["saved"][name][tensor]), (world_size, name, tensor)
                later, expected = found["later"][name][tensor], wrote[0]["later"][name][tensor]
                torch.testing.assert_close(later, expected, atol=1e-6, rtol=1e-5, msg=f"{name} {tensor}")


# ---------------------------------------------------------------- damage


TABLE = EmbeddingTable(
    name="t/x", num_embeddings=40, embedding_dim=6, optimizer=TableOptimizer(name="adagrad"), placement="row_wise"
)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, list]:
    plan = plan_for([TABLE], 2)
    return tmp_path, [e for rank in range(2) for e in write_tables(tmp_path, live(plan, rank, 0))]


def load(saved: tuple[Path, list], table: EmbeddingTable = TABLE, grow: bool = False) -> dict[str, LiveTable]:
    tables = live(plan_for([table], 1), 0, None)
    read_tables(*saved, tables, grow=grow)
    return tables


def test_files_are_safetensors_of_logical_columns(saved: tuple[Path, list]) -> None:
    with safe_open(saved[0] / saved[1][1]["file"], "pt") as file:
        assert file.metadata() == {"table": "t/x", "row": "20", "column": "0"}
        weight = file.get_slice("weight")
        assert weight.get_shape() == [20, 6]
        assert torch.equal(weight[3:5], load(saved)["t/x"].shards[0].weight[23:25, :6])


def test_a_file_is_never_written_over(saved: tuple[Path, list]) -> None:
    with pytest.raises(FileExistsError):
        write_tables(saved[0], live(plan_for([TABLE], 2), 0, 0))


def test_a_missing_file(saved: tuple[Path, list]) -> None:
    (saved[0] / saved[1][0]["file"]).unlink()
    with pytest.raises(UserError, match=r"t%2Fx\.r0\.c0\.safetensors: missing.*restore"):
        load(saved)


def test_a_file_cut_short(saved: tuple[Path, list]) -> None:
    path = saved[0] / saved[1][1]["file"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"r20\.c0\.safetensors: cut short: \d+ bytes found, \d+ expected"):
        load(saved)


@pytest.mark.parametrize("tensor", ["weight", "accumulator"])
def test_a_changed_bit(saved: tuple[Path, list], tensor: str) -> None:
    entry = saved[1][0]
    path = saved[0] / entry["file"]
    data = bytearray(path.read_bytes())
    data[entry["tensors"][tensor]["start"] + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"rows 0 to 20 of '{tensor}' have changed"):
        load(saved)


def test_a_shard_that_no_entry_names(saved: tuple[Path, list]) -> None:
    with pytest.raises(UserError, match="the files of table 't/x' hold 120 of 240 values"):
        load((saved[0], saved[1][:1]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_embeddings": 41}, "num_embeddings 40 there and 41 here"),
        ({"embedding_dim": 7}, "embedding_dim 6 there and 7 here"),
        ({"dtype": "fp16"}, "dtype fp32 there and fp16 here"),
        ({"optimizer": TableOptimizer(name="sgd")}, "optimizer adagrad there and sgd here"),
        ({"name": "u"}, "table 'u' is in the model only|table 't/x' is in the checkpoint only"),
    ],
)
def test_another_models_checkpoint(saved: tuple[Path, list], change: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        load(saved, EmbeddingTable(**{**TABLE.__dict__, **change}))
    assert "is a checkpoint of another model" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_state_that_only_one_side_has(tmp_path: Path) -> None:
    """SGD has momentum or not; the name of the optimizer does not tell."""
    plain, moved = (replace(TABLE, optimizer=TableOptimizer(name="sgd", momentum=m)) for m in (0.0, 0.9))
    entries = write_tables(tmp_path, live(plan_for([plain], 1), 0, 0))
    with pytest.raises(UserError, match="table 't/x' has optimizer state none there and momentum here"):
        load((tmp_path, entries), moved)


def test_tables_may_grow(saved: tuple[Path, list]) -> None:
    larger = EmbeddingTable(**{**TABLE.__dict__, "num_embeddings": 50})
    (shard,) = load(saved, larger, grow=True)["t/x"].shards
    expected = live(plan_for([TABLE], 1), 0, 0)["t/x"].shards[0]
    for name in ("weight", "accumulator"):
        assert torch.equal(shard.tensors[name][:40, :6], expected.tensors[name][:, :6])
        assert shard.tensors[name][40:].isnan().all()
    with pytest.raises(UserError, match="num_embeddings 40 there and 39 here"):
        load(saved, EmbeddingTable(**{**TABLE.__dict__, "num_embeddings": 39}), grow=True)


def test_rowwise_state_of_another_physical_dim(tmp_path: Path) -> None:
    """An unpadded kernel's mean over 6 columns becomes a padded one's over 8: the sums of squares stay."""
    decayed = replace(TABLE, optimizer=TableOptimizer(name="rowwise_adagrad", weight_decay=0.1))
    written = live(plan_for([decayed], 1), 0, 0)
    entries = write_tables(tmp_path, written)
    assert written["t/x"].shards[0].weight.shape == (40, 6)
    found = live(plan_for([replace(TABLE, optimizer=TableOptimizer(name="rowwise_adagrad"))], 1), 0, None)
    assert found["t/x"].shards[0].weight.shape == (40, 8)
    read_tables(tmp_path, entries, found)
    before, after = (t["t/x"].shards[0].tensors["accumulator"] for t in (written, found))
    torch.testing.assert_close(after * 8, before * 6)
