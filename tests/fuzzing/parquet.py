"""Prepared Parquet files with flipped bits: a reader says so in a line, or reads exactly what was written."""

import random
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.crosses import CrossedFeatures
from shardrec.data_pipeline.features.feature_kinds import (
    DenseFeature,
    DenseSequenceFeature,
    IdFeature,
    IdListFeature,
    SequenceFeature,
)
from shardrec.data_pipeline.features.id_transforms import Hash
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.data_pipeline.prepare.steps.writer import RowsWriter
from shardrec.data_pipeline.reading.index import DataSet
from tests.fuzzing.broken_bytes import mutated

SCHEMA = CrossedFeatures(features=("a", "many"), num_ids=1 << 30).added_to(
    Schema(
        features=(
            IdFeature(name="a", ids=Hash(num_ids=1 << 30)),
            IdFeature(name="s", ids=Hash(num_ids=1 << 30)),
            IdListFeature(name="many", ids=Hash(num_ids=1 << 30)),
            DenseFeature(name="x"),
            SequenceFeature(name="past", ids=Hash(num_ids=1 << 30), max_length=3, aligned="past"),
            DenseSequenceFeature(name="paid", max_length=3, aligned="past"),
        ),
        time="t",
    )
)


@cache
def _rows() -> pa.Table:
    draw = np.random.default_rng(0)
    return pa.table(
        {
            "a": draw.integers(0, 50, 400),
            "s": [f"x{i % 7}" for i in range(400)],
            "many": [draw.integers(0, 9, i % 4).tolist() for i in range(400)],
            "x": draw.random(400, dtype=np.float32),
            "past": [draw.integers(0, 9, i % 5).tolist() for i in range(400)],
            "paid": [draw.random(i % 5).tolist() for i in range(400)],
            "t": np.arange(400) // 3,
            "label": draw.integers(0, 2, 400).astype(np.int8),
        }
    )


@cache
def _prepared() -> bytes:
    folder = Path(mkdtemp(prefix="shardrec-fuzzing-"))
    with RowsWriter(folder, row_group_rows=150) as writer:
        writer.write(_rows())
    return next(folder.glob("*.parquet")).read_bytes()


@cache
def _plain() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(_rows(), sink, row_group_size=150, compression="zstd")
    return sink.getvalue().to_pybytes()


@cache
def _expected() -> list[list[bytes]]:
    return _content(_prepared())


def checked(draw: random.Random) -> None:
    """Flips bits of a prepared file, which has checksums. Raises for a traceback, and for other rows without a word."""
    file = bytearray(_prepared())
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        file[draw.randrange(len(file))] ^= 1 << draw.randrange(8)
    try:
        assert _content(bytes(file)) == _expected(), "other rows were read, and nothing said"
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000


def unchecked(draw: random.Random) -> None:
    """Breaks the pages or the footer of a file of another program, which has no checksums. Raises for a traceback."""
    file = _plain()
    footer = len(file) - int.from_bytes(file[-8:-4], "little") - 8
    broken = [file[:footer], file[footer:]]
    which = draw.randrange(2)
    broken[which] = mutated(broken[which], draw)
    try:
        _content(b"".join(broken))
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000


def _content(file: bytes) -> list[list[bytes]]:
    """Returns all that a run would read of a file, as bytes."""
    with TemporaryDirectory(prefix="shardrec-fuzzing-") as folder:
        (Path(folder) / "part.parquet").write_bytes(file)
        data = DataSet.open(folder)
        loader = Loader(data, SCHEMA, folder=folder, global_batch_size=64, window=40, prefetch=0, order="time")
        return [
            [
                t.numpy().tobytes()
                for t in (b.dense, b.ids.values(), b.ids.lengths(), b.labels["label"], b.dense_sequences["paid"])
            ]
            for b in loader.epoch(0)
        ]
