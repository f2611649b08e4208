import os
import tempfile

import pytest
import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.benchmarks.reader import benchmark_reader, click_schema, write_click_log


def test_reader_benchmark_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = os.sched_getaffinity(0), torch.get_num_threads()
    found = benchmark_reader(rows=5000, repeats=2, global_batch_size=256, lanes=4)
    assert (found["rows"], found["columns"], found["lanes"], found["decoded_per_row"]) == (5000, 40, 4, 1)
    assert found["loader_rows_per_second"] > 0 and found["iter_batches_rows_per_second"] > 0
    assert (os.sched_getaffinity(0), torch.get_num_threads()) == before
    assert list(tmp_path.iterdir()) == []


def test_reader_benchmark_of_given_data(tmp_path):
    write_click_log(tmp_path, 300, files=3, group_rows=50)
    found = benchmark_reader(f"{tmp_path}/part-[01].parquet", click_schema().subset(["id_3", "dense_0"]), repeats=1)
    assert (found["rows"], found["columns"]) == (200, 3)
    with pytest.raises(UserError, match="need a schema"):
        benchmark_reader(tmp_path)
