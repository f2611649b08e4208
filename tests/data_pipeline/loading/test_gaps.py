"""Rows that cannot be read any more are left out of their batches, and nothing else of any batch changes."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import IdFeature, IdListFeature, SequenceFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Label, Schema
from shardrec.data_pipeline.loading import footprint
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.data_pipeline.reading import order
from shardrec.data_pipeline.reading.index import DataSet

GROUP, GROUPS, FILES = 40, 5, 3
ROWS = GROUP * GROUPS * FILES
MANY = Identity(num_ids=ROWS * 2)
SCHEMA = Schema(
    features=(
        IdFeature(name="row", ids=MANY),
        SequenceFeature(name="path", ids=MANY, max_length=3, aligned="path"),
        IdListFeature(name="tags", ids=MANY, weights="shares"),
    ),
    labels=(Label(name="label"),),
    keys=("key",),
)


@pytest.fixture(autouse=True)
def small_units():
    """Units of 64 rows and chunks of 16, so that units cut row groups, and several chunks make one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "UNIT_ROWS", 64)
        patch.setattr(footprint, "CHUNK_ROWS", 16)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    for file in range(FILES):
        row = np.arange(file * GROUP * GROUPS, (file + 1) * GROUP * GROUPS)
        rows = pa.table(
            {
                "row": row,
                "path": [list(range(r, r + r % 4)) for r in row],
                "tags": [[r, r + 1][: r % 3] for r in row],
                "shares": [[0.5, 0.25][: r % 3] for r in row],
                "label": (row % 2).astype(np.int8),
                "key": [f"key {r}" for r in row],
            }
        )
        pq.write_table(rows, folder / f"{file}.parquet", row_group_size=GROUP, write_page_checksum=True)
    return folder


def damage(file: Path, group: int, column: int = 0) -> None:
    """Flips a byte of the last page of a row group."""
    chunk = pq.ParquetFile(file).metadata.row_group(group).column(column)
    end = (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size
    data = bytearray(file.read_bytes())
    data[end - 1] ^= 1
    file.write_bytes(data)


def copy(whole: Path, folder: Path, damaged: set[int]) -> Path:
    folder.mkdir()
    for file in range(FILES):
        (folder / f"{file}.parquet").write_bytes((whole / f"{file}.parquet").read_bytes())
    for number in damaged:
        damage(folder / f"{number // GROUPS}.parquet", number % GROUPS, column=number % 2)
    return folder


def load(folder: Path, **options: object) -> Loader:
    given = {"global_batch_size": 48, "lanes": 4, "window": 30, "seed": 3, "extra_columns": ("key",), **options}
    return Loader(DataSet.open(folder), SCHEMA, folder=".", **given)  # type: ignore[arg-type]


def live(loader: Loader, start: int = 0) -> list[list[int]]:
    """The rows of each batch, whose ids, labels and columns beside it are theirs."""
    found = []
    for batch, columns in loader.epoch_with_columns(1, start):
        rows = batch.rows[batch.live].tolist()
        assert batch.ids.to_dict()["row"].values().tolist() == rows
        paths = [x for r in rows for x in list(range(r, r + r % 4))[-3:]]
        assert batch.ids.to_dict()["path"].values().tolist() == paths
        assert batch.labels["label"][: len(rows)].tolist() == [r % 2 for r in rows]
        assert columns.column("key").to_pylist() == [f"key {r}" for r in rows]
        found.append(rows)
    return found


def numbers_of(loader: Loader) -> set[int]:
    """The row groups that were left out."""
    return {group + GROUPS * int(Path(file).stem) for file, group in loader.bad_groups}


numbers = st.sets(st.integers(0, FILES * GROUPS - 1), min_size=1, max_size=6)


@given(damaged=numbers, world_size=st.integers(1, 6), start=st.integers(0, 12), whole_rows=st.sampled_from([16, 10**6]))
@settings(max_examples=25)
def test_batches_are_what_they_were_without_the_rows_of_damaged_row_groups(
    whole: Path,
    tmp_path_factory: pytest.TempPathFactory,
    damaged: set[int],
    world_size: int,
    start: int,
    whole_rows: int,
) -> None:
    """On each of any number of ranks, and from any step on, also where row groups are too large for memory."""
    folder = copy(whole, tmp_path_factory.mktemp("damaged") / "data", damaged)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(footprint, "RUN_BYTES", whole_rows * 100)
        for rank in range(world_size):
            place = {"rank": rank, "world_size": world_size, "prefetch": 0}
            skipping = load(folder, **place, skips_bad=True)
            left = [[r for r in rows if r // GROUP not in damaged] for rows in live(load(whole, **place), start)]
            assert live(skipping, start) == left
            assert numbers_of(skipping) <= damaged


def test_what_is_left_out_is_counted_and_named(whole: Path, tmp_path: Path) -> None:
    folder = copy(whole, tmp_path / "data", {2, 7})
    loader = load(folder, skips_bad=True)
    rows = live(loader)
    missing = set(range(ROWS)) - {r for batch in rows for r in batch}
    assert missing == {r for r in range(ROWS) if r // GROUP in (2, 7)}
    assert sum(loader.bad_rows(step, len(of_step)) for step, of_step in enumerate(rows)) == len(missing)
    assert numbers_of(loader) == {2, 7}
    why = loader.bad_groups[f"{folder}/1.parquet", 2]
    assert why.startswith(f"{folder}/1.parquet: row group 2 cannot be decoded")


def test_reader_processes_leave_out_the_same(whole: Path, tmp_path: Path) -> None:
    folder = copy(whole, tmp_path / "data", {1, 6, 13})
    here, apart = load(folder, skips_bad=True), load(folder, skips_bad=True, readers=2)
    assert live(apart) == live(here)
    assert apart.bad_groups == here.bad_groups and numbers_of(apart) == {1, 6, 13}


@pytest.mark.parametrize("how", ["removed", "cut short", "another"])
def test_a_file_that_goes_bad_in_mid_epoch(whole: Path, tmp_path: Path, how: str) -> None:
    """Whole row groups are missing from then on; by default it is an error that names the file."""
    file = copy(whole, tmp_path / "data", set()) / "1.parquet"
    skipping, strict = (
        load(file.parent, global_batch_size=20, lanes=1, prefetch=0, skips_bad=skips_bad) for skips_bad in (True, False)
    )
    batches = [iter(loader.epoch(0)) for loader in (skipping, strict)]
    rows, _ = (next(of).rows.tolist() for of in batches)
    if how == "removed":
        file.unlink()
    elif how == "cut short":
        os.truncate(file, 2_000)
    else:
        (file.parent / "new").write_bytes((whole / "2.parquet").read_bytes())
        os.replace(file.parent / "new", file)
    rows += [r for batch in batches[0] for r in batch.rows[batch.live].tolist()]
    missing = set(range(ROWS)) - set(rows)
    assert missing and len(rows) == len(set(rows))
    in_file = range(GROUP * GROUPS, 2 * GROUP * GROUPS)
    assert missing <= set(in_file)
    with pytest.raises(UserError, match=r"1\.parquet: (changed after the start|no longer there|not a readable)"):
        list(batches[1])


def test_values_that_the_schema_forbids_stay_errors(whole: Path, tmp_path: Path) -> None:
    folder = copy(whole, tmp_path / "data", set())
    rows = pq.read_table(folder / "2.parquet")
    pq.write_table(rows.set_column(0, "row", pa.array([-1] * len(rows))), folder / "2.parquet", row_group_size=GROUP)
    with pytest.raises(UserError, match=r"2\.parquet"):
        live(load(folder, skips_bad=True))
