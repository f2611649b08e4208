"""`shardrec plan` for machines that are not here: report, JSON, chart, and every line that refuses something."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.crosses import CrossedFeatures
from shardrec.data_pipeline.features.feature_kinds import DenseFeature, IdFeature, IdListFeature, SequenceFeature
from shardrec.data_pipeline.features.id_transforms import Identity, Raw, Vocabulary
from shardrec.data_pipeline.features.schema import Label, Schema
from shardrec.models import MODELS, config_class
from shardrec.models.base import PointwiseConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import PooledEmbeddings
from shardrec.sharding.planning.topology import CUDA_RESERVE, DENSE_FLOPS
from shardrec.trainer.benchmarks.gpu_check.sections.every_model import SETTINGS, SMALL, schema_of
from shardrec.trainer.config.load import load
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.planning.chart import memory_stacks
from shardrec.trainer.planning.machines import (
    Machines,
    dense_flops,
    faster_products,
    parse_flops,
    parse_rate,
    parse_size,
)
from shardrec.trainer.planning.report import planned_runs
from shardrec.trainer.planning.workload import tower_flops, workload_of
from shardrec.trainer.session.blueprint import build_model
from tests.trainer.command_line import refused, shardrec

GIB = 1 << 30
SCHEMA = Schema(
    features=(
        IdFeature(name="user", ids=Identity(num_ids=10**10)),
        IdFeature(name="item", ids=Identity(num_ids=10**8)),
        IdListFeature(name="tags", ids=Identity(num_ids=1_000)),
        *(DenseFeature(name=f"n{i}") for i in range(3)),
    ),
    labels=(Label(),),
)
CLUSTER = ("--hosts", 16, "--devices", 8, "--device-memory", "80GB")
RATES_GIVEN = ("--intra-bandwidth", "450GB/s", "--inter-bandwidth", "50GB/s")


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """A schema and a run file, and no data."""
    SCHEMA.save(tmp_path / "schema.yaml")
    content = {
        "run": "run",
        "data": {"schema": str(tmp_path / "schema.yaml"), "global_batch_size": 65_536},
        "model": {"name": "dlrm", "embedding_dim": 64, "bottom": {"hidden": [32]}, "mlp": {"hidden": [64]}},
        "tables": {"*": {"dtype": "fp16"}},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def plan(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    shardrec(monkeypatch, "plan", *arguments)


def test_report(run_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plan(monkeypatch, run_file, *CLUSTER, *RATES_GIVEN, "--mean-length", 4)
    assert capsys.readouterr().out == (Path(__file__).parent / "plan_report.txt").read_text()


def test_json_and_chart(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chart = tmp_path / "plan.png"
    plan(monkeypatch, run_file, *CLUSTER, "--json", "--chart", chart)
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert (found["hosts"], found["devices"], found["device"]) == (16, 8, "cuda")
    assert found["memory_per_rank"] == 80 * 10**9 - CUDA_RESERVE
    assert len(found["bytes_per_rank"]) == 128 and max(found["bytes_per_rank"]) <= found["memory_per_rank"]
    assert sum(found["bytes_per_rank"]) == sum(table["bytes"] for table in found["tables"].values())
    assert found["tables"]["user"]["placement"] == "row_wise" and found["tables"]["user"]["shards"] == 128
    assert found["tables"]["user"]["bytes"] == 10**10 * (64 * 2 + 4)
    groups = [found[f"{group}_milliseconds"] for group in ("lookup", "exchange", "dense")]
    assert sum(groups) == pytest.approx(found["step_milliseconds"])
    assert sum(part["milliseconds"] for part in found["parts"].values()) == pytest.approx(found["step_milliseconds"])
    assert found["samples_per_second"] == pytest.approx(65_536e3 / found["step_milliseconds"])
    image = chart.read_bytes()
    assert image.startswith(b"\x89PNG") and len(image) > 10_000
    plan(monkeypatch, run_file, *CLUSTER, "--json", "--chart", chart)  # in place of our own
    chart.write_bytes(image.replace(b"shardrec", b"somebody"))
    assert "nothing in it proves" in refused(monkeypatch, "plan", run_file, *CLUSTER, "--chart", chart)


def test_each_stage_is_planned_and_drawn(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    declared = yaml.safe_load(run_file.read_text())
    declared["stages"] = [{"name": "one"}, {"name": "two", "model": {"embedding_dim": 16}}]
    run_file.write_text(yaml.safe_dump(declared))
    plan(monkeypatch, run_file, *CLUSTER, "--json", "--chart", tmp_path / "plan.png")
    one, two = map(json.loads, capsys.readouterr().out.splitlines())
    assert (one["stage"], two["stage"]) == ("one", "two")
    assert two["tables"]["user"]["bytes"] == 10**10 * (16 * 2 + 4)
    assert (tmp_path / "plan-one.png").exists() and (tmp_path / "plan-two.png").exists()


@pytest.mark.parametrize(
    ("exchange", "line"),
    [("bf16", "exchange: vectors and gradients as bf16"), ("fp16", "exchange: vectors as fp16, gradients as bf16")],
)
def test_smaller_numbers_on_the_way_are_said_and_counted(
    exchange: str, line: str, run_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here and on other machines."""
    for machines in (("--set", "launch.workers=2", "--set", "tables={}"), CLUSTER):
        settings = ("--set", "data.features=[tags, n0]", "--set", f"trainer.exchange={exchange}")
        plan(monkeypatch, run_file, *settings, *machines)
        assert line in capsys.readouterr().out.splitlines()


def test_without_options_it_is_this_machine(
    run_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("--set", "launch.memory=1e13", "--set", "launch.workers=2", "--set", "launch.device=cpu")
    plan(monkeypatch, run_file, *small)
    printed = capsys.readouterr().out
    assert "rank 1: bytes" in printed and "estimate" not in printed
    plan(monkeypatch, run_file, *small, "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["devices"], found["device"], found["memory_per_rank"]) == (2, "cpu", 5 * 10**12)


def test_rows_in_host_memory_count_there(
    run_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All tables' rows on one GPU's host, but for the accumulators of row-wise AdaGrad, one number a row."""
    tables = "tables={'*': {dtype: fp16, memory: managed}}"
    cluster = ("--device-memory", "80GB", "--host-memory", "2TB", "--set", tables)
    plan(monkeypatch, run_file, *cluster)
    printed = capsys.readouterr().out
    assert "rows in host memory: user: managed, item: managed, tags: managed; 1.2 TiB of each host" in printed
    assert "38 GB/s of rows in a GPU's host" in printed
    plan(monkeypatch, run_file, *cluster, "--json")
    found = json.loads(capsys.readouterr().out)
    assert {t["memory"] for t in found["tables"].values()} == {"managed"}
    rows = [t["rows"] for t in found["tables"].values()]
    assert found["bytes_per_rank"] == [4 * sum(rows)] and found["bytes_per_host"] == [128 * sum(rows)]


def dynamic_users(run_file: Path, rows: int) -> tuple[str, str]:
    """Options that make the users' table dynamic, of raw ids."""
    schema = SCHEMA.model_copy(update={"features": (IdFeature(name="user", ids=Raw()), *SCHEMA.features[1:])})
    schema.save(run_file.parent / "schema.yaml")
    return "--set", f"tables.user={{dynamic: {{rows: {rows}, after: 2}}}}"


def test_fewer_hosts_hold_id_maps_too(
    run_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The number of hosts that is named plans, one less does not; the exchange of ids and the record know of maps."""
    dynamic = dynamic_users(run_file, 3 * 10**10)
    machines = ("--devices", 8, "--device-memory", "80GB", *dynamic)
    plan(monkeypatch, run_file, "--hosts", 16, *machines)
    printed = capsys.readouterr().out
    assert "id maps" in printed
    assert "kernel launches (milliseconds a step), admission of ids and filling of fresh rows\n" in printed
    (said,) = (line for line in printed.splitlines() if "fewer hosts" in line)
    hosts = int(said.removeprefix("  fewer hosts: the tables fit on "))
    plan(monkeypatch, run_file, "--hosts", hosts, *machines, "--json")
    found = json.loads(capsys.readouterr().out)
    tables = sum(table["bytes"] for table in found["tables"].values())
    assert sum(found["bytes_per_rank"]) == tables + 8 * hosts * found["id_map_bytes_per_rank"]
    assert max(found["bytes_per_rank"]) <= found["memory_per_rank"]
    refusal = refused(monkeypatch, "plan", run_file, "--hosts", hosts - 1, *machines)
    assert f"would fit: {hosts} hosts of 8 rank(s) each" in refusal and "id maps (" in refusal


def test_bars_are_the_whole_memory_of_a_rank(run_file: Path) -> None:
    _, dynamic = dynamic_users(run_file, 10**8)
    (run,) = planned_runs(load(run_file, [dynamic]), Machines(hosts=2, devices=3, device_memory="80GB"))
    drawn = memory_stacks(run.plan)
    assert [label.split(",")[0] for label, _ in drawn] == ["user", "item", "tags", "id maps"]
    assert np.sum([bars for _, bars in drawn], axis=0).tolist() == list(run.plan.bytes_per_rank)
    assert drawn[-1][1].min() > 10**8 * 32 / 6


# ---------------------------------------------------------------- refusals


def test_a_vocabulary_that_is_missing_or_of_another_size(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ("--set", "data.features=[item, tags, n0]")
    path = run_file.parent / "schema.yaml"
    schema = Schema.load(path)
    ids = Vocabulary(path="item.parquet", size=3)
    features = tuple(f.model_copy(update={"ids": ids}) if f.name == "item" else f for f in schema.features)
    schema.model_copy(update={"features": features}).save(path)
    assert "item.parquet: no such vocabulary file; run" in refused(monkeypatch, "plan", run_file, *small)
    pq.write_table(pa.table({"value": ["a", "b"]}), run_file.parent / "item.parquet")
    assert "item.parquet: found 2 rows" in refused(monkeypatch, "plan", run_file, *small)
    pq.write_table(pa.table({"value": ["a", "b", "c"]}), run_file.parent / "item.parquet")
    plan(monkeypatch, run_file, *small)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--hosts", 2, "--devices", 8, "--device-memory", "80GB"),
            "not enough memory: rank 0 would hold 77.6 GiB of tables and has 70.5 GiB for them, 7.1 GiB short; largest "
            "there: user (row_wise, 76.8 GiB), item (row_wise, 786.8 MiB), tags (row_wise, 8.1 KiB); all tables take "
            "1.2 TiB and all 16 ranks have 1.1 TiB; would fit: 3 hosts of 8 rank(s) each with as much memory",
        ),
        (
            (*CLUSTER, "--host-memory", "8GB"),
            "not enough memory: a host's 8 worker(s) need 16.0 GiB beside their tables (2.0 GiB each, of which "
            "data.memory 1.0 GiB) and it has 7.5 GiB, 8.5 GiB short; set a smaller data.memory, or use fewer devices "
            "a host",
        ),
        (
            ("--hosts", 4, "--devices", 8, "--device", "cpu", "--host-memory", "8GB"),
            "not enough memory: --host-memory gives a rank 953.7 MiB, of which 1.0 GiB are kept for everything but "
            "tables; give more, or set --reserve",
        ),
        (("--hosts", 16), "--device-memory is needed to plan for GPUs, such as --device-memory 80GB; or --device cpu"),
        (
            ("--hosts", 16, "--device", "cpu"),
            "--host-memory is needed to plan for CPU workers, such as --host-memory 256GB",
        ),
        (
            (*CLUSTER, "--set", "launch.device=cpu"),
            "--device-memory is of GPUs; for CPU workers give --host-memory, or say --device cuda",
        ),
        ((*CLUSTER, "--device", "tpu"), "--device tpu: expected cpu or cuda"),
        (
            ("--device-memory", "80 apples"),
            "--device-memory 80 apples: expected a size such as 80GB or 80GiB",
        ),
        ((*CLUSTER, "--inter-bandwidth", "0GB/s"), "--inter-bandwidth 0GB/s: expected a rate such as 50GB/s"),
        ((*CLUSTER, "--dense-flops", "1e999"), "--dense-flops 1e999: expected a rate such as 200TFLOP/s"),
        ((*CLUSTER, "--chart", "plan.svg"), "--chart plan.svg: expected a file that ends in .png"),
    ],
)
def test_refusals(run_file: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[Any, ...], said: str) -> None:
    assert refused(monkeypatch, "plan", run_file, *options) == f"shardrec: error: {said}"


def test_a_table_put_where_it_does_not_fit(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smaller = ("--hosts", 16, "--devices", 8, "--device-memory", "16GB")
    command = ("plan", run_file, *smaller, "--set", "tables.item={placement: table_wise}")
    assert refused(monkeypatch, *command) == (
        "shardrec: error: not enough memory: rank 0 would hold 21.9 GiB of tables and has 10.9 GiB for them, 11.0 GiB "
        "short; largest there: item (table_wise, 12.3 GiB), user (row_wise, 9.6 GiB); would fit: "
        "place 'item' row_wise"
    )


def test_sizes_and_rates() -> None:
    assert parse_size("--x", "80GB") == 80 * 10**9 and parse_size("--x", "1.5 GiB") == 3 * GIB // 2
    assert parse_rate("--x", "450GB/s") == parse_rate("--x", "450 GB") == 450e9
    assert parse_flops("--x", "200TFLOP/s") == parse_flops("--x", "200 TFLOPS") == parse_flops("--x", "2e14") == 2e14
    for text in ("", "GB", "-1GB", "12PB", "1GB/h"):
        with pytest.raises(UserError, match=r"^--x .*expected a rate such as 50GB/s$"):
            parse_rate("--x", text)


def test_the_device_is_what_was_said_of_it(run_file: Path) -> None:
    def device(launch: str, **options: str) -> str:
        return Machines(**options).topology(load(run_file, [f"launch.device={launch}"])).device

    assert device("auto", device_memory="80GB") == device("cuda", device_memory="80GB") == "cuda"
    assert device("auto", host_memory="1TB") == device("cpu", host_memory="1TB") == "cpu"
    assert device("cpu", device="cuda", device_memory="80GB") == "cuda"


def test_a_cpu_worker_gets_its_share_and_its_threads(run_file: Path) -> None:
    config = load(run_file, ["launch.threads=4"])
    found = Machines(hosts=3, devices=2, device="cpu", host_memory="64GiB", reserve="2GiB").topology(config)
    assert (found.world_size, found.memory_per_rank) == (6, 30 * GIB)
    assert found.dense_flops == 4 * DENSE_FLOPS["cpu"]["medium"]


def test_measured_rates_are_of_the_device_that_they_were_measured_on(run_file: Path) -> None:
    config = load(run_file, ["launch.device=cuda", "launch.rates={row_bandwidth: 3e12, local_bandwidth: 2e11}"])
    gpus = Machines(device_memory="80GB", intra_bandwidth="300GB/s").topology(config)
    assert (gpus.row_bandwidth, gpus.local_bandwidth, gpus.host_bandwidth) == (3e12, 3e11, 4e10)
    cpus = Machines(device="cpu", host_memory="80GB").topology(config)
    assert (cpus.row_bandwidth, cpus.local_bandwidth) == (6e9, 2e9)


def test_products_are_those_of_the_run(run_file: Path) -> None:
    given = {"bf16": "trainer.precision=bf16", "high": "trainer.matmul_precision=high", "highest": "trainer.epochs=1"}
    for name, override in given.items():
        assert dense_flops(load(run_file, [override]), "cuda") == DENSE_FLOPS["cuda"][name]
    config = load(run_file)
    topology = Machines(device_memory="80GB", dense_flops="10TFLOP/s").topology(config)
    assert faster_products(config, topology) == {
        "trainer.precision bf16": pytest.approx(8e13),
        "trainer.matmul_precision high": pytest.approx(4e13),
    }


# ---------------------------------------------------------------- the workload


def test_lengths_of_lists_and_sequences(tmp_path: Path) -> None:
    features = (
        IdFeature(name="item", ids=Identity(num_ids=9)),
        IdListFeature(name="any", ids=Identity(num_ids=9)),
        IdListFeature(name="few", ids=Identity(num_ids=9), max_length=3),
        SequenceFeature(name="past", ids=Identity(num_ids=9), max_length=50, table="item"),
    )
    schema = Schema(features=features)
    for names, most in ((("any", "few"), None), (("any", "few", "item"), 20)):
        schema = CrossedFeatures(features=names, num_ids=9, max_length=most).added_to(schema)
    schema.save(tmp_path / "schema.yaml")
    declared = {"run": "r", "data": {"schema": str(tmp_path / "schema.yaml")}, "model": "pooled_history"}
    config = RunConfig.model_validate(declared)
    model = build_model(config, schema)
    read = workload_of(config, schema, model)
    crosses = {"any_x_few": 30.0, "any_x_few_x_item": 20.0}
    assert read.workload.ids_per_sample == {"item": 1.0, "any": 10.0, "few": 3.0, "past": 50.0, **crosses}
    lengths = "any 10; few 3; past 50; any_x_few 30; any_x_few_x_item 20"
    assert read.assumed == (f"ids a row: {lengths}, as many as they may have (--mean-length)",)
    shorter = workload_of(config, schema, model, 7.0)
    crosses = {"any_x_few": 21.0, "any_x_few_x_item": 20.0}
    assert shorter.workload.ids_per_sample == {"item": 1.0, "any": 7.0, "few": 3.0, "past": 7.0, **crosses}


class Odd(Recommender):
    """Fails on rows that are not integers."""

    def __init__(self, fields: Fields, config: PointwiseConfig) -> None:
        tables = fields.tables(embedding_dim=4)
        super().__init__(inputs={"field": PooledEmbeddings(tables)}, task=config.build_task(fields.schema))
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, field: Tensor) -> Tensor:
        raise ValueError("no such row")


def test_towers_are_counted_by_their_products() -> None:
    """An MLP of 2 x 4 + 3 -> 8 -> 1; attention a row of length 7; a tower that fails counts its parameters."""
    config = RunConfig.model_validate(
        {"run": "r", "data": {}, "model": {"name": "wide_deep", "embedding_dim": 4, "mlp": {"hidden": [8]}}}
    )
    schema = Schema(
        features=(
            IdFeature(name="a", ids=Identity(num_ids=9)),
            IdFeature(name="b", ids=Identity(num_ids=9)),
            *(DenseFeature(name=f"n{i}") for i in range(3)),
        )
    )
    model = build_model(config, schema)
    products = {tuple(p.shape) for p in model.parameters() if p.dim() == 2}
    expected = sum(2 * out * into for out, into in products)
    assert tower_flops(model, {}, frozenset()) == (expected, ())
    without_dense = build_model(config, schema.subset(("a", "b")))
    assert tower_flops(without_dense, {}, frozenset()) == (2 * (8 * 8 + 8), ())
    odd = Odd(Fields(schema), PointwiseConfig())
    assert tower_flops(odd, {}, frozenset()) == (
        2 * 15.0,
        ("2 FLOP a parameter and sample, as the tower fails on made-up rows (no such row)",),
    )


@pytest.mark.parametrize("name", MODELS)
def test_every_tower_runs_on_made_up_rows(name: str) -> None:
    schema = schema_of(name)
    known = config_class(MODELS[name]).model_fields
    settings = {key: value for key, value in SMALL.items() if key in known} | SETTINGS.get(name, {})
    config = RunConfig.model_validate({"run": "r", "data": {}, "model": {"name": name} | settings})
    model = build_model(config, schema)
    found = workload_of(config, schema, model, 5.0)
    assert not any("fails" in said for said in found.assumed)
    products = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert found.workload.tower_flops >= products  # each matrix is used once a row or more (AutoRec's: a vector)
