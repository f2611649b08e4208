"""`shardrec checkpoint export` and `import`: tables as Parquet, out of a run and into a copy of it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from shardrec.sharding.checkpoints import saved_tables
from shardrec.sharding.checkpoints import shard_files as checkpoint_module
from shardrec.trainer.checkpoints.manifest import read_manifest
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.tables import export as table_export
from shardrec.trainer.tables import incoming_rows
from tests.trainer.command_line import refused, shardrec
from tests.trainer.recorded import tower, train, whole_tables
from tests.trainer.saved_runs import ITEMS, SETTINGS, USERS, saved_again, trained_run, write_named_data
from tests.trainer.small_run import run_file

LAST = 8


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Step 2 as three ranks of another plan would have written it, and steps 4, 6 and 8 of one."""
    folder = tmp_path_factory.mktemp("exchange")
    write_named_data(folder / "data")
    run = trained_run(folder)
    placements = {"user": "row_wise", "item": "column_wise", "kind": "row_wise", "tags": "column_wise"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_module, "CHUNK_BYTES", 600)
        again = saved_again(run, 2, folder / "again", 3, placements)
    shutil.rmtree(run / "checkpoints/step-2")
    again.rename(run / "checkpoints/step-2")
    RunFolder(run).mark_best(LAST)
    return run


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that the tables of this run have many."""
    monkeypatch.setattr(table_export, "BLOCK_BYTES", 400)
    monkeypatch.setattr(table_export, "PART_BYTES", 900)
    monkeypatch.setattr(incoming_rows, "BLOCK_BYTES", 700)
    monkeypatch.setattr(saved_tables, "BLOCK_BYTES", 500)


def tables(run: Path, step: int) -> dict[str, dict[str, torch.Tensor]]:
    return whole_tables(run / f"checkpoints/step-{step}")


def vectors(found: pa.Table, column: str = "vector") -> np.ndarray:
    return np.array(found[column].to_pylist(), np.float32)


def write_rows(path: Path, ids: Any, values: Any, kind: pa.DataType | None = None) -> Path:
    kind = kind or pa.list_(pa.float32(), len(values[0]))
    pq.write_table(pa.table({"id": pa.array(ids), "vector": pa.array([list(v) for v in values], kind)}), path)
    return path


# ---------------------------------------------------------------- export


@pytest.mark.parametrize("step", [2, LAST])
@pytest.mark.parametrize("table", ["user", "item", "kind", "tags", "shelves"])
def test_exported_by_row_number(
    run: Path,
    table: str,
    step: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All rows and all state, of either plan, in several files and row groups; fp16 is float32 in the files."""
    asked = ("--table", table, "--out", tmp_path / "out", "--step", step, "--state", "--rows")
    shardrec(monkeypatch, "checkpoint", "export", run, *asked)
    assert "ids: row numbers (as asked for)" in capsys.readouterr().out
    expected = tables(run, step)[table]
    found = pq.read_table(tmp_path / "out")
    assert found["id"].to_pylist() == list(range(len(expected["weight"])))
    assert set(found.column_names) == {"id", "vector", *expected} - {"weight"}
    assert found["vector"].type == pa.list_(pa.float32(), 5)
    for name, tensor in expected.items():
        column = "vector" if name == "weight" else name
        assert np.array_equal(vectors(found, column), tensor.float().numpy())
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) > (5 if table == "user" else 0)
    about = json.loads(pq.read_schema(files[-1]).metadata[b"shardrec"])
    assert (about["table"], about["step"], about["ids"]) == (table, step, "row numbers")
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(("table", "values"), [("item", ITEMS), ("user", USERS)])
def test_exported_by_vocabulary(
    run: Path,
    table: str,
    values: list,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of raw strings, and of numbers by which the rows were prepared; rows that have no id stay away."""
    shardrec(monkeypatch, "checkpoint", "export", run, "--table", table, "--out", tmp_path / "out")
    printed = capsys.readouterr().out
    assert f"ids: values of vocabularies/{table}.parquet" in printed
    assert f"left out: {1 + (table == 'item')} row(s) of unknown and missing values" in printed
    found = pq.read_table(tmp_path / "out")
    assert found.column_names == ["id", "vector"]
    assert found["id"].to_pylist() == values
    weight = tables(run, LAST)[table]["weight"].float().numpy()
    assert np.array_equal(vectors(found), weight[1 : 1 + len(values)])


def test_tables_without_a_vocabulary_say_why(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shardrec(monkeypatch, "checkpoint", "export", run, "--table", "kind", "--out", tmp_path / "out")
    assert "ids: row numbers (the ids of the data)" in capsys.readouterr().out
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    (copied / "vocabularies/user.parquet").unlink()
    shardrec(monkeypatch, "checkpoint", "export", copied, "--table", "user", "--out", tmp_path / "users")
    assert "ids: row numbers (vocabularies/user.parquet is not in the run folder)" in capsys.readouterr().out
    pq.write_table(pa.table({"value": ITEMS[1:]}), copied / "vocabularies/item.parquet")
    line = refused(monkeypatch, "checkpoint", "export", copied, "--table", "item", "--out", tmp_path / "items")
    assert "item.parquet: holds 89 values, the schema expects 90" in line


def test_export_refuses_and_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    asked = ("checkpoint", "export", run, "--out", tmp_path / "out", "--table")
    assert "not empty; name another --out" in refused(monkeypatch, *asked, "user")
    assert "unknown table 'users'; did you mean 'user'?" in refused(monkeypatch, *asked, "users")
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    (file,) = (copied / "checkpoints/step-8/tables").glob("user.*")
    data = file.read_bytes()
    file.write_bytes(data[:-1300] + b"x" + data[-1299:])
    line = refused(monkeypatch, "checkpoint", "export", copied, "--table", "user", "--state", "--out", tmp_path / "new")
    assert str(file) in line and "have changed" in line
    assert sorted(os.listdir(tmp_path)) == ["out", "run"]


# ---------------------------------------------------------------- import


@pytest.mark.parametrize("table", ["user", "item", "kind", "tags"])
def test_what_is_exported_comes_in_bit_for_bit(
    run: Path, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step's rows into step 2, whose files are three ranks'. Nothing else differs from step 2."""
    out = tmp_path / "new"
    shardrec(
        monkeypatch, "checkpoint", "export", run, "--table", table, "--out", tmp_path / "rows", "--rows", "--step", 8
    )
    shardrec(
        monkeypatch, "checkpoint", "import", run, "--table", table, "--data", tmp_path / "rows", "--out", out,
        "--rows", "--step", 2,
    )  # fmt: skip
    before, after, source = tables(run, 2), tables(out, 2), tables(run, LAST)
    assert torch.equal(after[table].pop("weight"), source[table]["weight"])
    z = after[table].pop("z", None)
    assert not any(state.any() for state in after[table].values())
    if z is not None:  # so that a step with a gradient of 0 leaves the weights
        weight = source[table]["weight"]
        torch.testing.assert_close(z, -weight * (1 / 0.1) - weight.sign() * 0.01)
    for name in before.keys() - {table}:
        for tensor, values in before[name].items():
            assert torch.equal(values, after[name][tensor])
    at = [folder / "checkpoints/step-2" for folder in (run, out)]
    assert all(torch.equal(t, tower(at[1])[name]) for name, t in tower(at[0]).items())
    linked = [a for a in (at[0] / "tables").iterdir() if a.samefile(at[1] / "tables" / a.name)]
    assert len(linked) == len(list((at[0] / "tables").iterdir())) - len(list((at[0] / "tables").glob(f"{table}.*")))
    shardrec(monkeypatch, "checkpoint", "show", out)  # checks every byte of the copy
    assert sorted(os.listdir(tmp_path)) == ["new", "rows"]


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
@pytest.mark.parametrize("lists", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 5)])
def test_only_the_rows_that_are_named_change(
    run: Path, kind: pa.DataType, lists: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By raw ids in any order, from two files, unknown ones left out; fp16 rows are rounded to nearest."""
    draw = np.random.default_rng(3)
    chosen = draw.permutation(90)[:40]
    values = draw.normal(size=(40, 5)).astype(kind.to_pandas_dtype())
    (tmp_path / "in").mkdir()
    write_rows(tmp_path / "in/b.parquet", [ITEMS[n] for n in chosen[:30]], values[:30], lists(kind))
    ids = ["who", *(ITEMS[n] for n in chosen[30:]), "i90", "who"]
    more = np.concatenate([np.full((1, 5), 7.0), values[30:], np.full((2, 5), 8.0)])
    write_rows(tmp_path / "in/a.parquet", pa.array(ids).dictionary_encode(), more, lists(kind))
    asked = ("--table", "item", "--data", tmp_path / "in", "--out", tmp_path / "new", "--step", 2)
    line = refused(monkeypatch, "checkpoint", "import", run, *asked)
    assert "a.parquet, row 0, column 'id': 'who' is not one of the values of vocabularies/item.parquet" in line
    assert "(3 of 43 ids are not); --skip-unknown" in line
    shardrec(monkeypatch, "checkpoint", "import", run, *asked, "--skip-unknown")
    before, after = tables(run, 2)["item"], tables(tmp_path / "new", 2)["item"]
    expected = before["weight"].clone()
    expected[torch.from_numpy(chosen) + 1] = torch.from_numpy(values).half()
    assert torch.equal(after["weight"], expected)
    state = before["accumulator"].clone()
    state[torch.from_numpy(chosen) + 1] = 0
    assert state.any() and torch.equal(after["accumulator"], state)


def test_the_new_folder_is_a_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is evaluated, scored with, started from and gone on with, under its own name."""
    data, new = run.parent / "data", tmp_path / "new"
    weight = tables(run, 4)["user"]["weight"]
    rows = write_rows(tmp_path / "rows.parquet", USERS, np.full((300, 5), 0.25))
    shardrec(monkeypatch, "checkpoint", "import", run, "--table", "user", "--data", rows, "--out", new, "--step", 4)
    assert RunFolder(new).steps() == [4] and RunFolder(new).summary() is None
    content = read_manifest(new / "checkpoints/step-4")
    assert content["position"]["best"] is None and content["position"]["step"] == 4
    capsys.readouterr()
    shardrec(monkeypatch, "evaluate", new, "--quiet")
    assert f"checkpoint step-4 of {new}" in capsys.readouterr().out
    shardrec(monkeypatch, "predict", new, "--data", data / "test", "--out", tmp_path / "scores", "--quiet")
    assert pq.read_table(tmp_path / "scores").num_rows == 225

    started = run_file(
        tmp_path / "started.yaml", data, **SETTINGS | {"trainer": {"max_steps": 1, "tensorboard": False}},
        init_from=[{"run": str(new), "tables": {"user": {}}}],
    )  # fmt: skip
    train(started, ("trainer.evaluation.at_start=true",))
    assert set(map(float, tables(tmp_path / "started", 0)["user"]["weight"][1:].flatten())) == {0.25}

    resumed = train(new / "config.yaml", ("trainer.epochs=3",), resume=True)
    assert resumed["first_step"] == 4 and resumed["steps"] == 12
    changed = tables(new, 12)["user"]["weight"]
    assert not torch.equal(changed, weight) and (changed[1:] - 0.25).abs().max() < 0.5


def test_a_file_with_another_kind_of_ids_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users are numbers both ways: row numbers taken for users would go to the wrong rows."""
    shardrec(monkeypatch, "checkpoint", "export", run, "--table", "user", "--out", tmp_path / "numbers", "--rows")
    asked = ("checkpoint", "import", run, "--table", "user", "--out", tmp_path / "new", "--data")
    line = refused(monkeypatch, *asked, tmp_path / "numbers")
    assert "its ids are row numbers, but values of vocabularies/user.parquet are expected; add --rows" in line
    shardrec(monkeypatch, "checkpoint", "export", run, "--table", "user", "--out", tmp_path / "users")
    line = refused(monkeypatch, *asked, tmp_path / "users", "--rows")
    assert "its ids are values of vocabularies/user.parquet, but row numbers are expected" in line
    file = next((tmp_path / "users").glob("*.parquet"))
    for said in ("{", "[]", '{"ids": 3}'):
        pq.write_table(pq.read_table(file).replace_schema_metadata({"shardrec": said}), file)
        assert f"its metadata under 'shardrec' is {said!r}, expected what" in refused(monkeypatch, *asked, file)


VECTOR = [0.5] * 5


@pytest.mark.parametrize(
    ("ids", "values", "said"),
    [
        ([4, 9, 4], [VECTOR] * 3, "row 2, column 'id': 4 is there a second time"),
        ([*range(40), 39], [VECTOR] * 41, "row 40, column 'id': 39 is there a second time"),
        ([4, 40], [VECTOR] * 2, "row 1, column 'id': 40 is not a row in [0, 40); --skip-unknown"),
        ([-1, 40, 3], [VECTOR] * 3, "row 0, column 'id': -1 is not a row in [0, 40) (2 of 3 ids are not)"),
        ([4, None], [VECTOR] * 2, "row 1, column 'id': found null, expected a row in [0, 40)"),
        (["4"], [VECTOR], "column 'id' is string, but the import expects integers (row numbers)"),
        ([4.0], [VECTOR], "column 'id' is double, but the import expects integers (row numbers)"),
        ([4], [[0.5] * 4], "row 0, column 'vector': vectors of 4 numbers, but the rows of table 'tags' have 5"),
        ([1, 2, 3], [VECTOR, VECTOR, [0.5]], "row 2, column 'vector': vectors of 1 numbers, but the rows"),
        ([1, 2], [VECTOR, None], "row 1, column 'vector': found null, expected a vector"),
        ([1, 2], [VECTOR, [0.5, None, 0.5, 0.5, 0.5]], "row 1, column 'vector': found null in a vector"),
        ([1, 2], [VECTOR, [0.5, 0.5, 0.5, np.nan, 0.5]], "row 1, column 'vector': found nan in a vector"),
        ([1], [[-np.inf] * 5], "row 0, column 'vector': found -inf in a vector, expected finite numbers"),
        ([1], [[1e39] * 5], "row 0, column 'vector': found a value beyond fp32, expected smaller numbers"),
        ([1], [["a"] * 5], "column 'vector' is list<element: string>, but the import expects lists of numbers"),
        ([1], [0.5], "column 'vector' is double, but the import expects lists of numbers"),
        ([], [], "no id of 0 is a row of table 'tags'"),
    ],
)
def test_rows_that_cannot_come_in(
    run: Path, ids: list, values: list, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = (None, None) if ids else (pa.int64(), pa.list_(pa.float64()))
    content = pa.table({"id": pa.array(ids, kinds[0]), "vector": pa.array(values, kinds[1])})
    pq.write_table(content, tmp_path / "rows.parquet")
    asked = ("--table", "tags", "--data", tmp_path / "rows.parquet", "--out", tmp_path / "new")
    line = refused(monkeypatch, "checkpoint", "import", run, *asked)
    assert said in line and "rows.parquet" in line
    assert os.listdir(tmp_path) == ["rows.parquet"]


def test_other_bad_input(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"id": [1], "vectors": [VECTOR]}), tmp_path / "rows.parquet")
    asked = ("checkpoint", "import", run, "--data", tmp_path / "rows.parquet", "--out", tmp_path / "new", "--table")
    line = refused(monkeypatch, *asked, "tags")
    assert "unknown column 'vector'; did you mean 'vectors'?" in line
    shardrec(monkeypatch, *asked, "tags", "--vector-column", "vectors")
    assert "new: not empty; name another --out" in refused(monkeypatch, *asked, "tags")
    fixed = write_rows(tmp_path / "fixed.parquet", [1], [[0.5] * 6], pa.list_(pa.float32(), 6))
    narrow = ("--table", "tags", "--data", fixed, "--out", tmp_path / "b")
    said = "column 'vector': vectors of 6 numbers, but the rows of table 'tags' have 5 columns"
    assert said in refused(monkeypatch, "checkpoint", "import", run, *narrow)
    assert "unknown table 'tag'; did you mean 'tags'?" in refused(monkeypatch, *asked, "tag")
    missing = ("--table", "tags", "--data", tmp_path / "none", "--out", tmp_path / "b")
    assert "none: no such Parquet file" in refused(monkeypatch, "checkpoint", "import", run, *missing)
    (tmp_path / "text.parquet").write_text("id,vector")
    broken = ("--table", "tags", "--data", tmp_path / "text.parquet", "--out", tmp_path / "b")
    assert "text.parquet: not a readable Parquet file" in refused(monkeypatch, "checkpoint", "import", run, *broken)


def test_damage_is_not_written_over(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed byte beside the row that comes in would else get a checksum that fits."""
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    (file,) = (copied / "checkpoints/step-8/tables").glob("tags.*")
    data = bytearray(file.read_bytes())
    data[5000] ^= 1
    file.write_bytes(data)
    rows = write_rows(tmp_path / "rows.parquet", [0], [VECTOR])
    asked = ("--table", "tags", "--data", rows, "--out", tmp_path / "new")
    line = refused(monkeypatch, "checkpoint", "import", copied, *asked)
    assert str(file) in line and "have changed" in line
    assert sorted(os.listdir(tmp_path)) == ["rows.parquet", "run"]


@pytest.mark.parametrize("seed", range(3))
def test_duplicates_are_found_wherever_they_are(seed: int) -> None:
    """The bitmap against a plain set, batch by batch."""
    draw = np.random.default_rng(seed)
    seen, known = np.zeros(13, np.uint8), set()
    for _ in range(30):
        rows = draw.choice(100, size=draw.integers(0, 8))
        rows[draw.random(len(rows)) < 0.2] = -1
        counted = [r for r in rows.tolist() if r >= 0]
        twice = [i for i, r in enumerate(rows) if r >= 0 and (r in known or r in rows[:i])]
        found = incoming_rows.mark(seen, rows)
        assert found == (twice[0] if twice else None)
        if not twice:
            known |= set(counted)
    assert known and np.flatnonzero(np.unpackbits(seen, bitorder="little")).tolist() == sorted(known)
