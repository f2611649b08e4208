from pathlib import Path

import pyarrow.parquet as pq
import pytest

import shardrec
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.benchmarks.bundle import benchmark_bundle
from tests.trainer.saved_runs import trained_run, write_named_data


def test_a_bundle_is_measured(tmp_path: Path) -> None:
    write_named_data(tmp_path / "data")
    run = trained_run(tmp_path, trainer={"epochs": 1, "tensorboard": False})
    shardrec.export(run, tmp_path / "bundle")
    lines = benchmark_bundle(tmp_path / "bundle", [str(tmp_path / "data/test")], prepared=True, seconds=0.01)
    assert [line["call"] for line in lines] == ["score, 1", "score, 32", "score, 1024"]
    assert all(0 < line["p50_ms"] <= line["p99_ms"] and line["rows_per_s"] > 0 for line in lines)
    with pytest.raises(UserError, match="not a bundle"):
        benchmark_bundle(tmp_path / "data", [str(tmp_path / "data/test")])
    rows = pq.read_table(tmp_path / "data/test").slice(0, 40)
    pq.write_table(rows.drop_columns(["price"]), tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=r"rows\.parquet: feature 'price': there is no column 'price'"):
        benchmark_bundle(tmp_path / "bundle", [str(tmp_path / "rows.parquet")], prepared=True, seconds=0.01)
