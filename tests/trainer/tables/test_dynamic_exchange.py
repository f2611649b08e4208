"""Dynamic tables whose ids a vocabulary names, or the data number: out of a run as they are called, and in again."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from shardrec.trainer.checkpoints.saved_model import SavedModel
from tests.trainer.command_line import refused, shardrec
from tests.trainer.dynamic_runs import ids_of, rows_by_id, tables
from tests.trainer.saved_runs import ITEMS, SETTINGS, USERS, trained_run, write_named_data

LAST = 4
NUMBERS = "ids that the schema makes"
DYNAMIC = {
    "item": {"dtype": "fp16", "dynamic": {"rows": 240}},
    "user": {"dynamic": {"rows": 640}},
    "tags": {"dynamic": {"rows": 64}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows for all items (strings), users (numbers by which they were prepared) and tags (plain ids)."""
    folder = tmp_path_factory.mktemp("exchange")
    write_named_data(folder / "data")
    return trained_run(folder, tables=DYNAMIC, trainer=SETTINGS["trainer"] | {"epochs": 1})


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `shardrec checkpoint`; what it prints."""

    def run_command(*arguments: object) -> str:
        shardrec(monkeypatch, "checkpoint", *arguments)
        return capsys.readouterr().out

    return run_command


def write_rows(path: Path, ids: Any, values: torch.Tensor) -> Path:
    pq.write_table(pa.table({"id": pa.array(ids), "vector": values.tolist()}), path)
    return path


@pytest.mark.parametrize(("table", "values"), [("item", ITEMS), ("user", USERS)])
def test_a_vocabulary_names_the_ids(
    run: Path,
    table: str,
    values: list,
    tmp_path: Path,
    said: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Value -> row of the vocabulary -> row of the table; the ids of unknown and missing values have no name."""
    held = rows_by_id(run, table, LAST)
    named = {values[i - 1]: row for i, row in held.items() if 1 <= i <= len(values)}
    assert len(named) == len(held) - 2 if table == "item" else {0, *range(1, 301)} >= held.keys()
    printed = said("export", run, "--table", table, "--step", LAST, "--out", tmp_path / "out")
    assert f"ids: values of vocabularies/{table}.parquet\n" in printed
    assert "row(s) that are free or the default row, or of unknown and missing values" in printed
    found, weight = pq.read_table(tmp_path / "out"), tables(run, LAST)[table]["weight"]
    assert dict(zip(found["id"].to_pylist(), found["vector"].to_pylist(), strict=True)) == {
        value: weight[row].tolist() for value, row in named.items()
    }
    about = json.loads(pq.read_schema(tmp_path / "out/part-00000.parquet").metadata[b"shardrec"])
    assert about["ids"] == f"values of vocabularies/{table}.parquet"

    chosen = [*named][3:40]
    vectors = torch.arange(37 * 5.0).view(37, 5)
    unknown = "who" if table == "item" else 3  # a number of a row, but no user
    rows = write_rows(tmp_path / "rows.parquet", [unknown, *chosen], torch.cat([torch.ones(1, 5), vectors]))
    asked = ("import", run, "--table", table, "--data", rows, "--step", LAST, "--out", tmp_path / "new")
    line = refused(monkeypatch, "checkpoint", *asked)
    assert f"{unknown!r} is not one of the values of vocabularies/{table}.parquet that has a row, or for which" in line
    assert "new:" not in said(*asked, "--skip-unknown")
    weight[[named[value] for value in chosen]] = vectors.to(weight.dtype)
    assert torch.equal(tables(tmp_path / "new", LAST)[table]["weight"], weight)


def test_a_value_that_has_no_row_gets_a_free_one(run: Path, tmp_path: Path, said: Callable[..., str]) -> None:
    """Under the number that the vocabulary gives it, by which data name it."""
    new = [i for i in range(1, 301) if i not in rows_by_id(run, "user", LAST - 2)]
    rows = write_rows(tmp_path / "rows.parquet", [USERS[i - 1] for i in new], torch.full((len(new), 5), 0.5))
    out = tmp_path / "new"
    printed = said("import", run, "--table", "user", "--data", rows, "--step", LAST - 2, "--out", out)
    assert new and f"new: {len(new)} ids" in printed
    held = rows_by_id(out, "user", LAST - 2)
    assert (tables(out, LAST - 2)["user"]["weight"][[held[i] for i in new]] == 0.5).all()


@pytest.mark.parametrize("strange", [-7, 40, 5_000_000])
def test_ids_that_no_data_can_name_are_refused(
    run: Path, strange: int, tmp_path: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert int((ids_of(run, "tags", LAST)["count"] == 0).sum()) == 24  # rows are free
    rows = write_rows(tmp_path / "rows.parquet", [39, strange], torch.ones(2, 5))
    asked = ("import", run, "--table", "tags", "--data", rows, "--step", LAST, "--out", tmp_path / "new")
    line = refused(monkeypatch, "checkpoint", *asked)
    assert f"row 1, column 'id': {strange} is not an id in [0, 40) that has a row, or for which one is free" in line
    assert f"ids: {NUMBERS} (the ids of the data)\n" in said(*asked, "--skip-unknown")
    assert rows_by_id(tmp_path / "new", "tags", LAST) == rows_by_id(run, "tags", LAST)
    strings = write_rows(tmp_path / "strings.parquet", ["39"], torch.ones(1, 5))
    line = refused(
        monkeypatch, "checkpoint", "import", run, "--table", "tags", "--data", strings, "--out", tmp_path / "b"
    )
    assert f"column 'id' is string, but the import expects integers ({NUMBERS})" in line


def test_ids_of_the_data_and_numbers_of_rows_are_told_apart(
    run: Path, tmp_path: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said("export", run, "--table", "tags", "--step", LAST, "--out", tmp_path / "ids")
    assert sorted(pq.read_table(tmp_path / "ids")["id"].to_pylist()) == list(range(40))
    asked = ("import", run, "--table", "tags", "--step", LAST, "--out", tmp_path / "new", "--data")
    line = refused(monkeypatch, "checkpoint", *asked, tmp_path / "ids", "--rows")
    assert f"its ids are {NUMBERS}, but row numbers are expected" in line


def test_what_is_linked_is_on_disk_before_the_manifest_is_read(
    run: Path, tmp_path: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the folder of id maps, none of which an import without new ids writes."""
    synced, sync = [], os.fsync

    def record(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    rows = write_rows(tmp_path / "rows.parquet", [3], torch.ones(1, 5))
    monkeypatch.setattr(os, "fsync", record)
    said("import", run, "--table", "tags", "--data", rows, "--step", LAST, "--out", tmp_path / "new")
    assert len(SavedModel.read(tmp_path / f"new/checkpoints/step-{LAST}").id_maps) == 3
    assert {"tables", "id_maps", f"step-{LAST}"} <= {path.name for path in synced}
