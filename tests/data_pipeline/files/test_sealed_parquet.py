"""Flipped bytes in files that this program writes are an error, or change nothing that is read."""

import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import DenseFeature, IdFeature, IdListFeature
from shardrec.data_pipeline.features.id_transforms import Hash, Vocabulary
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.features.vocabulary import VALUE
from shardrec.data_pipeline.files.sealed_parquet import SEAL, SealedWriter, read_checked, write_sealed
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.data_pipeline.prepare.steps.writer import RowsWriter
from shardrec.data_pipeline.reading.index import DataSet

FLIPS = 200
SCHEMA = Schema(
    features=(
        IdFeature(name="a", ids=Hash(num_ids=1 << 30)),
        IdFeature(name="s", ids=Vocabulary(path="words.parquet", size=5)),
        IdListFeature(name="many", ids=Hash(num_ids=1 << 30)),
        DenseFeature(name="x"),
    )
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sealed")
    draw = np.random.default_rng(0)
    rows = pa.table(
        {
            "a": draw.integers(0, 50, 400),
            "s": [f"x{i % 7}" for i in range(400)],
            "many": [draw.integers(0, 9, i % 4).tolist() for i in range(400)],
            "x": draw.random(400, dtype=np.float32),
            "label": draw.integers(0, 2, 400).astype(np.int8),
        }
    )
    with RowsWriter(folder / "rows", row_group_rows=150) as writer:
        writer.write(rows)
    write_sealed(pa.table({VALUE: [f"x{i}" for i in range(5)]}), folder / "words.parquet")
    return folder


def content(folder):
    """All that a run would read, as bytes."""
    loader = Loader(DataSet.open(folder / "rows"), SCHEMA, folder=folder, global_batch_size=64, window=40, prefetch=0)
    return [
        [t.numpy().tobytes() for t in (b.dense, b.ids.values(), b.ids.lengths(), b.labels["label"])]
        for b in loader.epoch(0)
    ]


@pytest.mark.parametrize("name", ["rows/part-00000-00000.parquet", "words.parquet"])
def test_a_flipped_byte_is_an_error_or_changes_nothing(folder, name):
    expected, file = content(folder), folder / name
    whole, draw, errors = file.read_bytes(), random.Random(0), 0
    try:
        for at in draw.choices(range(len(whole)), k=FLIPS):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << draw.randrange(8)
            file.write_bytes(flipped)
            try:
                assert content(folder) == expected, at
            except UserError as error:
                assert file.name in str(error) and "\n" not in str(error)
                errors += 1
    finally:
        file.write_bytes(whole)
    assert errors > FLIPS * 0.7  # what may flip are the first bytes and some of the pages' headers


def test_any_reader_reads_sealed_files(folder):
    path = folder / "rows" / "part-00000-00000.parquet"
    assert SEAL in path.read_bytes()
    assert pq.read_table(path).equals(read_checked(str(path)))
    assert DataSet.open(path).index.num_rows == 400


@pytest.mark.parametrize("seal", [SEAL, b"RHARDREC", b"SHARDR\0C"])
def test_a_broken_footer_is_named_and_be_its_seal_damaged_too(tmp_path, seal):
    path = tmp_path / "a.parquet"
    write_sealed(pa.table({"label": [1, 2]}), path)
    path.write_bytes(path.read_bytes().replace(b"label", b"lapel").replace(SEAL, seal))
    assert pq.read_schema(path).names == ["lapel"]  # Parquet itself has no checksum there
    with pytest.raises(UserError, match=r"a\.parquet: not a readable .* \(its footer is not what was written"):
        DataSet.open(path)


def test_long_footers_and_ends_that_are_none(tmp_path):
    rows = pa.table({f"column_{i}": [i] for i in range(1500)})
    with SealedWriter(tmp_path / "wide.parquet", rows.schema) as writer:
        writer.write_table(rows)
    assert read_checked(str(tmp_path / "wide.parquet")).equals(rows)
    for tail in (b"", b"PAR1", b"PAR1" + (2**31 - 1).to_bytes(4, "little") + b"PAR1", bytes(12), b"PAR1" * 4):
        (tmp_path / "none.parquet").write_bytes(tail)
        with pytest.raises(UserError, match=r"none\.parquet: not a readable Parquet file"):
            DataSet.open(tmp_path / "none.parquet")
