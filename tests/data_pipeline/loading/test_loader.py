"""From files to batches: each row's number is in its columns, so that every batch can be read back."""

import gc
import threading
import tracemalloc
import warnings
from itertools import islice

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import (
    DenseFeature,
    DenseSequenceFeature,
    IdFeature,
    IdListFeature,
    SequenceFeature,
)
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Label, Schema
from shardrec.data_pipeline.loading import footprint as footprint_module
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.data_pipeline.loading.reader_process import Decoded
from shardrec.data_pipeline.reading import order as order_module
from shardrec.data_pipeline.reading.index import DataSet

MANY = Identity(num_ids=1 << 30)
SCHEMA = Schema(
    features=(
        IdFeature(name="row", ids=MANY),
        SequenceFeature(name="path", ids=MANY, max_length=3, aligned="path"),
        DenseSequenceFeature(name="thirds", max_length=3, aligned="path"),
        DenseFeature(name="half"),
    ),
    keys=("key",),
)


@pytest.fixture(autouse=True)
def small_units():
    """Units of 16 rows, runs of 20 and chunks of 8, so that small files have many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_module, "UNIT_ROWS", 16)
        patch.setattr(footprint_module, "RUN_ROWS", 20)
        patch.setattr(footprint_module, "CHUNK_ROWS", 8)
        yield


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    gc.collect()
    assert set(threading.enumerate()) <= before


def table(first: int, rows: int) -> pa.Table:
    row = np.arange(first, first + rows)
    return pa.table(
        {
            "row": row,
            "path": pa.array([list(range(r, r + r % 4)) for r in row], pa.list_(pa.int64())),
            "thirds": pa.array([[x / 3 for x in range(r, r + r % 4)] for r in row], pa.list_(pa.float64())),
            "half": (row / 2).astype(np.float32),
            "label": (row % 2).astype(np.int8),
            "key": pa.array([f"key {r}" for r in row], pa.string()),
        }
    )


def write(folder, files: list[list[int]]) -> int:
    """Files of row groups of the given sizes (0 is allowed); returns the number of rows."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for i, groups in enumerate(files):
        with pq.ParquetWriter(folder / f"{i:03}.parquet", table(0, 1).schema) as writer:
            for rows in groups:
                writer.write_table(table(first, rows), max(rows, 1))
                first += rows
    return first


def load(folder, **options) -> Loader:
    settings = {"folder": ".", "global_batch_size": 16, "memory": 1 << 30, **options}
    return Loader(DataSet.open(folder), SCHEMA, **settings)


def check_content(batch) -> list[int]:
    """All columns of a batch belong to its rows; returns the live ones."""
    live = int(batch.live.sum())
    rows = batch.rows[:live].tolist()
    assert (batch.rows[live:] == -1).all()
    ids = batch.ids.to_dict()
    assert [x.tolist() for x in ids["row"].to_dense()] == [[r] for r in rows] + [[]] * (batch.size - live)
    paths = [list(range(r, r + r % 4))[-3:] for r in rows] + [[]] * (batch.size - live)
    assert [x.tolist() for x in ids["path"].to_dense()] == paths
    thirds = np.array([x / 3 for path in paths for x in path], np.float32)
    assert batch.dense_sequences["thirds"].tolist() == thirds.tolist()
    assert batch.dense[:, 0].tolist() == [r / 2 for r in rows] + [0] * (batch.size - live)
    assert batch.labels["label"].tolist() == [r % 2 for r in rows] + [0] * (batch.size - live)
    assert batch.weights.tolist() == [1] * live + [0] * (batch.size - live)
    return rows


def same(a, b) -> bool:
    tensors = [(x.rows, x.dense, x.weights, x.labels["label"], x.ids.values(), x.ids.lengths()) for x in (a, b)]
    return all(torch.equal(x, y) for x, y in zip(*tensors, strict=True))


file_sizes = st.lists(st.lists(st.integers(0, 50), max_size=5), min_size=1, max_size=4).filter(
    lambda files: any(sum(groups) for groups in files)
)


@settings(max_examples=30)
@given(
    files=file_sizes,
    lanes=st.sampled_from([1, 2, 3, 5]),
    lane_batch=st.integers(1, 6),
    world_size=st.integers(1, 6),
    window=st.integers(1, 40),
    order=st.sampled_from(["shuffled", "shuffled", "time", "file"]),
    epoch=st.integers(0, 2),
    data=st.data(),
)
def test_every_row_exactly_once(tmp_path_factory, files, lanes, lane_batch, world_size, window, order, epoch, data):
    folder = tmp_path_factory.mktemp("rows")
    total = write(folder, files)
    options = {
        "global_batch_size": lanes * lane_batch,
        "lanes": lanes if order == "shuffled" else None,
        "window": window,
        "order": order,
        "prefetch": data.draw(st.integers(0, 2)),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(footprint_module, "RUN_BYTES", data.draw(st.sampled_from([0, 500, 1 << 24])))
        ranks = [load(folder, rank=r, world_size=world_size, **options) for r in range(world_size)]
    for rank in ranks:
        rank._kept_memory = data.draw(st.sampled_from([0, 1000, 1 << 30]))
        rank._warned = True
    batches = [list(rank.epoch(epoch)) for rank in ranks]
    assert {len(b) for b in batches} == {ranks[0].steps_per_epoch}
    rows = [[check_content(batch) for batch in rank] for rank in batches]
    assert sorted(row for rank in rows for step in rank for row in step) == list(range(total))
    assert sum(rank.rows_read for rank in ranks) == total
    for step in zip(*batches, strict=True):
        assert len({batch.size for batch in step}) == 1
    if order == "file":
        assert [row for rank in rows for step in rank for row in step] == list(range(total))
    else:
        alone = load(folder, **options)
        for step, batch in enumerate(alone.epoch(epoch)):
            assert sorted(row for rank in rows for row in rank[step]) == sorted(check_content(batch))
    start = data.draw(st.integers(0, ranks[0].steps_per_epoch))
    for rank, full in zip(ranks, batches, strict=True):
        resumed = list(rank.epoch(epoch, start))
        assert len(resumed) == len(full) - start
        assert all(same(a, b) for a, b in zip(resumed, full[start:], strict=True))


def test_time_order_gives_consecutive_rows_and_each_rank_a_contiguous_share(tmp_path):
    total = write(tmp_path, [[30, 0, 7], [], [41]])
    ranks = [list(load(tmp_path, order="time", rank=r, world_size=3).epoch(5)) for r in range(3)]
    for step, batches in enumerate(zip(*ranks, strict=True)):
        rows = [row for batch in batches for row in check_content(batch)]
        assert rows == list(range(16 * step, min(16 * (step + 1), total)))


def test_rows_out_of_time_order_are_named_while_they_are_read(tmp_path):
    times = [np.array([4, 4, 7, 9]), np.array([9, 12, 11, 20])]
    kinds = {
        "integers": lambda t: pa.array(t),
        "floats": lambda t: pa.array(t / 2),
        "times": lambda t: pa.array(t, pa.timestamp("ms")),
        "nanoseconds": lambda t: pa.array(10**18 + t, pa.timestamp("ns")),
        "times after the year 9999": lambda t: pa.array(2**50 + t, pa.timestamp("ms")),
    }
    schema = SCHEMA.model_copy(update={"time": "t"})
    for kind, made in kinds.items():
        folder = tmp_path / kind

        def loader(second, order="time", folder=folder, made=made):
            folder.mkdir(exist_ok=True)
            for i, of_file in enumerate((times[0], times[1] if second is None else second)):
                pq.write_table(table(4 * i, 4).append_column("t", made(of_file)), folder / f"{i}.parquet", 2)
            return Loader(DataSet.open(folder), schema, folder=".", global_batch_size=2, window=2, order=order)

        line = r"1\.parquet, row 2, column 't': found .*, expected .* or later, as the row before has; sort the rows"
        with pytest.raises(UserError, match=line) as error:
            list(loader(None).epoch(0))
        assert "\n" not in str(error.value)
        with pytest.raises(UserError, match=r"1\.parquet, row 0, column 't'.* or later"):  # than the file before
            list(loader(times[1] - 1).epoch(0))
        sorted_times = loader(np.sort(times[1]))
        assert [len(list(sorted_times.epoch(0, step))) for step in (0, 3, 1)] == [4, 1, 3]  # epochs begin anew
        assert "t" not in loader(None, order="shuffled").columns and len(list(loader(None, order="file").epoch(0))) == 4
    with pytest.raises(UserError, match=r"column 't' is timestamp\[ms\], but int64 in .*0\.parquet"):
        pq.write_table(table(0, 4).append_column("t", kinds["integers"](times[0])), tmp_path / "times/0.parquet")
        Loader(DataSet.open(tmp_path / "times"), schema, folder=".", global_batch_size=2, order="time")
    pq.write_table(table(0, 4).append_column("t", pa.array([1, None, 3, 4])), tmp_path / "m.parquet")
    missing = Loader(DataSet.open(tmp_path / "m.parquet"), schema, folder=".", global_batch_size=2, order="time")
    with pytest.raises(UserError, match=r"m\.parquet, row 1, column 't': found null, expected a time"):
        list(missing.epoch(0))


def test_rows_are_shuffled_anew_in_every_epoch_and_by_every_seed(tmp_path):
    write(tmp_path, [[64] * 8])

    def rows(seed, epoch):
        return [batch.rows.tolist() for batch in load(tmp_path, seed=seed, lanes=4, window=32).epoch(epoch)]

    first = rows(0, 0)
    assert rows(0, 0) == first
    for other in (rows(0, 1), rows(1, 0)):
        places = [{row: step for step, batch in enumerate(x) for row in batch} for x in (first, other)]
        assert sum(places[0][row] == places[1][row] for row in range(512)) < 100


@pytest.mark.parametrize("world_size", [1, 3, 4])
def test_rows_decoded_per_row_delivered(tmp_path, world_size):
    total = write(tmp_path, [[37, 50, 43, 48]] * 4)  # 4 x lanes row groups
    for epoch in range(4):
        ranks = [load(tmp_path, lanes=4, rank=r, world_size=world_size) for r in range(world_size)]
        for rank in ranks:
            rank._kept_memory, rank._warned = 0, True  # nothing may be kept: the worst case
            for _ in rank.epoch(epoch):
                pass
        assert sum(rank.rows_read for rank in ranks) == total
        assert total < sum(rank.rows_decoded for rank in ranks) <= 1.25 * total


def test_a_resumed_epoch_decodes_only_what_is_left(tmp_path):
    total = write(tmp_path, [[64] * 16])
    loader = load(tmp_path, lanes=4, window=8)
    for _ in loader.epoch(0, loader.steps_per_epoch * 3 // 4):
        pass
    assert loader.rows_read == total // 4
    assert loader.rows_decoded <= total // 4 + 4 * 64


def test_a_group_of_several_lanes_is_decoded_once_or_with_a_warning_for_each(tmp_path):
    total = write(tmp_path, [[2000]])
    roomy = load(tmp_path, lanes=4, window=64)
    batches = list(roomy.epoch(0))
    assert roomy.rows_decoded == roomy.rows_read == total
    tight = load(tmp_path, lanes=4, window=64)
    tight._kept_memory = 1000
    with pytest.warns(UserWarning, match=r"000\.parquet: a row group of 2000 rows .*smaller row groups") as caught:
        again = list(tight.epoch(0))
    assert len(caught) == 1
    assert tight.rows_decoded > 2 * total
    assert all(same(a, b) for a, b in zip(batches, again, strict=True))
    with warnings.catch_warnings():  # said once
        warnings.simplefilter("error")
        next(tight.epoch(1))


@pytest.mark.parametrize(
    ("files", "groups", "lanes", "memory", "decoded_once"),
    [(1, [600_000], 4, 32 << 20, False), (1, [300_000], 4, 64 << 20, True), (30, [20] * 100, 8, 16 << 20, True)],
    ids=["a group larger than memory", "a group that fits", "very many tiny groups"],
)
def test_memory_stays_within_its_limit(tmp_path, monkeypatch, files, groups, lanes, memory, decoded_once):
    monkeypatch.setattr(order_module, "UNIT_ROWS", 1 << 14)
    monkeypatch.setattr(footprint_module, "CHUNK_ROWS", 1 << 12)
    monkeypatch.setattr(footprint_module, "RUN_ROWS", 1 << 14)
    monkeypatch.setattr(footprint_module, "RUN_BYTES", 1 << 21)
    names = [f"c{i}" for i in range(12)]
    rows = sum(groups) * files
    for file in range(files):
        rng = np.random.default_rng(file)
        columns = {n: rng.integers(0, 1000, sum(groups)) for n in names}
        data = pa.table({**columns, "label": np.zeros(sum(groups))})
        pq.write_table(data, tmp_path / f"{file}.parquet", max(groups))
    schema = Schema(features=tuple(IdFeature(name=n, ids=MANY) for n in names))
    loader = Loader(
        DataSet.open(tmp_path), schema, folder=".", global_batch_size=1024, lanes=lanes, window=2048, memory=memory
    )
    arrow: list[int] = []
    counted = Decoded.add
    monkeypatch.setattr(Decoded, "add", lambda of, n: (counted(of, n), arrow.append(pa.total_allocated_bytes())))
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error" if decoded_once else "ignore")
            total = sum(int(batch.live.sum()) for batch in loader.epoch(0))
        peak = tracemalloc.get_traced_memory()[1] + max(arrow) - before
    finally:
        tracemalloc.stop()
    assert total == rows
    assert peak <= memory
    assert (loader.rows_decoded <= 1.01 * rows) == decoded_once
    if decoded_once and len(groups) == 1:
        assert peak > rows * 12 * 4  # the group was kept


def test_extra_columns_come_beside_the_batch(tmp_path):
    total = write(tmp_path, [[9, 0, 20], [3]])
    for order in ("file", "shuffled"):
        seen = []
        ranks = [load(tmp_path, order=order, extra_columns=("key",), rank=r, world_size=2) for r in range(2)]
        for rank in ranks:
            for batch, keys in rank.epoch_with_columns(0):
                assert keys.column("key").to_pylist() == [f"key {r}" for r in check_content(batch)]
                seen += keys.column("key").to_pylist()
        assert sorted(seen) == sorted(f"key {r}" for r in range(total))
        assert order != "file" or seen == [f"key {r}" for r in range(total)]


def test_names_and_sizes(tmp_path):
    total = write(tmp_path, [[40]])
    loader = load(tmp_path, id_order=("path", "row"))
    assert (loader.dense_names, loader.id_names, loader.weighted_id_names) == (("half",), ("path", "row"), ())
    assert (loader.num_rows, loader.lanes, loader.steps_per_epoch) == (total, 16, 3)
    assert load(tmp_path, global_batch_size=24).lanes == 8
    assert next(loader.epoch(0)).ids.keys() == ["path", "row"]


def test_closing_or_dropping_an_epoch_stops_its_thread(tmp_path):
    write(tmp_path, [[200]])
    before = threading.active_count()
    epoch = load(tmp_path).epoch(0)
    assert threading.active_count() == before  # nothing runs before the first batch is asked for
    next(epoch)
    assert threading.active_count() == before + 1
    epoch.close()
    assert threading.active_count() == before
    for _ in load(tmp_path).epoch(0):
        break
    gc.collect()
    assert threading.active_count() == before


@pytest.mark.parametrize("taken", [None, 1])
def test_no_file_stays_open_after_an_epoch(tmp_path, taken):
    """Nor after one that was left early; nobody collects garbage meanwhile."""
    write(tmp_path, [[60], [60], [80]])
    loader = load(tmp_path, prefetch=0)

    def of_data() -> list[str]:
        return [file.path for file in psutil.Process().open_files() if file.path.startswith(str(tmp_path))]

    gc.collect()
    gc.disable()
    try:
        for epoch in range(2):
            batches = loader.epoch(epoch)
            for _ in islice(batches, taken):
                assert of_data()
            batches.close()
            assert not of_data()
    finally:
        gc.enable()


def test_a_bad_row_is_an_error_after_the_batches_before_it(tmp_path):
    write(tmp_path, [[32], [32]])
    bad = table(32, 32).set_column(3, "half", pa.array([1.0] * 31 + [float("nan")], pa.float32()))
    pq.write_table(bad, tmp_path / "001.parquet")
    for prefetch in (0, 2):
        loader = load(tmp_path, order="time", prefetch=prefetch, window=8)
        batches = loader.epoch(0)
        assert [int(next(batches).rows[0]) for _ in range(2)] == [0, 16]  # the first file's
        with pytest.raises(UserError, match=r"001\.parquet.*row 31.*'half'"):
            next(batches)


def test_a_corrupt_file_is_an_error_at_its_batch(tmp_path):
    write(tmp_path, [[32], [4000]])
    data = bytearray((tmp_path / "001.parquet").read_bytes())
    data[4:4000] = b"\xff" * 3996
    (tmp_path / "001.parquet").write_bytes(data)
    batches = load(tmp_path, order="time", window=8).epoch(0)
    assert len([next(batches) for _ in range(2)]) == 2
    with pytest.raises(UserError, match=r"001\.parquet.*cannot be decoded"):
        next(batches)


def test_columns_are_checked_before_anything_is_read(tmp_path):
    pq.write_table(table(0, 4).drop_columns(["half"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet.*'half'"):
        load(tmp_path)
    pq.write_table(table(0, 4), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: unknown column 'kee'; did you mean 'key'"):
        load(tmp_path, extra_columns=("kee",))


def test_arguments_that_cannot_be_met(tmp_path):
    write(tmp_path, [[64]])
    with pytest.raises(UserError, match=r"data.global_batch_size 16 is not a multiple of data.lanes 5"):
        load(tmp_path, lanes=5)
    with pytest.raises(UserError, match=r"data.order: time has one lane"):
        load(tmp_path, lanes=2, order="time")
    with pytest.raises(UserError, match=r"data.memory of 1 MiB is too small: 16 lanes with windows of 65536 rows"):
        load(tmp_path, lanes=16, window=65_536, memory=1 << 20)
    with pytest.raises(ValueError, match="start_step"):
        load(tmp_path).epoch(0, 5)


def test_a_resume_that_would_change_batches_is_refused(tmp_path):
    write(tmp_path / "a", [[64]])
    write(tmp_path / "b", [[63]])
    saved = load(tmp_path / "a", lanes=4).order_state()
    load(tmp_path / "a", lanes=4, rank=1, world_size=3, prefetch=0).check_state(saved)
    for change, message in (
        ({"lanes": 8}, r"data.lanes is 8, but the checkpoint was made with 4"),
        ({"lanes": 4, "window": 5}, r"data.window is 5"),
        ({"lanes": 4, "seed": 1}, r"^trainer.seed is 1, .* set trainer.seed back"),
        ({"lanes": 4, "global_batch_size": 32}, r"data.global_batch_size is 32"),
        ({"order": "time"}, r"data.order is time"),
    ):
        with pytest.raises(UserError, match=message):
            load(tmp_path / "a", **change).check_state(saved)
    with pytest.raises(UserError, match=r"not those of the checkpoint \(63 rows, then 64\)"):
        load(tmp_path / "b", lanes=4).check_state(saved)


def test_checkpoints_made_before_footers_counted_go_on(tmp_path):
    write(tmp_path, [[64]])
    loader = load(tmp_path, lanes=4)
    earlier = loader.order_state() | {"fingerprint": loader.index.fingerprint.earlier}
    loader.check_state(earlier)
    same_sizes = loader.order_state()
    pq.write_table(table(1, 64), tmp_path / "000.parquet")
    with pytest.raises(
        UserError, match=r"not those of the checkpoint \(64 rows, then 64\), by names, sizes and footers"
    ):
        load(tmp_path, lanes=4).check_state(same_sizes)


@pytest.mark.parametrize("rows", [1, 1000])
def test_a_row_of_very_many_ids_is_refused_before_it_is_read(tmp_path, rows):
    many = 4_000_000
    offsets = pa.array(np.append(np.arange(rows), many), pa.int32())
    one_id = pa.ListArray.from_arrays(offsets, pa.array(np.zeros(many, np.int64)))
    pq.write_table(pa.table({"ids": pa.array([[1]]), "path": pa.array([[1]])}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"ids": one_id, "path": pa.array([[1]] * rows)}), tmp_path / "1.parquet")
    assert (tmp_path / "1.parquet").stat().st_size < 50_000
    source = DataSet.open(tmp_path)

    def loader(name, memory):
        schema = Schema(features=(IdListFeature(name=name, ids=MANY, max_length=5),), labels=())
        return Loader(source, schema, folder=".", global_batch_size=16, window=16, memory=memory)

    message = (
        r"1\.parquet: row group 0: column 'ids' may have 4,000,000 values in one row, .* 92 MiB, over data.memory of"
    )
    with pytest.raises(UserError, match=message) as caught:
        loader("ids", 64 << 20)
    assert "\n" not in str(caught.value)
    assert loader("path", 64 << 20).num_rows == rows + 1  # nothing reads the long row
    assert sum(batch.ids.lengths().sum() for batch in loader("ids", 1 << 30).epoch(0)) == rows + 5


def test_class_weights_and_lists_of_many_kinds(tmp_path):
    write(tmp_path, [[40]])
    weights = {1.0: 3.0}
    for batch in load(tmp_path, class_weights=weights).epoch(0):
        live = batch.live
        assert torch.equal(batch.weights[live], 1 + 2 * batch.labels["label"][live])
    schema = Schema(features=(IdListFeature(name="path", ids=MANY, max_length=2),), labels=(Label(),))
    loader = Loader(DataSet.open(tmp_path), schema, folder=".", global_batch_size=16)
    for batch in loader.epoch(0):
        assert batch.ids.lengths().tolist() == [min(r % 4, 2) if r >= 0 else 0 for r in batch.rows.tolist()]
