"""Rows in a store are read whole and in order, whatever the network does; what it does not bear up with is one line."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.reading.index import DataSet
from shardrec.data_pipeline.reading.parquet import RangeReader
from shardrec.data_pipeline.stores.retries import ATTEMPTS, StoreError
from tests.object_store import BUCKET, Fault, ObjectStore

ROWS, GROUP = 4000, 500


@pytest.fixture
def uri(store: ObjectStore, tmp_path: Path) -> str:
    draw = np.random.default_rng(0)
    for part in range(2):
        table = pa.table({"x": np.arange(ROWS // 2) + part * ROWS // 2, "y": draw.normal(size=ROWS // 2)})
        pq.write_table(table, tmp_path / "part.parquet", row_group_size=GROUP)
        store.write(f"{tmp_path.name}/{part}.parquet", (tmp_path / "part.parquet").read_bytes())
    return f"s3://{BUCKET}/{tmp_path.name}"


def read(data: DataSet, start: int, stop: int, *, whole_rows: int = ROWS) -> tuple[list[int], list[int]]:
    """The values of column x in rows start .. stop, and their places."""
    settings = {"chunk_rows": 120, "whole_rows": whole_rows, "footer_memory": 1 << 20}
    reader = RangeReader(data.index, ["x", "y"], **settings, on_decoded=lambda rows: None)
    values, places = [], []
    for chunk in reader.read(start, stop):
        values += chunk.batch["x"].to_pylist()
        places += range(chunk.place, chunk.place + chunk.batch.num_rows)
    return values, places


@pytest.mark.parametrize("kind", ["cut", "500", "closed"])
@pytest.mark.parametrize(("whole_rows", "spared"), [(ROWS, 0), (ROWS, 1), (100, 1), (100, 4)])
def test_rows_are_read_once_each(uri: str, store: ObjectStore, kind: str, whole_rows: int, spared: int) -> None:
    with store.failing(Fault("HEAD .*parquet", "500", times=2), Fault("GET .*parquet", "500", times=2)):
        data = DataSet.open(uri)
    with store.failing(fault := Fault("GET .*parquet", kind, times=3, spared=spared)):  # type: ignore[arg-type]
        values, places = read(data, 130, 3700, whole_rows=whole_rows)
    assert values == places == list(range(130, 3700))
    assert fault.befallen


def test_says_which_row_group_could_not_be_read_how_often_and_why(uri: str, store: ObjectStore) -> None:
    data = DataSet.open(uri)
    with store.failing(Fault("GET .*1.parquet bytes=4-", "500")), pytest.raises(StoreError) as failed:
        read(data, 2000, 2100)
    where = "/1.parquet: row group 0 read: "
    assert f"{where}failed {ATTEMPTS} times, the last time by: AWS Error INTERNAL_FAILURE" in str(failed.value)


def test_lost_credentials_are_told_at_once(uri: str, store: ObjectStore) -> None:
    data = DataSet.open(uri)
    with store.failing(fault := Fault("(GET|HEAD) .*1.parquet", "403")), pytest.raises(StoreError) as failed:
        read(data, 2700, 2900)
    assert fault.befallen == 1
    assert "refused (" in str(failed.value) and "check the credentials" in str(failed.value)


def test_damage_is_no_fault_of_the_store(uri: str, store: ObjectStore, tmp_path: Path) -> None:
    data = DataSet.open(uri)
    content = bytearray(store.read(f"{tmp_path.name}/0.parquet"))
    content[200:1200] = bytes(1000)
    store.write(f"{tmp_path.name}/0.parquet", bytes(content))
    store.requests.clear()
    with pytest.raises(UserError, match=r"0.parquet: (changed after the start|.*cannot be decoded)"):
        read(data, 0, 100)
    assert sum(request.startswith("GET") for request in store.requests) < ATTEMPTS
