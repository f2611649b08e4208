"""Commands on checkpoints with dynamic tables: what they say, what goes out and comes in, and what starts from them."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.hashing import hash_array
from shardrec.models.dynamic_ids import DynamicIds
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.checkpoints import saved_tables
from shardrec.sharding.checkpoints.id_maps import merged_id_maps, read_id_maps, saved_ids, write_id_maps
from shardrec.sharding.dynamic.id_map import IdMap
from shardrec.sharding.dynamic.set_cache import UNUSED
from shardrec.sharding.tables.first_values_by_id import draw_rows
from shardrec.trainer.checkpoints.manifest import read_manifest, write_manifest
from shardrec.trainer.checkpoints.saved_model import DeclaredTable
from shardrec.trainer.config.load import load
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.tables import export as table_export
from shardrec.trainer.tables import incoming_rows
from shardrec.trainer.training.trainer import Trainer
from tests.trainer.command_line import refused, shardrec
from tests.trainer.dynamic_runs import (
    HASHED_ROWS,
    LAST,
    SETTINGS,
    TAGS,
    dynamic_run,
    ids_of,
    rows_by_id,
    tables,
    trained_on,
    write_raw_data,
)
from tests.trainer.recorded import tower, train
from tests.trainer.stage_files import written

DEFAULT = 640  # the row of users that have none: 600 are made up to whole buckets


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_raw_data(tmp_path_factory.mktemp("dynamic") / "data").parent


@pytest.fixture(scope="module")
def run(root: Path) -> Path:
    """Steps 2 and 4, the end of the only epoch."""
    path = dynamic_run(root)
    RunFolder(path).mark_best(2)
    return path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_export, "BLOCK_BYTES", 400)
    monkeypatch.setattr(table_export, "PART_BYTES", 4000)
    monkeypatch.setattr(incoming_rows, "BLOCK_BYTES", 700)
    monkeypatch.setattr(saved_tables, "BLOCK_BYTES", 500)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command; what it prints."""

    def run_command(*arguments: object, status: int = 0) -> str:
        shardrec(monkeypatch, *arguments, status=status)
        return capsys.readouterr().out

    return run_command


# ---------------------------------------------------------------- tables


def test_report_is_what_was_counted(run: Path, said: Callable[..., str]) -> None:
    """Users all have a row, so that the data say what their map must hold; items are crowded."""
    found = json.loads(said("tables", run, "--json"))
    assert found["step"] == LAST and found["checkpoint"] == str(run / f"checkpoints/step-{LAST}")
    users, user = Counter(trained_on(run, "user")), found["id_maps"]["user"]
    assert user["tables"] == ["wide/user", "deep/user"] and user["rows"] == DEFAULT
    assert user["occupied"] == user["admissions"] == len(users) and user["occurrences"] == sum(users.values())
    assert [user[w] for w in ("evictions", "churn", "refused", "candidates", "forgotten")] == [0] * 5
    used, step = ids_of(run, "user"), LAST
    assert user["oldest_use"] == step - int(used["last_use"][used["count"] > 0].min()) == LAST
    item, columns = found["id_maps"]["item"], ids_of(run, "item")
    assert item["occupied"] == int((columns["count"] > 0).sum()) == item["admissions"] - item["evictions"]
    assert item["churn"] == item["evictions"] / item["occupied"] > 0
    assert item["occurrences"] == int(columns["count"].sum()) < len(trained_on(run, "item"))
    assert 1 <= item["oldest_use"] <= LAST and 0 < item["candidates"] <= 32

    for name, table in found["tables"].items():
        weight = tables(run)[name]["weight"].double()
        kind = name.split("/")[1]
        if kind in ("user", "item"):
            alive = torch.tensor([*rows_by_id(run, kind).values()])
            assert (table["dynamic"], table["ids"], table["collisions"]) == (kind, "raw", None)
            assert table["rows"] == len(weight) == table["updated"] + table["dead"] + 1
        else:
            named = trained_on(run, "tags") if kind == "tags" else hash_array(pa.array(trained_on(run, "user")))
            named = {i for tags in named for i in tags} if kind == "tags" else {int(h) % HASHED_ROWS for h in named}
            alive = torch.tensor(sorted(named))
            assert table["dynamic"] is None and table["dead"] == table["rows"] - len(alive)
            assert table["rows"] == (TAGS if kind == "tags" else HASHED_ROWS + 1)
        assert table["updated"] == len(alive)
        norms = weight[alive].norm(dim=1)
        assert sum(n for *_, n in table["norms"]["bins"]) + table["norms"]["zero"] == len(alive)
        assert table["norms"]["mean"] == pytest.approx(float(norms.mean()))
        assert table["norms"]["largest"] == pytest.approx(float(norms.max()))
    hashed = found["tables"]["deep/visitor"]
    assert hashed["judged_by"] == "the optimizer's accumulator" and found["tables"]["deep/tags"]["collisions"] is None
    assert found["tables"]["deep/tags"]["judged_by"] == "their first values"
    estimate = hashed["collisions"]
    assert abs(estimate["distinct_ids"] - len(users)) < 4 * estimate["deviation"]
    of_row = Counter(int(h) % HASHED_ROWS for h in hash_array(pa.array(list(users))))
    shared = sum(n for n in of_row.values() if n > 1) / len(users)
    assert estimate["shared"] == pytest.approx(shared, abs=0.1)


def printed_row(lines: list[str], name: str) -> list[str]:
    """The words of a table's row, which wide tables go on with in a further block."""
    return [name, *(word for line in lines if line.split()[:1] == [name] for word in line.split()[1:])]


def test_report_in_print(run: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = said("tables", run, "--step", 2).splitlines()
    assert lines[0] == f"{run}/checkpoints/step-2:"
    line = printed_row(lines, "deep/tags")
    assert line[1:4] == ["identity", str(TAGS), "4"] and line[7:9] == ["-", "-"]
    line = printed_row(lines, "deep/visitor")
    assert line[1] == "hash" and line[8] == "±"
    line = printed_row(lines, "user")
    assert line[1] == str(DEFAULT) and line[4] == line[2] and line[-2:] == ["2", "steps"]
    title = lines.index("deep/user: norms of used rows, by its id map")
    assert "█" in lines[title + 1] and lines[title + 1].split()[1] == "to"
    assert "no complete checkpoint of step 3" in refused(monkeypatch, "tables", run, "--step", 3)


# ---------------------------------------------------------------- show and diff


def test_show_reads_id_maps(
    run: Path, tmp_path: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = json.loads(said("checkpoint", "show", run, "--step", LAST, "--json"))
    folder = run / f"checkpoints/step-{LAST}/id_maps"
    assert found["tables"]["wide/item"]["dynamic"] == "item" and found["tables"]["wide/tags"]["dynamic"] is None
    for name, facts in found["id_maps"].items():
        files = list(folder.glob(f"{name}.*"))
        assert facts["bytes"] == sum(f.stat().st_size for f in files) and facts["files"] == len(files)
        assert facts["occupied"] == len(rows_by_id(run, name))
    assert found["id_maps"]["item"]["files"] == 2 and found["id_maps"]["item"]["candidates"] > 0
    (line,) = (x.split() for x in said("checkpoint", "show", run).splitlines() if x.split()[:1] == ["user"])
    assert line[1] == str(DEFAULT)
    copied = Path(shutil.copytree(run / "checkpoints/step-2", tmp_path / "step-2"))
    (file,) = (copied / "id_maps").glob("item.candidates.*")
    data = file.read_bytes()
    file.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    line = refused(monkeypatch, "checkpoint", "show", copied)
    assert str(file) in line and "'candidate_last_use' have changed" in line
    said("checkpoint", "show", copied, "--no-values")
    file.write_bytes(data[:-1])
    assert f"{file}: cut short" in refused(monkeypatch, "checkpoint", "show", copied, "--no-values")


def test_diff_compares_id_maps(run: Path, tmp_path: Path, said: Callable[..., str]) -> None:
    found = json.loads(said("checkpoint", "diff", run, run / f"checkpoints/step-{LAST}", "--json", status=1))
    differing = {d["name"]: d for d in found["differences"] if d["name"].startswith("id map")}
    one, other = (ids_of(run, "user", step) for step in (2, LAST))
    for column in one:
        unequal = (one[column] != other[column]).nonzero().squeeze(1)
        assert differing[f"id map user, {column}"]["differing"] == len(unequal) > 0
    assert differing["id map user"]["what"] == "admissions" and found["equal_id_maps"] == 0
    assert "largest" not in str(differing["id map user, id"]["largest"])
    printed = said("checkpoint", "diff", run, run / f"checkpoints/step-{LAST}", status=1)
    (line,) = (x for x in printed.splitlines() if x.startswith("id map user, id:"))
    assert line.endswith(f"first row {differing['id map user, id']['first']}")


def test_a_map_of_three_ranks_is_the_same(run: Path, tmp_path: Path, said: Callable[..., str]) -> None:
    at = run / f"checkpoints/step-{LAST}"
    again = Path(shutil.copytree(at, tmp_path / "again"))
    shutil.rmtree(again / "id_maps")
    content, written_by = read_manifest(at), []
    for rank in range(3):
        parts = {}
        for name, space in saved_maps(content).items():
            every = space.geometry.buckets
            cut = range(every * rank // 3, every * (rank + 1) // 3)
            parts[name] = IdMap(space.config, name=name, seed=0, buckets=cut)
        read_id_maps(at, content["id_maps"], parts, leads=rank == 1)
        written_by.append(write_id_maps(again, parts))
    write_manifest(again / "manifest.json", {**content, "id_maps": merged_id_maps(written_by)})
    assert len(list((again / "id_maps").iterdir())) == 9
    assert "equal: 8 table(s), 2 id map(s)" in said("checkpoint", "diff", at, again)
    reports = []
    for folder in (at, again):
        facts = json.loads(said("checkpoint", "show", folder, "--json"))["id_maps"]
        reports.append({name: m | {"bytes": 0, "files": 0} for name, m in facts.items()})
    assert reports[0] == reports[1]


def saved_maps(content: dict[str, Any]) -> dict[str, DynamicIds]:
    return {name: saved_ids(name, said) for name, said in content["id_maps"].items()}


# ---------------------------------------------------------------- export and import


def test_export_names_rows_by_their_ids(run: Path, tmp_path: Path, said: Callable[..., str]) -> None:
    asked = ("checkpoint", "export", run, "--table", "deep/user", "--state", "--step", LAST, "--out")
    held, table = rows_by_id(run, "user"), tables(run)["deep/user"]
    printed = said(*asked, tmp_path / "out")
    assert f"left out: {DEFAULT + 1 - len(held)} row(s) that are free or the default row" in printed
    found = pq.read_table(tmp_path / "out")
    assert found["id"].to_pylist() == list(held) and -(2**63) in held and 2**63 - 1 in held
    for name, tensor in table.items():
        column = np.array(found["vector" if name == "weight" else name].to_pylist(), np.float32)
        assert np.array_equal(column, tensor[list(held.values())].float().numpy())
    assert len(list((tmp_path / "out").iterdir())) > 1
    about = json.loads(pq.read_schema(tmp_path / "out/part-00000.parquet").metadata[b"shardrec"])
    assert about["ids"] == "64-bit ids"
    said(*asked, tmp_path / "rows", "--rows")
    found = pq.read_table(tmp_path / "rows")
    assert found["id"].to_pylist() == list(range(DEFAULT + 1))
    assert np.array_equal(np.array(found["vector"].to_pylist()), table["weight"].float().numpy())


def test_ids_that_have_no_row_get_a_free_one(
    run: Path, tmp_path: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step's users into step 2, which had not seen all of them; the run then goes on."""
    out = tmp_path / "new"
    said("checkpoint", "export", run, "--table", "deep/user", "--step", LAST, "--out", tmp_path / "rows")
    asked = ("--table", "deep/user", "--data", tmp_path / "rows", "--step", 2, "--out", out)
    before, after, last = rows_by_id(run, "user", 2), {}, rows_by_id(run, "user")
    new = last.keys() - before.keys()
    assert len(new) > 20
    printed = said("checkpoint", "import", run, *asked)
    assert f"new: {len(new)} ids, which had no row" in printed and "left out" not in printed
    after = rows_by_id(out, "user", 2)
    assert after.keys() == last.keys() and before.items() <= after.items()
    columns, kept = ids_of(out, "user", 2), ids_of(run, "user", 2)
    fresh = torch.tensor([after[i] for i in new])
    others = torch.ones(DEFAULT, dtype=torch.bool).index_fill_(0, fresh, False)
    for name, value in (("count", 1), ("last_use", 1), ("admitted", 1)):
        assert (columns[name][fresh] == value).all()
    assert all(torch.equal(columns[name][others], kept[name][others]) for name in columns)
    counters = [read_manifest(r / "checkpoints/step-2")["id_maps"]["user"]["counters"] for r in (run, out)]
    assert counters[1] == counters[0] | {"admissions": counters[0]["admissions"] + len(new)}

    source, one, other = tables(run), tables(run, 2), tables(out, 2)
    for name in one:
        same = torch.ones(len(one[name]["weight"]), dtype=torch.bool)
        if name == "deep/user":
            same[list(after.values())] = False
            rows = [last[i] for i in after]
            assert torch.equal(other[name]["weight"][[*after.values()]], source[name]["weight"][rows])
            assert not other[name]["accumulator"][[*after.values()]].any()
        elif name == "wide/user":
            same[fresh] = False
            expected = draw_rows(declared(run, name), 0, columns["id"][fresh])
            assert torch.equal(other[name]["weight"][fresh], expected)
            assert not any(t[fresh].any() for n, t in other[name].items() if n != "weight")
        assert all(torch.equal(t[same], other[name][n][same]) for n, t in one[name].items())
    at = [r / "checkpoints/step-2" for r in (run, out)]
    assert all(torch.equal(t, tower(at[1])[name]) for name, t in tower(at[0]).items())
    linked = {f.name for f in (at[0] / "id_maps").iterdir() if f.samefile(at[1] / "id_maps" / f.name)}
    assert linked == {f.name for f in (at[0] / "id_maps").glob("item.*")}
    said("checkpoint", "show", out)  # checks every byte of the copy
    train(out / "config.yaml", resume=True)
    counts = ids_of(out, "user", LAST)["count"] - columns["count"]
    assert int(counts.sum()) == 901 - 480 and rows_by_id(out, "user", LAST) == after


def declared(run: Path, name: str) -> EmbeddingTable:
    return DeclaredTable.of(RunFolder.open(run), name).table


def test_items_for_which_no_row_is_free(
    run: Path, tmp_path: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strings, by their hashes, into a table whose rows are all taken: only those that have one change."""
    held = rows_by_id(run, "item")
    assert len(held) == len(ids_of(run, "item")["id"])
    names = [f"item {n}" for n in range(97)]
    values = torch.randn(97, 4)
    pq.write_table(pa.table({"id": names, "vector": values.tolist()}), tmp_path / "rows.parquet")
    asked = ("--table", "deep/item", "--data", tmp_path / "rows.parquet", "--step", LAST, "--out", tmp_path / "new")
    line = refused(monkeypatch, "checkpoint", "import", run, *asked)
    assert f"is not an id that has a row, or for which one is free ({97 - len(held)} of 97 ids are not)" in line
    printed = said("checkpoint", "import", run, *asked, "--skip-unknown")
    assert f"left out: {97 - len(held)} ids" in printed and "new:" not in printed
    rows = [held.get(int(h), -1) for h in hash_array(pa.array(names)).view(np.int64)]
    expected = tables(run)["deep/item"]["weight"]
    expected[[r for r in rows if r >= 0]] = values[[n for n, r in enumerate(rows) if r >= 0]]
    assert torch.equal(tables(tmp_path / "new")["deep/item"]["weight"], expected)
    printed = said("checkpoint", "diff", tmp_path / "new", run / f"checkpoints/step-{LAST}", status=1)
    assert {x.split(",")[0] for x in printed.splitlines() if "rows differ" in x} == {"table deep/item"}


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([77, 5, 77], "row 2, column 'id': 77 is there a second time"),
        ([-(2**63), 3, -(2**63)], "row 2, column 'id': -9223372036854775808 is there a second time"),
        ([1.5], "column 'id' is double, but the import expects integers or strings (64-bit ids)"),
        ([4, None], "row 1, column 'id': found null, expected an id that has a row"),
    ],
)
def test_ids_that_cannot_come_in(
    run: Path, ids: list[Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"id": ids, "vector": [[0.5] * 4] * len(ids)}), tmp_path / "rows.parquet")
    asked = ("--table", "deep/user", "--data", tmp_path / "rows.parquet", "--out", tmp_path / "new")
    assert message in refused(monkeypatch, "checkpoint", "import", run, *asked)
    assert [p.name for p in tmp_path.iterdir()] == ["rows.parquet"]


# ---------------------------------------------------------------- starting from such a run


def started(config: RunConfig, folder: RunFolder, environment: Environment) -> dict[str, Any]:
    """Saves what a run starts from as step 0."""
    trainer = Trainer(config, folder, environment)
    trainer.restore()
    trainer.save_checkpoint()
    return {}


def test_a_run_that_starts_from_a_whole_one(root: Path, run: Path, said: Callable[..., str]) -> None:
    """Ids keep their rows and counts; their last uses lie before its first step, as far as they lay behind."""
    path = written(root, "second", **SETTINGS | {"init_from": str(run)})
    config = load(path)
    launch(started, config, RunFolder.create(config, resume=False))
    new = root / "second"
    for space in ("user", "item"):
        before, after = ids_of(run, space, 2), ids_of(new, space, 0)
        held = before["count"] > 0
        assert torch.equal(before["id"], after["id"]) and torch.equal(before["count"], after["count"])
        assert torch.equal(before["last_use"][held] - 2, after["last_use"][held])
        assert (after["last_use"][held] < 0).all() and (after["last_use"][~held] == UNUSED).all()
        assert torch.equal(before["admitted"][held] - 2, after["admitted"][held])
    folders = (run / "checkpoints/step-2/id_maps", new / "checkpoints/step-0/id_maps")
    files = [load_file(next(folder.glob("*.candidates.*"))) for folder in folders]
    held = files[0]["candidate_count"] > 0
    assert held.any() and torch.equal(files[0]["candidate_last_use"][held] - 2, files[1]["candidate_last_use"][held])
    assert all(torch.equal(t, tables(new, 0)[name][n]) for name, its in tables(run, 2).items() for n, t in its.items())
    train(path, resume=True)
    users = Counter(trained_on(run, "user"))
    counts = ids_of(run, "user", 2), ids_of(new, "user", LAST)
    assert int(counts[1]["count"].sum() - counts[0]["count"].sum()) == sum(users.values())
    assert rows_by_id(run, "user", 2).items() <= rows_by_id(new, "user").items()
    found = json.loads(said("tables", new, "--step", 0, "--json"))
    assert found["id_maps"]["user"]["oldest_use"] == 2  # in the first step of the run before
    tags = found["tables"]["deep/tags"]
    assert (tags["updated"], tags["dead"], tags["judged_by"]) == (None, None, "its first values were another run's")
    assert sum(n for *_, n in tags["norms"]["bins"]) == TAGS


@pytest.mark.parametrize(
    ("changed", "source", "message"),
    [
        ({}, {"tables": {"deep/user": {}}}, "init_from: table 'deep/user' of {run} is dynamic, so that its rows"),
        ({}, {"tables": {"deep/item": {"from": "deep/tags"}}}, "init_from: table 'deep/item' of this run is dynamic"),
        ({}, {"tables": {"deep/tags": {"from": "deep/item"}}}, "init_from: table 'deep/item' of {run} is dynamic"),
        ({"*/user": {"dynamic": {"rows": 700}}}, {}, "the ids of 'user' have dynamic.rows 600 there and 700 here"),
        ({"*/item": {"dynamic": {"rows": 24}}}, {}, "the ids of 'item' have dynamic.after 2 there and 1 here"),
        ({"*/visitor": {"dynamic": True}}, {}, "is fixed in {run}, which is to be taken whole, and dynamic (ids of "),
    ],
)
def test_tables_that_cannot_be_taken(
    root: Path,
    run: Path,
    changed: dict[str, Any],
    source: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sections = SETTINGS | {"tables": SETTINGS["tables"] | changed, "init_from": [{"run": str(run), **source}]}
    path = written(tmp_path, "new", root / "data", **sections)
    assert message.format(run=run) in refused(monkeypatch, "train", path)
    assert not (tmp_path / "new").exists()


def test_a_checkpoints_dynamic_tables_are_refused_at_the_start_too(root: Path, run: Path, tmp_path: Path) -> None:
    """Where nothing looked at the run before, as in a worker that is started by itself."""
    path = written(tmp_path, "new", root / "data", **SETTINGS | {"init_from": [{"run": str(run), "tables": {"*": {}}}]})
    config = load(path)
    with pytest.raises(UserError, match=f"of {run} is dynamic"):
        launch(started, config, RunFolder.create(config, resume=False))
