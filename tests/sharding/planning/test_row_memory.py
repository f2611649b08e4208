"""Rows outside of device memory: what they take where, what is refused, what kernels are told, that they learn.

GPUs are emulated but under `pytest -m gpu`.
"""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode, EmbeddingLocation
from torch import Tensor, nn
from torchrec.distributed.embedding_sharding import group_tables
from torchrec.distributed.embedding_types import (
    EmbeddingComputeKernel,
    ShardedEmbeddingTable,
    compute_kernel_to_embedding_location,
)
from torchrec.distributed.utils import add_params_from_parameter_sharding
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import IdFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Label, Schema
from shardrec.models.dynamic_ids import DynamicConfig, DynamicIds
from shardrec.models.fields import Fields
from shardrec.models.inputs import PooledEmbeddings
from shardrec.models.table_settings import TableOptimizer, TableSettings
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.checkpoints.tables import read_tables, write_tables
from shardrec.sharding.distribution.distribute import distribute
from shardrec.sharding.distribution.row_kernels import mark_table
from shardrec.sharding.distribution.sharded import parameter_sharding
from shardrec.sharding.lookup.lookup import EmbeddingLookup
from shardrec.sharding.planning.cost import LOOKUP, Workload, estimate_step
from shardrec.sharding.planning.fit import fewest_hosts
from shardrec.sharding.planning.plan import Plan
from shardrec.sharding.planning.plan_report import plan_text
from shardrec.sharding.planning.planner import PlanError, plan_tables
from shardrec.sharding.planning.row_memory import (
    compute_kernel,
    device_bytes,
    host_bytes,
    memory_parameters,
    shard_bytes,
    slowdown,
)
from shardrec.sharding.planning.topology import Topology
from shardrec.sharding.tables.first_values import initialize_tables
from tests.emulated_cuda.emulated import emulated_cuda
from tests.processes import run_processes
from tests.sharding.cases import table

GIB = 1 << 30
SGD, ADAGRAD, ROWWISE = (TableOptimizer(name=n, eps=1e-3) if n != "sgd" else TableOptimizer(name=n)
                         for n in ("sgd", "adagrad", "rowwise_adagrad"))  # fmt: skip
MEMORIES = ("device", "managed", "host", "cached")


def machines(hosts: int = 1, devices: int = 1, host_memory: int | None = 900 * GIB) -> Topology:
    return replace(Topology.described(hosts, devices, "cuda", 70 * GIB), host_memory=host_memory)


def plan(tables: list[EmbeddingTable], topology: Topology) -> Plan:
    return plan_tables({"all": PooledEmbeddings({t.name: t for t in tables}, concat=True)}, ROWWISE, topology)


def refused(tables: list[EmbeddingTable], topology: Topology) -> str:
    with pytest.raises(UserError) as caught:
        plan(tables, topology)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- what it takes


@pytest.mark.parametrize(
    ("optimizer", "memory", "device", "host"),
    [
        (SGD, "device", 1000 * 64, 0),
        (SGD, "host", 0, 1000 * 64),
        (ADAGRAD, "managed", 0, 1000 * (64 + 128)),
        (ROWWISE, "managed", 1000 * 4, 1000 * 64),
        (ROWWISE, "cached", 1000 * 4 + 1000 * 4 + 7 * 32 * (64 + 16), 1000 * 64),
        (ADAGRAD, "cached", 1000 * 4 + 7 * 32 * (64 + 16), 1000 * (64 + 128)),
    ],
)
def test_bytes_of_device_and_host(optimizer: TableOptimizer, memory: str, device: int, host: int) -> None:
    """A thousand fp16 rows of 32 columns, a fifth of them cached: 200 in 7 sets of 32."""
    given = table("t", 1000, 32, dtype="fp16", optimizer=optimizer, memory=memory)
    assert (device_bytes(given, 1000, 32), host_bytes(given, 1000, 32)) == (device, host)
    assert memory == "cached" or device + host == shard_bytes(given, 1000, 32)


def test_a_cache_has_a_set_at_least() -> None:
    given = table("t", 10, 4, optimizer=SGD, memory="cached", cache_share=0.01)
    assert device_bytes(given, 10, 4) == 32 * (16 + 16) + 10 * 4


def test_rows_in_host_memory_are_spread_and_told_of() -> None:
    tables = [
        table("user", 1_000_000_000, 128, dtype="fp16", memory="cached", cache_share=0.1),
        table("item", 100_000_000, 128, dtype="fp16", memory="host"),
        table("day", 7, 128),
    ]
    made = plan(tables, machines(devices=8))
    assert [made.tables[n].placement for n in ("user", "item")] == ["row_wise", "row_wise"]
    assert made.host_bytes == (1_100_000_000 * 256,)
    assert max(made.bytes_per_rank) < 0.1 * 1_000_000_000 / 8 * (256 + 16) * 1.01 + 1_100_000_000 / 8 * 8
    assert plan_text(made).splitlines()[-1] == (
        "rows in host memory: user: cached (10 %), item: host; 262.3 GiB of each host"
    )


def test_plans_that_host_memory_does_not_hold() -> None:
    tables = [table("user", 4_000_000_000, 128, optimizer=SGD, memory="managed"), table("item", 9, 128, optimizer=SGD)]
    assert refused(tables, machines(devices=8)) == (
        "not enough host memory: host 0 would hold 1.9 TiB of tables and has 900.0 GiB for them, 1007.3 GiB short; "
        "largest: user (managed); use more hosts, dtype fp16, or fewer tables outside of device memory"
    )
    assert fewest_hosts({t.name: t for t in tables}, machines(devices=8)) == 3
    plan(tables, machines(3, 8))
    assert refused(tables, machines(3, 8, host_memory=None)) == (
        "tables lie in host memory, 635.8 GiB of them on a host, and it is not said how much there is: user (managed); "
        "give --host-memory, or set their memory: device"
    )


def test_host_memory_is_named_as_what_would_fit() -> None:
    large = table("user", 200_000_000, 128, optimizer=SGD)
    with pytest.raises(PlanError, match=r"memory: cached for 'user'$"):
        plan([large], machines())
    plan([replace(large, memory="cached")], machines())
    with pytest.raises(PlanError, match=r"memory: managed for 'user'$"):
        plan([replace(large, num_embeddings=1_700_000_000)], machines())
    for without in (machines(host_memory=None), machines(host_memory=GIB)):
        with pytest.raises(PlanError) as caught:
            plan([large], without)
        assert "memory:" not in str(caught.value).split("would fit", 1)[1]


def test_cpu_workers_have_one_memory() -> None:
    """The same run file plans there; the report says that nothing came of it."""
    here = Topology(2, 2, "cpu", GIB)
    tables = [table("user", 1000, 8, memory="cached", cache_share=0.5), table("item", 50, 8, memory="host")]
    made, plain = plan(tables, here), plan([replace(t, memory="device") for t in tables], here)
    assert made.bytes_per_rank == plain.bytes_per_rank and made.host_bytes == (0,)
    said = "memory is for GPUs and changes nothing on cpu (user: cached (50 %), item: host)\n"
    assert plan_text(made) == plan_text(plain) + said


def test_rows_take_as_much_longer_as_the_bus_is_slower() -> None:
    topology = replace(machines(), row_bandwidth=2e12, bus_bandwidth=4e10)
    factors = [slowdown(table("t", 9, 8, memory=m, cache_share=0.75), topology) for m in MEMORIES]
    assert factors == [1, 50, 50, 0.75 + 0.25 * 50]
    seconds = []
    for memory in ("device", "managed"):
        given = {"all": PooledEmbeddings({"t": table("t", 1 << 20, 128, memory=memory)})}
        made = plan_tables(given, ROWWISE, topology)
        parts = {p.name: p.longest for p in estimate_step(made, topology, Workload(given, 1000)).parts}
        seconds.append(parts[LOOKUP])
    rows = 1000 * 512
    assert seconds == pytest.approx([2 * rows / 2e12, rows / 4e10 + rows / 2e12])


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("topology", [machines(), Topology(1, 1, "cpu", GIB)], ids=["cuda", "cpu"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"optimizer": TableOptimizer(name="adam")},
            "table 'user': memory: cached is for rows that FBGEMM's kernels update, by sgd, adagrad or rowwise_adagrad "
            "without momentum and weight_decay, but its optimizer is adam; choose one of these, or memory: device",
        ),
        (
            {"optimizer": TableOptimizer(name="sgd", weight_decay=0.1)},
            "table 'user': memory: cached is for rows that FBGEMM's kernels update, by sgd, adagrad or rowwise_adagrad "
            "without momentum and weight_decay, but its optimizer is sgd with weight_decay 0.1; choose one of these, "
            "or memory: device",
        ),
        (
            {"placement": "data_parallel"},
            "table 'user': memory: cached with placement data_parallel, but replicas lie in device memory; change one "
            "of the two",
        ),
        (
            {"dynamic": DynamicIds("user", DynamicConfig(rows=64))},
            "table 'user': memory: cached, but rows of a dynamic table are given to other ids in any step, which would "
            "empty the cache; choose memory: managed or host",
        ),
    ],
)
def test_what_cannot_lie_elsewhere(settings: dict[str, Any], message: str, topology: Topology) -> None:
    assert refused([table("user", 100, 8, memory="cached", **settings)], topology) == message


def test_settings_of_a_run_file() -> None:
    schema = Schema(features=(IdFeature(name="user", ids=Identity(num_ids=9)),), labels=(Label(),))
    said = {"*": TableSettings(memory="managed"), "user": TableSettings(memory="cached", cache_share=0.05)}
    given = Fields(schema, said).table("user", embedding_dim=8)
    assert (given.memory, given.cache_share) == ("cached", 0.05)
    assert Fields(schema, {"*": TableSettings(memory="cached")}).table("user", embedding_dim=8).cache_share == 0.2
    with pytest.raises(UserError) as caught:
        Fields(schema, {"*": TableSettings(cache_share=0.1)}).table("user", embedding_dim=8)
    assert str(caught.value) == (
        "tables: 'user' has cache_share 0.1, but its memory is device; set memory: cached, or leave cache_share out"
    )


# ---------------------------------------------------------------- what kernels are told


def test_what_torchrec_makes_of_it() -> None:
    """Every cached table has a kernel of its own, with its own share; the others share one but for pinned rows."""
    shares = {"c1": 0.1, "c2": 0.5}
    memories = {"d": "device", "m": "managed", "h": "host", "c1": "cached", "c2": "cached"}
    grouped = []
    for name, memory in memories.items():
        given = table(name, 100, 8, optimizer=SGD, memory=memory, cache_share=shares.get(name, 0.2))
        parameter = nn.Parameter(torch.empty(100, 8, device="meta"))
        mark_table(parameter, given, "cuda", seed=0, compiled=False)
        (marks,) = parameter._optimizer_kwargs  # type: ignore[attr-defined]
        told = add_params_from_parameter_sharding(
            marks,
            parameter_sharding(given, "table_wise", [(0, 0, 0, 100, 8)], [torch.device("cuda", 0)], compiled=False),
        )
        assert told.items() >= memory_parameters(given).items()
        assert told["bounds_check_mode"] is BoundsCheckMode.FATAL and told["stochastic_rounding"] is False
        kernel = EmbeddingComputeKernel(compute_kernel(given))
        location = {"d": EmbeddingLocation.DEVICE, "c1": EmbeddingLocation.MANAGED_CACHING}
        location["c2"] = location["c1"]
        assert compute_kernel_to_embedding_location(kernel) == location.get(name, EmbeddingLocation.MANAGED)
        grouped.append(
            ShardedEmbeddingTable(
                num_embeddings=100, embedding_dim=8, name=name, local_rows=100, local_cols=8, feature_names=[name],
                embedding_names=[name], compute_kernel=kernel, fused_params=dict(told),
            )
        )  # fmt: skip
    (groups,) = group_tables([grouped])
    found = {tuple(t.name for t in group.embedding_tables): group.fused_params for group in groups}
    assert found.keys() == {("d", "m"), ("h",), ("c1",), ("c2",)}
    assert [found[n,]["cache_load_factor"] for n in ("c1", "c2")] == [0.1, 0.5]
    assert found["h",]["uvm_host_mapped"] is True and "uvm_host_mapped" not in found["d", "m"]
    assert all("use_one_tbe_per_table" not in parameters for parameters in found.values())


# ---------------------------------------------------------------- learning


class Squares(nn.Module):
    def __init__(self, inputs: Any) -> None:
        super().__init__()
        self.lookup = EmbeddingLookup(inputs, (), device="meta")

    def forward(self, batch: Batch) -> Tensor:
        return self.lookup(batch)["all"].add(0.5).square().sum()


def learn(rank: int, memory: str, device: str, folder: Path) -> dict[str, Tensor]:
    """Some steps, a save in between that is loaded into fresh tables, and rows set anew behind the kernel's back."""
    home = torch.device("cuda", 0) if device == "cuda" else torch.device("cpu")
    if device == "cuda":
        dist.destroy_process_group()  # `distribute` makes one that knows GPUs
    optimizers = {"a": SGD, "b": ADAGRAD, "c": ROWWISE}
    tables = [
        table(n, 2_000, 8, optimizer=o, memory=memory, cache_share=0.05) for n, o in optimizers.items()
    ]  # fewer rows cached than a batch names
    inputs = {"all": PooledEmbeddings({t.name: t for t in tables})}
    topology = replace(Topology.described(1, 1, device, GIB), host_memory=GIB)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)

    def made() -> Any:
        plan = plan_tables(inputs, SGD, topology)
        return distribute(Squares(inputs), plan, optimizer=SGD, seed=3, device=home)

    def steps(held: Any, count: int) -> None:
        for _ in range(count):
            ids = torch.randint(0, 2_000, (3 * 600,), generator=generator)
            keys = KeyedJaggedTensor(keys=list(held.lookup.id_names), values=ids, lengths=torch.ones(1800).long())
            batch = Batch(dense=torch.zeros(600, 0), ids=keys, weighted_ids=None, labels={}, weights=torch.ones(600),
                          groups=None, rows=torch.arange(600))  # fmt: skip
            held.module(batch.to(home)).div(600).backward()

    def values(held: Any, name: str) -> dict[str, Tensor]:
        return {
            f"{name} {n} {key}": live.logical(shard, key).cpu().clone()
            for n, live in held.tables.items()
            for shard in live.shards
            for key in shard.tensors
        }

    first = made()
    steps(first, 4)
    entries = write_tables(folder, first.tables)
    found = values(first, "saved")
    second = made()
    steps(second, 1)
    read_tables(folder, entries, second.tables)
    found |= values(second, "loaded")
    steps(second, 4)
    found |= values(second, "learned")
    initialize_tables(second.tables.values(), 5)
    steps(second, 1)
    return found | values(second, "set anew")


def learn_on_gpu(rank: int, gpu: str, memory: str, folder: Path) -> dict[str, Tensor]:
    with emulated_cuda() if gpu == "emulated" else nullcontext():
        return learn(rank, memory, "cuda", folder)


def assert_loaded(found: dict[str, Tensor]) -> None:
    """What was saved is what was loaded, of five tensors at each of four times."""
    assert len(found) == 4 * 5
    for name in (n for n in found if n.startswith("saved")):
        assert torch.equal(found[name], found[name.replace("saved", "loaded")]), name


def test_memory_changes_nothing_on_cpu(tmp_path: Path) -> None:
    expected = learn(0, "device", "cpu", tmp_path / "device")
    assert_loaded(expected)
    for name, tensor in learn(0, "cached", "cpu", tmp_path / "cached").items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("memory", MEMORIES)
def test_rows_learn_wherever_they_are(memory: str, gpu: str, tmp_path: Path) -> None:
    """Tables and state after steps, after a save and a load, and after rows were overwritten, as CPU workers have them.

    A cache that was not written back would save stale rows; one that was not emptied would look up old ones.
    """
    expected = learn(0, "device", "cpu", tmp_path / "cpu")
    (found,) = run_processes(1, learn_on_gpu, gpu, memory, tmp_path / memory)
    assert_loaded(found)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
