"""`shardrec bench sharding`: draws as asked, every case measured once, files that say what the table says."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from shardrec.data_pipeline.errors import UserError
from shardrec.sharding.planning.topology import Topology
from shardrec.trainer.benchmarks.sharded_tables import Case, draw_ids, made_batches
from shardrec.trainer.benchmarks.sharding import (
    Sweep,
    benchmark_sharding,
    calibrated,
    check_writable,
    sharding_worker,
    write_rates,
    write_results,
)
from shardrec.trainer.config.load import load
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.session.expected_workers import run_topology
from tests.processes import ProcessError, run_processes


@pytest.mark.parametrize("skew", [0.0, 0.7, 1.0, 1.3])
def test_ids_are_as_frequent_as_asked(skew: float) -> None:
    """Frequencies by rank fall as rank^-skew: the slope of their logarithms over the frequent ones."""
    case = Case("row_wise", rows=1000, batch=1, pooling=1, skew=skew)
    ids = draw_ids(case, 400_000, torch.Generator().manual_seed(0))
    assert ids.min() >= 0 and ids.max() < 1000
    counts = np.sort(np.bincount(ids.numpy(), minlength=1000))[::-1]
    ranks = np.arange(3, 60)
    # several ranks may fall on one row; frequent ones are few
    slope = np.polyfit(np.log(ranks), np.log(counts[2:59]), 1)[0]
    assert slope == pytest.approx(-skew, abs=0.25)
    assert 0.3 < (ids < 500).double().mean() < 0.7 or skew >= 1  # frequent ids lie anywhere


def test_ranks_share_a_batch_and_draw_apart() -> None:
    case = Case("row_wise", rows=50, batch=12, pooling=3, skew=0.0, tables=2)
    mine, other = (made_batches(case, ("a", "b"), torch.device("cpu"), 3, rank)[0] for rank in (0, 1))
    assert mine.size == other.size == 4
    assert mine.ids.lengths().tolist() == [3] * 8
    assert not torch.equal(mine.ids.values(), other.ids.values())


def test_all_cases_are_measured_and_written(tmp_path: Path) -> None:
    sweep = Sweep.read("row_wise,table_wise", "1", "50,100", "32", "1,2", "0")
    found = benchmark_sharding(tmp_path, sweep, {"tables": 2, "embedding_dim": 4}, steps=1)
    assert {(row["placement"], row["rows"], row["pooling"]) for row in found} == {
        ("table_wise", r, ids)  # for one worker all placements are the same
        for r in (50, 100)
        for ids in (1, 2)
    }
    assert len(sweep.cases(2, {})) == 2 * len(found)
    for row in found:
        assert row["exchanged_bytes_per_rank"] == 0 and row["exchange_ceiling_bytes_per_second"] is None
        assert row["lookup_floor_milliseconds"] > 0
        seconds = (row["lookup_milliseconds"] + row["update_milliseconds"]) / 1e3
        assert row["samples_per_second"] == pytest.approx(32 / seconds)
        assert row["lookup_rows_per_second"] == pytest.approx(
            32 * 2 * row["pooling"] / row["lookup_milliseconds"] * 1e3
        )
    write_results(found, tmp_path / "out")
    with (tmp_path / "out/sharding.csv").open() as file:
        written = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "out/sharding.json").read_text().splitlines()]
    assert lines == found
    assert [float(row["samples_per_second"]) for row in written] == [row["samples_per_second"] for row in found]
    assert (tmp_path / "out/sharding.png").stat().st_size > 5000
    check_writable(tmp_path / "out", None)
    for path in (tmp_path / "out").iterdir():
        kept = path.read_bytes()
        path.write_text("mine")
        with pytest.raises(UserError, match="nothing in it proves that shardrec wrote it"):
            check_writable(tmp_path / "out", None)
        path.write_bytes(kept)


def measured_on_a_rank(rank: int, folder: Path, placements: str) -> list[dict[str, Any]]:
    sweep = Sweep.read(placements, "4", "64", "16", "2", "0")
    cases = sweep.cases(4, {"tables": 2, "embedding_dim": 8, "optimizer": "adagrad"})
    environment = Environment.from_variables("cpu")
    config = load(folder / "run.yaml")
    with environment.group(60):
        described = [asdict(case) for case in cases]
        return sharding_worker(config, RunFolder(folder), environment, cases=described, steps=1)["cases"]


@pytest.mark.parametrize(("workers", "measured"), [(4, ["row_wise", "table_row_wise", "grid"]), (2, ["row_wise"])])
def test_placements_of_several_hosts(tmp_path: Path, workers: int, measured: list[str]) -> None:
    """Four processes are two hosts of two, two are one host."""
    (tmp_path / "run.yaml").write_text("{run: run, data: {path: data}, model: lr}")
    (tmp_path / "logs").mkdir()
    found = run_processes(workers, measured_on_a_rank, tmp_path, "row_wise,table_row_wise,grid")[0]
    assert [row["placement"] for row in found] == measured
    bytes_of = {row["placement"]: row["exchanged_bytes_per_rank"] for row in found}
    assert all(bytes_of.values()) and len(set(bytes_of.values())) == len(bytes_of)
    left_out = [line for file in tmp_path.glob("logs/messages.txt") for line in file.read_text().splitlines()]
    assert ["grid, table_row_wise: left out" in line for line in left_out] == [True] * (workers == 2)


def test_nothing_to_measure_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("{run: run, data: {path: data}, model: lr}")
    with pytest.raises(
        ProcessError, match="UserError: --placements grid: found 2 workers on 1, expected several hosts"
    ):
        run_processes(2, measured_on_a_rank, tmp_path, "grid")


def test_rates_are_medians_of_what_tells_them() -> None:
    def row(world_size: int, milliseconds: float, bandwidth: float | None) -> dict[str, object]:
        return {
            "world_size": world_size,
            "lookup_milliseconds": milliseconds,
            "update_milliseconds": 3 * milliseconds,
            "row_bytes_per_rank": 8_000_000,
            "exchange_ceiling_bytes_per_second": bandwidth,
            "exchanged_bytes_per_rank": 2_000_000 if bandwidth != 5e8 else 10,
            "latency_seconds": 1e-4,
            "gather_ceiling_rows_per_second": 2e7,
            "embedding_dim": 16,
            "dtype": "fp32",
        }

    alone = [row(1, x, None) for x in (1.0, 2.0, 4.0)]
    together = [row(2, 9.0, x) for x in (1e9, 2e9, 4e9, 5e8)]
    assert calibrated([*alone, *together]) == {"row_bandwidth": 1e9, "local_bandwidth": 2e9, "latency": 1e-4}
    assert calibrated(alone) == {"row_bandwidth": 1e9}
    assert calibrated(together)["row_bandwidth"] == 2e7 / 2 * 64


def test_written_rates_are_those_that_a_run_plans_by(tmp_path: Path) -> None:
    found = benchmark_sharding(tmp_path, Sweep.read("row_wise", "1", "50", "32", "1", "0"), {"tables": 2}, steps=1)
    write_rates(found, tmp_path / "rates.yaml")
    check_writable(None, tmp_path / "rates.yaml")
    content = {"run": "run", "data": {"path": "data"}, "model": "fm"} | yaml.safe_load(
        (tmp_path / "rates.yaml").read_text()
    )
    (tmp_path / "run.yaml").write_text((tmp_path / "rates.yaml").read_text() + "run: run\n")
    with pytest.raises(UserError, match="nothing in it proves that shardrec wrote it"):
        check_writable(None, tmp_path / "run.yaml")  # it has more in it by now
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    topology = run_topology(load(tmp_path / "run.yaml"))
    assert topology.row_bandwidth == calibrated(found)["row_bandwidth"]
    assert topology.local_bandwidth == Topology.here(1, 1, torch.device("cpu")).local_bandwidth


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"placements": "row_wize"}, "--placements: unknown placement 'row_wize'; did you mean 'row_wise'"),
        ({"rows": "10,x"}, "--rows: found '10,x', expected whole numbers of 1 or more"),
        ({"skews": "-1"}, "--skews: found '-1', expected numbers of 0 or more"),
        ({"workers": "0"}, "--workers: found '0', expected whole numbers of 1 or more"),
    ],
)
def test_what_cannot_be_swept_is_one_line(asked: dict[str, str], line: str) -> None:
    given = {"placements": "row_wise", "workers": "1", "rows": "10", "batches": "8", "pooling": "1", "skews": "0"}
    with pytest.raises(UserError) as raised:
        Sweep.read(**(given | asked))
    assert line in str(raised.value) and "\n" not in str(raised.value)


def test_a_batch_that_workers_cannot_share_is_one_line(tmp_path: Path) -> None:
    sweep = Sweep.read("row_wise", "1,3", "10", "32", "1", "0")
    with pytest.raises(UserError, match="32 rows are no equal shares for 3 workers"):
        benchmark_sharding(tmp_path, sweep, {}, steps=1)
