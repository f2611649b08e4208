"""`shardrec checkpoint show` and `diff`: what they say is what the files hold; damage is named in one line."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from shardrec.sharding.checkpoints import saved_tables
from shardrec.sharding.checkpoints import shard_files as checkpoint_module
from shardrec.sharding.checkpoints.tables import write_tables
from shardrec.sharding.tables.live import LiveTable, TableShard
from shardrec.trainer.checkpoints.contents import summarise
from shardrec.trainer.checkpoints.manifest import read_manifest, write_manifest
from shardrec.trainer.run_folder.folder import RunFolder
from tests.sharding.checkpoints.test_saved_tables import TABLE
from tests.trainer.command_line import refused, shardrec
from tests.trainer.recorded import tower, whole_tables
from tests.trainer.saved_runs import saved_again, trained_run, write_named_data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps 2, 4, 6 and 8, of which the best is not the last."""
    folder = tmp_path_factory.mktemp("saved")
    write_named_data(folder / "data")
    path = trained_run(folder)
    RunFolder(path).mark_best(4)
    return path


@pytest.fixture
def damaged(run: Path, tmp_path: Path) -> Path:
    """A copy of a checkpoint for a test to damage."""
    return Path(shutil.copytree(run / "checkpoints/step-4", tmp_path / "step-4"))


# ---------------------------------------------------------------- show


def test_show_says_what_the_files_hold(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(saved_tables, "BLOCK_BYTES", 100)
    shardrec(monkeypatch, "checkpoint", "show", run, "--json")
    found = json.loads(capsys.readouterr().out)
    at = run / "checkpoints/step-4"
    assert (found["checkpoint"], found["step"], found["world_size"]) == (str(at), 4, 1)
    assert found["epoch"] == 1 and found["rows"] == 901 and found["step_in_epoch"] == 0
    tables = whole_tables(at)
    assert found["tables"].keys() == tables.keys()
    for name, tensors in tables.items():
        facts, weight = found["tables"][name], tensors["weight"].double().numpy()
        assert (facts["rows"], facts["dim"]) == weight.shape
        assert facts["dtype"] == ("fp16" if name == "item" else "fp32") and facts["files"] == 1
        (file,) = (at / "tables").glob(f"{name}.r*")
        assert facts["bytes"] == file.stat().st_size
        assert facts["norm"] == pytest.approx(np.sqrt((weight**2).sum()))
        assert facts["mean_row_norm"] == pytest.approx(np.mean([np.sqrt((r**2).sum()) for r in weight]))
        assert facts["zeros"] == pytest.approx((weight == 0).mean())
        assert facts["dead_rows"] == pytest.approx((weight == 0).all(1).mean())
        assert facts["state"].keys() == tensors.keys() - {"weight"}
        for state, values in facts["state"].items():
            assert values["norm"] == pytest.approx(float(tensors[state].double().norm()))
    assert found["tables"]["kind"]["optimizer"] == "ftrl" and found["tables"]["kind"]["zeros"] > 0
    parameters = {k.removeprefix("tower/model."): t for k, t in tower(at).items() if k.startswith("tower/")}
    for name, tensor in parameters.items():
        facts = found["tower"][name]
        assert facts["shape"] == list(tensor.shape) and facts["norm"] == pytest.approx(float(tensor.norm()), rel=1e-6)


def test_show_prints_tables_and_tower(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shardrec(monkeypatch, "checkpoint", "show", run, "--step", 2)
    printed = capsys.readouterr().out
    assert f"{run}/checkpoints/step-2: step 2, epoch 0, 480 rows trained on, written by 1 worker(s)" in printed
    line, more = (x.split() for x in printed.splitlines() if x.strip().startswith("tags"))
    assert line[:8] == ["tags", "40", "5", "fp32", "adam", "mean,", "mean_square,", "steps"]
    assert len(line) + len(more) - 1 == 15
    (line,) = (x.split() for x in printed.splitlines() if x.strip().startswith("mlp.layers.0.weight"))
    assert line[1:5] == ["16", "x", "21", "float32"]
    assert "optimizer linear" not in printed


def test_values_that_are_not_finite_and_dead_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(40, 6)
    weight[3], weight[7, :5], weight[9, 0], weight[9, 1], weight[11, 2] = 0, 0, torch.nan, torch.inf, 3e38
    state = {"mean": torch.zeros(40, 6), "mean_square": torch.ones(40, 6), "steps": torch.zeros(40)}
    monkeypatch.setattr(checkpoint_module, "CHUNK_BYTES", 200)
    monkeypatch.setattr(saved_tables, "BLOCK_BYTES", 300)
    live = LiveTable(TABLE, (TableShard(0, 0, {"weight": weight, **state}),))
    (table,) = saved_tables.saved_tables(tmp_path, write_tables(tmp_path, {"t/x": live})).values()
    found = summarise(table, "weight")
    finite = weight.double().nan_to_num(0, 0, 0)
    assert found["not_finite"] == 2 and found["dead_rows"] == 1 / 40 and found["zeros"] == 11 / 240
    assert found["norm"] == pytest.approx(float(finite.norm()))
    assert found["mean_row_norm"] == pytest.approx(float(finite.norm(dim=1).mean()))
    assert summarise(table, "steps")["zeros"] == 1


def test_show_without_values_reads_no_rows(
    damaged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A changed byte goes unseen, a file cut short does not."""
    (file,) = (damaged / "tables").glob("item.r*")
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    shardrec(monkeypatch, "checkpoint", "show", damaged, "--no-values")
    assert "norm" not in capsys.readouterr().out.split("tower")[0]
    assert f"{file}: rows 0 to 92 of 'accumulator' have changed" in refused(monkeypatch, "checkpoint", "show", damaged)
    file.write_bytes(data[:-1])
    assert f"{file}: cut short" in refused(monkeypatch, "checkpoint", "show", damaged, "--no-values")


@pytest.mark.parametrize("command", ["show", "diff"])
@pytest.mark.parametrize("damage", ["changed", "cut", "missing", "tower", "manifest"])
def test_damage_is_named(
    run: Path,
    damaged: Path,
    command: str,
    damage: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (file,) = (damaged / "tables").glob("user.r*")
    file = {"tower": damaged / "tower.safetensors", "manifest": damaged / "manifest.json"}.get(damage, file)
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(data[:-1] if damage == "cut" else data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
    if command == "show":
        line = refused(monkeypatch, "checkpoint", "show", damaged)
    else:
        shardrec(monkeypatch, "checkpoint", "diff", run, damaged, status=2)
        (line,) = capsys.readouterr().err.splitlines()
    said = {"changed": "have changed", "cut": "cut short", "missing": "missing", "tower": "damaged"}
    assert str(file) in line and said.get(damage, "damaged") in line


def test_what_is_no_checkpoint(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "neither a run folder" in refused(monkeypatch, "checkpoint", "show", tmp_path)
    assert "no complete checkpoint of step 3" in refused(monkeypatch, "checkpoint", "show", run, "--step", 3)
    at = run / "checkpoints/step-4"
    assert "--step cannot choose" in refused(monkeypatch, "checkpoint", "show", at, "--step", 4)


# ---------------------------------------------------------------- diff


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_checkpoint_of_another_plan_is_equal(
    run: Path, tmp_path: Path, world_size: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    placements = {"user": "row_wise", "item": "column_wise", "kind": "table_wise", "tags": "row_wise"}
    monkeypatch.setattr(checkpoint_module, "CHUNK_BYTES", 600)
    monkeypatch.setattr(saved_tables, "BLOCK_BYTES", 1000)
    other = saved_again(run, 4, tmp_path / "again", world_size, placements | {"shelves": "data_parallel"})
    assert len(list((other / "tables").iterdir())) >= 3 * world_size
    shardrec(monkeypatch, "checkpoint", "diff", run, other)
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == f"A: {run}/checkpoints/step-4, step 4, 1 worker(s)"
    assert "differ" not in printed and "equal: 5 table(s)" in printed


def test_differences_are_those_of_the_files(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(saved_tables, "BLOCK_BYTES", 500)
    a, b = (run / f"checkpoints/step-{step}" for step in (4, 8))
    shardrec(monkeypatch, "checkpoint", "diff", a, b, "--json", status=1)
    found = {d["name"]: d for d in json.loads(capsys.readouterr().out)["differences"]}
    tables, others = whole_tables(a), whole_tables(b)
    for table, tensors in tables.items():
        for name, one in tensors.items():
            other = others[table][name]
            unequal = one.reshape(len(one), -1) != other.reshape(len(one), -1)
            said = found.pop(f"table {table}, {name}", None)
            assert (said is None) == (not unequal.any())
            if said:
                rows = unequal.any(1).nonzero().squeeze(1)
                assert (said["differing"], said["of"], said["first"]) == (len(rows), len(one), int(rows[0]))
                assert said["largest"] == pytest.approx(float((one.double() - other.double()).abs().max()))
    towers = tower(a), tower(b)
    assert len(found) == len(towers[0]) and all(name.startswith("tower ") for name in found)
    one, other = (t["tower_optimizer/model.mlp.layers.0.weight/exp_avg"].flatten() for t in towers)
    said = found["tower optimizer mlp.layers.0.weight/exp_avg"]
    assert (said["unit"], said["differing"], said["of"]) == ("value", int((one != other).sum()), len(one))
    assert said["largest"] == pytest.approx(float((one.double() - other.double()).abs().max()))


def test_one_changed_row_is_found(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint written by this test: -0.0 is not 0.0, and NaN equals itself bit for bit."""
    content = read_manifest(run / "checkpoints/step-4")
    changes = {"a": {}, "b": {(7, 2): 0.5}, "c": {(9, 0): -0.0}, "d": {(30, 1): torch.nan}}
    for name, change in changes.items():
        weight = torch.zeros(40, 6)
        weight[3] = torch.nan
        for at, value in change.items():
            weight[at] = value
        state = {"mean": torch.zeros(40, 6), "mean_square": torch.zeros(40, 6), "steps": torch.zeros(40)}
        folder = tmp_path / name
        entries = write_tables(folder, {"t/x": LiveTable(TABLE, (TableShard(0, 0, {"weight": weight, **state}),))})
        shutil.copy(run / "checkpoints/step-4/tower.safetensors", folder)
        write_manifest(folder / "manifest.json", {**content, "tables": entries})
    for name, said in (
        ("b", "row 7, largest difference 0.5"),
        ("c", "row 9, largest difference 0"),
        ("d", "30, .*nan"),
    ):
        shardrec(monkeypatch, "checkpoint", "diff", tmp_path / "a", tmp_path / name, status=1)
        lines = capsys.readouterr().out.splitlines()[2:-1]
        assert len(lines) == 1
        assert lines[0].startswith("table t/x, weight: 1 of 40 rows differ, first row ")
        assert re.search(said, lines[0])
    shardrec(monkeypatch, "checkpoint", "diff", tmp_path / "a", tmp_path / "a")


def test_tables_of_another_kind(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Another run without a feature, with other dims, dtypes and optimizers."""
    changed = {
        "data": {"features": ["user", "item", "kind", "tags", "price"]},
        "tables": {
            "user": {"dtype": "fp16"},
            "item": {"dtype": "fp16", "optimizer": {"name": "sgd", "learning_rate": 0.1}},
            "tags": {"optimizer": {"name": "adam", "learning_rate": 0.01}},
        },
        "model": {"name": "deepfm", "embedding_dim": 6, "mlp": {"hidden": [16, 8]}},
        "trainer": {"epochs": 1, "max_steps": 2, "tensorboard": False},
    }
    other = trained_run(run.parent, "other", **changed)
    shardrec(monkeypatch, "checkpoint", "diff", run, other, status=1)
    lines = capsys.readouterr().out.splitlines()
    for said in (
        "table user: dtype fp32 in A, fp16 in B",
        "table user: embedding_dim 5 in A, 7 in B",
        "table item: optimizer adagrad in A, sgd in B",
        "table item, accumulator: only in A",
        "table shelves: only in A",
        "tower mlp.layers.0.weight: shape 16 x 21 in A, 16 x 25 in B",
    ):
        assert said in lines
    assert not any("rows differ" in line for line in lines if line.startswith("table user"))
