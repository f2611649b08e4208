"""Reader processes give the batches that a reader in this process gives, and end with it."""

import os
import signal
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

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
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.data_pipeline.reading.index import DataSet

ROWS, GLOBAL_BATCH = 4_000, 256
MANY = Identity(num_ids=ROWS * 4)
SCHEMA = Schema(
    features=(
        IdFeature(name="row", ids=MANY),
        IdFeature(name="other", ids=MANY),
        SequenceFeature(name="path", ids=MANY, max_length=3, aligned="path"),
        DenseSequenceFeature(name="thirds", max_length=3, aligned="path"),
        IdListFeature(name="tags", ids=MANY, weights="shares"),
        DenseFeature(name="half"),
    ),
    labels=(Label(name="label"),),
    keys=("key",),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of rows that are told by their numbers; row groups of 250, so that none is of two lanes."""
    made = tmp_path_factory.mktemp("rows")
    for i, first in enumerate((0, ROWS // 2)):
        pq.write_table(table(first, ROWS // 2), made / f"{i}.parquet", row_group_size=250)
    return made


def table(first: int, rows: int) -> pa.Table:
    row = np.arange(first, first + rows)
    return pa.table(
        {
            "row": row,
            "other": row * 3,
            "path": pa.array([list(range(r, r + r % 4)) for r in row], pa.list_(pa.int64())),
            "thirds": pa.array([[x / 3 for x in range(r, r + r % 4)] for r in row], pa.list_(pa.float64())),
            "tags": pa.array([[r, r + 1][: r % 3] for r in row], pa.list_(pa.int64())),
            "shares": pa.array([[0.5, 0.25][: r % 3] for r in row], pa.list_(pa.float64())),
            "half": (row / 2).astype(np.float32),
            "label": (row % 2).astype(np.int8),
            "key": pa.array([f"key {r}" for r in row], pa.string()),
        }
    )


def running() -> list[psutil.Process]:
    """The reader processes of this process, which may have children of other tests."""
    return [child for child in psutil.Process().children() if "reader_process" in " ".join(child.cmdline())]


def load(folder: Path, **options: object) -> Loader:
    given = {"global_batch_size": GLOBAL_BATCH, "lanes": 8, "window": 100, "extra_columns": ("key",), **options}
    return Loader(DataSet.open(str(folder)), SCHEMA, folder=folder, **given)  # type: ignore[arg-type]


def equal(a: tuple, b: tuple) -> bool:
    (one, its), (other, their) = a, b
    pairs = [(one.dense, other.dense), (one.weights, other.weights), (one.rows, other.rows)]
    pairs += [
        (one.labels["label"], other.labels["label"]),
        (one.dense_sequences["thirds"], other.dense_sequences["thirds"]),
    ]
    for kind in ("ids", "weighted_ids"):
        x, y = getattr(one, kind), getattr(other, kind)
        pairs += [(x.values(), y.values()), (x.lengths(), y.lengths())]
    pairs.append((one.weighted_ids.weights(), other.weighted_ids.weights()))
    return all(torch.equal(x, y) for x, y in pairs) and its.equals(their)


@pytest.mark.parametrize(
    ("readers", "order", "rank", "world_size"),
    [(3, "shuffled", 1, 2), (3, "time", 0, 1)],
)
def test_batches_are_those_of_one_process(folder: Path, readers: int, order: str, rank: int, world_size: int) -> None:
    """In two epochs, from the middle of one too, with the columns beside them, and no row is decoded again."""
    more = {"order": order, "rank": rank, "world_size": world_size, **({"lanes": None} if order == "time" else {})}
    here, apart = load(folder, **more), load(folder, readers=readers, **more)
    for epoch, start in ((0, 0), (1, 5)):
        expected, found = (list(loader.epoch_with_columns(epoch, start)) for loader in (here, apart))
        assert len(found) == len(expected) == here.steps_per_epoch - start
        assert all(equal(a, b) for a, b in zip(expected, found, strict=True))
    assert (apart.rows_read, apart.rows_decoded) == (here.rows_read, here.rows_decoded)


def test_readers_end_with_an_epoch_that_is_left_and_with_the_loader(folder: Path) -> None:
    loader = load(folder, readers=2)
    first = list(islice(loader.epoch_with_columns(0), 3))
    assert not running()
    again = loader.epoch_with_columns(0)
    assert all(equal(a, b) for a, b in zip(first, again, strict=False))
    rest = len(list(again))
    assert rest == loader.steps_per_epoch - 3
    readers = running()
    assert len(readers) == loader.readers == 2
    del loader, again
    assert not psutil.wait_procs(readers, timeout=10)[1]


def test_a_bad_row_is_the_line_that_it_is_without_readers(tmp_path: Path) -> None:
    rows = table(0, 600).to_pydict()
    rows["half"] = [*rows["half"][:500], float("nan"), *rows["half"][501:]]
    pq.write_table(pa.table(rows), tmp_path / "0.parquet", row_group_size=100)
    lines, taken = [], []
    for readers in (0, 2):
        with pytest.raises(UserError) as error:
            taken.append(0)
            for _ in load(tmp_path, readers=readers, order="time", lanes=None).epoch(0):
                taken[-1] += 1
        lines.append(str(error.value))
    assert lines[0] == lines[1] and "column 'half': found nan" in lines[0] and taken[0] == taken[1]


def test_a_reader_that_is_killed_is_named(folder: Path) -> None:
    loader = load(folder, readers=2, prefetch=0, global_batch_size=16)
    epoch = loader.epoch(0)
    next(epoch)
    victim = running()[1]
    os.kill(victim.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=rf"data\.readers: reader process {victim.pid} ended .* \(by signal 9\)"):
        list(epoch)
    assert not running()


def test_no_more_readers_start_than_there_are_lanes(folder: Path) -> None:
    assert load(folder, readers=64, lanes=2).readers == 2
    assert load(folder, readers=64, order="time", lanes=None).readers == 1


def test_readers_have_to_fit_into_memory(folder: Path) -> None:
    needed = next(m for m in range(1 << 16, 1 << 24, 1 << 14) if fits(folder, m, readers=0))
    with pytest.raises(UserError, match=r"data\.memory of .* too small: 8 lanes .* and 8 readers need .* or readers"):
        load(folder, readers=8, memory=needed)


def fits(folder: Path, memory: int, readers: int) -> bool:
    try:
        load(folder, readers=readers, memory=memory)
    except UserError:
        return False
    return True
