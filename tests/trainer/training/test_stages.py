"""Chains of runs: what a stage starts from is what the earlier one learned, whatever the plans; mistakes are told."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch
import torch.distributed as dist
import yaml
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.checkpoints.tower_file import model_tensors
from shardrec.trainer.config.differences import first_difference
from shardrec.trainer.config.load import load
from shardrec.trainer.config.overrides import laid_over
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.config.stages import by_stage_names, resolve_stages
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.running_ray import running_ray
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.session.blueprint import Blueprint, build_model
from shardrec.trainer.training.train_run import one_ray, train_run
from shardrec.trainer.training.train_worker import train_worker
from shardrec.trainer.training.trainer import Trainer
from tests import ROOT
from tests.models.reference_lookup import ReferenceLookup
from tests.processes import run_processes
from tests.trainer.command_line import shardrec
from tests.trainer.recorded import assert_same_checkpoint, tower, whole_tables
from tests.trainer.small_run import write_data
from tests.trainer.stage_files import (
    ALL_OF_AN_FM,
    FM,
    FNN,
    WIDE_AND_DEEP_OF_AN_FM,
    WIDE_DEEP,
    chain,
    fm_then_fnn,
    written,
)
from tests.trainer.started import started

RUNS = ROOT / "trainer/runs"
FEATURES = ("user", "item", "kind", "tags", "shelves")
SHORT = {"epochs": 1, "max_steps": 5}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    write_data(folder / "data", rows=1200)
    return folder


@pytest.fixture(scope="module")
def fm(root: Path) -> Path:
    """The run folder of an FM that one process trained."""
    train_run(load(written(root, "fm", model=FM, trainer=SHORT)), quiet=True)
    return root / "fm"


def begun(config: RunConfig, folder: RunFolder, environment: Environment) -> dict[str, Any]:
    """Saves what a run starts from as step 0; the MLP's input and the output for each row of the first batch."""
    trainer = Trainer(config, folder, environment)
    trainer.restore()
    trainer.save_checkpoint()
    inputs: list[Tensor] = []
    model, module = trainer.session.model, trainer.session.distributed.module
    if config.model["name"] == "fnn":
        model.mlp.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        batch = next(iter(trainer.loader.epoch(0, 0)))
        output = module.eval()(batch)
    seen = inputs[0] if inputs else output.unsqueeze(1)
    rows = dict(zip(batch.rows[batch.live].tolist(), seen[batch.live].tolist(), strict=True))
    return {row: values for part in environment.gather(rows) for row, values in part.items()}


def begin(path: Path) -> tuple[dict[int, list[float]], Path]:
    """`begun` in this process; its rows and its checkpoint."""
    config = load(path)
    found = launch(begun, config, RunFolder.create(config, resume=False))
    return found, Path(config.run) / "checkpoints/step-0"


def last_checkpoint(run: Path) -> Path:
    folder = RunFolder.open(run)
    return folder.checkpoint(folder.choose_step())


# ---------------------------------------------------------------- under other plans


def _rank(rank: int, root: Path, fm_file: Path, from_one: tuple[Path, ...]) -> list[Any]:
    """Trains an FM on two ranks, then lets others begin from one that one process trained."""
    results = []
    for worker, path in ((train_worker, fm_file), *((begun, p) for p in from_one)):
        config = load(path)
        folder = RunFolder.create(config, resume=False) if rank == 0 else RunFolder(Path(config.run))
        dist.barrier()
        results.append(launch(worker, config, folder))
    return results[1:]


@pytest.fixture(scope="module")
def two_ranks(root: Path, fm: Path) -> list[dict[int, list[float]]]:
    """Beside the FM `fm_2` that two ranks trained row-wise, what an FNN and a Wide&Deep start from on them."""
    placement = {"*": {"placement": "table_wise"}, "user": {"placement": "column_wise"}}
    rows = {"*": {"placement": "row_wise"}, "wide/*": {"optimizer": {"name": "ftrl", "l1": 1.0}}}
    files = (
        written(root, "fm_2", model=FM, trainer=SHORT, tables={"*": {"placement": "row_wise"}}),
        written(root, "fnn_2", model=FNN, tables=placement, init_from=[{"run": str(fm), **ALL_OF_AN_FM}]),
        written(root, "wd_2", model=WIDE_DEEP, tables=rows, init_from=[{"run": str(fm), **WIDE_AND_DEEP_OF_AN_FM}]),
    )
    return run_processes(2, _rank, root, files[0], files[1:], timeout=240)[0]


def fm_signals(data: Path, checkpoint: Path, rows: list[int]) -> np.ndarray:
    """(w0, w_d x_d, sum of [w; v] of each field) of training rows, from an FM's files alone."""
    table = pq.read_table(sorted((data / "train").iterdir()))
    weights = {name: t["weight"].double().numpy() for name, t in whole_tables(checkpoint).items()}
    linear = model_tensors(tower(checkpoint))
    found = []
    for at in rows:
        row = table.slice(at, 1).to_pylist()[0]
        signals = [linear["linear.bias"].item(), linear["linear.weight"].item() * row["price"]]
        for feature in FEATURES:
            ids = row[feature] if isinstance(row[feature], list) else [row[feature]]
            amounts = row["tag_weights"] if feature == "tags" else [1.0] * len(ids)
            summed = sum((a * weights[feature][i] for i, a in zip(ids, amounts, strict=True)), np.zeros(5))
            signals += summed.tolist()
        found.append(signals)
    return np.array(found)


def test_an_fnns_first_z_is_the_fms_rows_from_two_ranks_in_one(root: Path, two_ranks: list) -> None:
    """Row-wise on two ranks, then whole tables in one process."""
    source = {"run": str(root / "fm_2"), **ALL_OF_AN_FM}
    found, checkpoint = begin(written(root, "fnn_1", model=FNN, init_from=[source]))
    assert_starts_from(root, found, checkpoint, last_checkpoint(root / "fm_2"))


def test_an_fnns_first_z_is_the_fms_rows_from_one_process_on_two_ranks(root: Path, fm: Path, two_ranks: list) -> None:
    """One process, then two ranks with the largest table column-wise and the others table-wise."""
    assert "column_wise" in (root / "fnn_2/plan.txt").read_text()
    assert_starts_from(root, two_ranks[0], root / "fnn_2/checkpoints/step-0", last_checkpoint(fm))


def assert_starts_from(root: Path, found: dict[int, list[float]], checkpoint: Path, source: Path) -> None:
    rows = sorted(found)
    assert len(rows) == 240
    z = np.array([found[row] for row in rows])
    expected = fm_signals(root / "data", source, rows)
    assert np.abs(expected).max(0).min() > 0  # every column of z is told apart from a fresh zero
    np.testing.assert_allclose(z, expected, rtol=1e-6, atol=1e-7)
    tables, before = whole_tables(checkpoint), whole_tables(source)
    for name in FEATURES:
        assert torch.equal(tables[name]["weight"], before[name]["weight"])
        assert not tables[name]["accumulator"].any()  # weights only


def test_an_fms_rows_become_a_wide_and_a_deep_table(root: Path, fm: Path, two_ranks: list) -> None:
    before, after = whole_tables(last_checkpoint(fm)), whole_tables(root / "wd_2/checkpoints/step-0")
    for name in FEATURES:
        row, wide = before[name]["weight"], after[f"wide/{name}"]
        assert torch.equal(wide["weight"], row[:, :1]) and wide["weight"].any()
        assert torch.equal(wide["z"] == 0, wide["weight"] == 0)
        assert torch.equal(after[f"deep/{name}"]["weight"], row[:, 1:] * 0.5)


# ---------------------------------------------------------------- models that equal their parts


def test_a_copied_fm_predicts_the_same(root: Path, fm: Path) -> None:
    expected = begin_again(fm)
    source = {"run": str(fm), **ALL_OF_AN_FM}
    found, _ = begin(written(root, "fm_copy", model=FM, init_from=[source]))
    fresh, _ = begin(written(root, "fm_fresh", model=FM))
    assert found == expected
    assert found != fresh


def test_what_only_gets_worse_keeps_its_start(root: Path, fm: Path) -> None:
    """Rates are far too high, and no evaluation is as good as that of step 0; the loss stays in proportion."""
    ruinous = {"tables": {"name": "sgd", "learning_rate": 100.0}, "tower": {"name": "sgd", "learning_rate": 0.5}}
    at_start = {**SHORT, "evaluation": {"at_start": True}}
    path = written(root, "fm_ruined", model=FM, init_from=[{"run": str(fm), **ALL_OF_AN_FM}], trainer=at_start)
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(content | {"optimizer": ruinous}))
    summary = train_run(load(path), quiet=True)
    (given,) = [r for r in RunFolder.open(fm).records() if r["kind"] == "validation"]
    assert summary and summary["best_step"] == 0
    assert summary["metrics"]["validation"]["auc"] == pytest.approx(given["auc"], abs=1e-9)
    assert RunFolder.open(path.with_suffix("")).choose_step() == 0


def begin_again(run: Path) -> dict[int, list[float]]:
    """Of a run that is over: its outputs for the first batch."""
    folder = RunFolder.open(run)
    config = folder.config()
    return launch(begun, config, folder)


def test_neumf_starts_as_the_blend_of_its_parts(root: Path) -> None:
    """Its logit is alpha GMF + (1 - alpha) MLP with alpha = 0.5, whose products are exact in fp32."""
    pair = {"user": "user", "item": "item"}
    gmf = {"name": "gmf", "embedding_dim": 3, **pair}
    mlp = {"name": "ncf_mlp", "embedding_dim": 5, "mlp": {"hidden": [6, 4]}, **pair}
    neumf = {"name": "neumf", "embedding_dim": 3, "mlp_embedding_dim": 5, "mlp": {"hidden": [6, 4]}, **pair}
    init = [
        {"stage": "gmf", "tables": {"gmf/*": {}}, "parameters": {"gmf_output.*": {"scale": 0.5}}},
        {"stage": "mlp", "tables": {"mlp/*": {}}, "parameters": {"mlp.*": {}, "mlp_output.*": {"scale": 0.5}}},
    ]
    stages = [{"name": "gmf", "model": gmf}, {"name": "mlp", "model": mlp}]
    stages.append({"name": "neumf", "model": neumf, "init_from": init})
    large = {"*": {"init": {"scale": 1.0}}}
    path = chain(root, "ncf", root / "data", *stages, tables=large)
    config = load(path, [f"trainer.max_steps={SHORT['max_steps']}"])
    parts = resolve_stages(config)
    train_run(config.model_copy(update={"stages": config.stages[:2]}), quiet=True)
    launch(begun, parts["neumf"], RunFolder.create(parts["neumf"], resume=False))

    draw = np.random.default_rng(0)
    users, items = torch.from_numpy(draw.integers(0, 301, 50)), torch.from_numpy(draw.integers(0, 97, 50))
    logits = {name: in_double(stage, users, items) for name, stage in parts.items()}
    assert logits["gmf"].std() > 0.1 and logits["mlp"].std() > 0.1
    torch.testing.assert_close(logits["neumf"], 0.5 * logits["gmf"] + 0.5 * logits["mlp"], rtol=0, atol=1e-12)


def in_double(config: RunConfig, users: Tensor, items: Tensor) -> Tensor:
    """The logits of pairs, from a run's checkpoint in float64."""
    checkpoint = last_checkpoint(Path(config.run))
    model = build_model(config, config.load_schema())
    model.load_state_dict(model_tensors(tower(checkpoint)))
    tables = {name: t["weight"].double() for name, t in whole_tables(checkpoint).items()}
    inputs: dict[str, Tensor] = {}
    if set(tables) == {"gmf/user", "gmf/item"}:
        inputs |= {"user": tables["gmf/user"][users], "item": tables["gmf/item"][items]}
    elif "gmf/user" in tables:
        inputs["gmf"] = torch.stack([tables["gmf/user"][users], tables["gmf/item"][items]], 1)
    if "mlp/user" in tables:
        inputs["mlp"] = torch.cat([tables["mlp/user"][users], tables["mlp/item"][items]], 1)
    with torch.no_grad():
        return copy.deepcopy(model).double().eval()(**inputs)


def test_wide_deep_starts_as_the_sum_of_parts_trained_apart(root: Path, tmp_path: Path) -> None:
    """By the ready chain: its logit is that of the LR and that of the MLP. It then resumes bit for bit, FTRL too."""
    ready = yaml.safe_load((RUNS / "wide_deep_parts_frappe.yaml").read_text())["variants"]["from_parts"]["stages"]
    for stage in ready:
        stage["model"] |= {"embedding_dim": 4, "mlp": {"hidden": [8]}} if stage["name"] != "lr" else {}
        stage.pop("optimizer", None)
        stage["trainer"] = {"epochs": 1}
    ftrl = {"name": "ftrl", "learning_rate": 0.1, "l1": 0.1}
    ready[2] |= {
        "tables": {"wide/*": {"optimizer": ftrl}},
        "optimizer": {"tower": {"parameters": {"linear.*": ftrl, "mlp.layers.0.*": {"name": "adagrad"}}}},
        "trainer": {"epochs": 2},
    }
    path = chain(tmp_path, "parts", root / "data", *ready)
    parts = resolve_stages(load(path))
    for stage in list(parts.values())[:2]:
        train_run(stage, quiet=True)
    _, start = begin_stage(parts["wide_deep"])
    logits = {name: first_logits(last_checkpoint(Path(stage.run)), stage) for name, stage in parts.items()}
    assert logits["lr"].std() > 0.1 and logits["embedding_mlp"].std() > 0.1
    torch.testing.assert_close(logits["wide_deep"], logits["lr"] + logits["embedding_mlp"], rtol=0, atol=1e-12)
    saved = tower(start)
    weight, z = (saved[f"{kind}/model.linear.weight{at}"] for kind, at in (("tower", ""), ("tower_optimizer", "/z")))
    assert weight.all()
    torch.testing.assert_close(z, -weight / ftrl["learning_rate"] - weight.sign() * ftrl["l1"])

    for run, stops in (("whole", (2,)), ("halves", (1, 2))):
        for epochs in stops:
            stage = parts["wide_deep"].model_copy(update={"run": str(tmp_path / run)})
            trainer = stage.trainer.model_copy(update={"epochs": epochs})
            train_run(stage.model_copy(update={"trainer": trainer}), resume=epochs > stops[0], quiet=True)
    assert_same_checkpoint(*(last_checkpoint(tmp_path / run) for run in ("halves", "whole")))


def begin_stage(config: RunConfig) -> tuple[dict[int, list[float]], Path]:
    """`begun` of a stage in this process; its rows and its checkpoint."""
    return launch(begun, config, RunFolder.create(config, resume=False)), Path(config.run) / "checkpoints/step-0"


def first_logits(checkpoint: Path, config: RunConfig) -> Tensor:
    """A batch's logits, from a run's checkpoint in float64."""
    model = build_model(config, config.load_schema())
    model.load_state_dict(model_tensors(tower(checkpoint)))
    lookup = ReferenceLookup(model, dtype=torch.float64, dense_names=["price"])
    for name, tensors in whole_tables(checkpoint).items():
        lookup.table(name).data.copy_(tensors["weight"])
    batch = next(iter(Blueprint(config).loader(f"{config.data.path}/validation").epoch(0)))
    with torch.no_grad():
        return copy.deepcopy(model).double().eval()(**lookup(batch))[batch.live]


# ---------------------------------------------------------------- a chain of runs


def test_a_chain_that_was_killed_in_its_second_stage_goes_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"epochs": 14, "evaluation": {"every_epochs": 7}, "checkpoint": {"every_steps": 4}}
    (tmp_path / "whole").mkdir()
    expected = train_run(load(fm_then_fnn(tmp_path / "whole", root / "data", **settings)), quiet=True)
    path = fm_then_fnn(tmp_path, root / "data", **settings)
    process = started("train", path, "--quiet", log=tmp_path / "log")
    second = RunFolder(tmp_path / "run/fnn")
    while not second.steps() and process.is_alive():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it was over before it could be killed"
    with pytest.raises(UserError, match=f"stage fnn is not finished; resume the run, or name {tmp_path}/run/fm$"):
        RunFolder.open(tmp_path / "run")
    with pytest.raises(UserError, match="holds a run already; continue it with --resume"):
        train_run(load(path), quiet=True)
    kept = second.steps()[-1]

    shardrec(monkeypatch, "train", path, "--quiet", "--resume")
    assert "stage fm" in capsys.readouterr().out
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert expected is not None and summary["stages"].keys() == {"fm", "fnn"}
    assert summary["first_step"] == kept > 0
    assert summary["metrics"] == summary["stages"]["fnn"]["metrics"] == expected["metrics"]
    starts = [r for r in RunFolder(tmp_path / "run/fm").records() if r["kind"] == "start"]
    assert len(starts) == 1  # the first stage did not run again
    last = f"run/fnn/checkpoints/step-{expected['steps']}"
    assert_same_checkpoint(tmp_path / last, tmp_path / "whole" / last)

    shardrec(monkeypatch, "evaluate", tmp_path / "run", "--quiet")
    assert "run/fnn" in capsys.readouterr().out


def test_plan_shows_every_stage(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fm_then_fnn(tmp_path, root / "data")
    shardrec(monkeypatch, "plan", path, "--set", "stages.fnn.model.embedding_dim=9")
    first, second = capsys.readouterr().out.split("stage fnn")
    assert "stage fm" in first and first.count(" 5  fp32") == second.count("10  fp32") == 5
    assert not (tmp_path / "run").exists()


def test_finished_stages_stand_as_they_are(root: Path, tmp_path: Path) -> None:
    """A chain is gone on with only where what its finished stages learned is what is asked for."""
    path = fm_then_fnn(tmp_path, root / "data", max_steps=1)
    folders = [RunFolder(tmp_path / "run" / name) for name in ("fm", "fnn")]
    train_run(load(path, ["trainer.max_steps=1"]), quiet=True)
    before = [folder.config_file.read_text() for folder in folders]
    with pytest.raises(UserError) as error:
        train_run(load(path, ["trainer.max_steps=2"]), resume=True, quiet=True)
    said = "stage fm is finished with trainer.max_steps 1, now 2; name another run, or remove its folder and those"
    assert str(error.value) == said + " after it"
    assert [folder.config_file.read_text() for folder in folders] == before

    moved = (tmp_path / "run").rename(tmp_path / "moved")
    changed = [f"run={moved}", "trainer.max_steps=1", "stages.fnn.trainer.max_steps=2", "launch.threads=2"]
    summary = train_run(load(path, changed), resume=True, quiet=True)
    assert summary and (summary["first_step"], summary["steps"]) == (1, 2)

    (moved / "fm/summary.json").unlink()
    line = (
        "stage fnn has checkpoints, but stage fm, which .* is not finished; put .*/moved/fm back .*remove .*/moved/fnn"
    )
    with pytest.raises(UserError, match=line):
        train_run(load(path, changed), resume=True, quiet=True)


def test_a_chain_that_fails_at_once_leaves_nothing(root: Path, tmp_path: Path) -> None:
    path = fm_then_fnn(tmp_path, root / "data")
    with pytest.raises(UserError, match="the loss is not finite"):
        train_run(load(path, ["optimizer.tower.learning_rate=1e38", "trainer.epochs=3"]), quiet=True)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- the run file


def test_sections_are_merged_and_other_names_replace() -> None:
    common = {
        "optimizer": {"tables": {"name": "adagrad", "eps": 1e-3}, "tower": {"name": "adam"}},
        "model": {"name": "fm"},
    }
    over = {"optimizer": {"tables": {"name": "sgd"}, "tower": {"eps": 1e-6}}, "model": {"embedding_dim": 3}}
    assert laid_over(common, over) == {
        "optimizer": {"tables": {"name": "sgd"}, "tower": {"name": "adam", "eps": 1e-6}},
        "model": {"name": "fm", "embedding_dim": 3},
    }


def test_overrides_hold_in_all_stages_or_in_one(tmp_path: Path) -> None:
    path = fm_then_fnn(tmp_path, tmp_path, epochs=9)
    overrides = ["trainer.seed=4", "trainer.epochs=3", "stages.fnn.trainer.max_steps=7", "model.embedding_dim=6"]
    stages = resolve_stages(load(path, overrides))
    assert [s.run for s in stages.values()] == [f"{tmp_path}/run/fm", f"{tmp_path}/run/fnn"]
    assert [(s.trainer.seed, s.trainer.epochs, s.trainer.max_steps) for s in stages.values()] == [
        (4, 3, None),
        (4, 3, 7),
    ]
    assert [s.model["embedding_dim"] for s in stages.values()] == [6, 6]
    assert stages["fnn"].init_from[0].run == stages["fm"].run
    moved = resolve_stages(load(path, [*overrides, "run=elsewhere"]))
    differs = first_difference(stages["fnn"], moved["fnn"])
    assert differs and differs.key == "init_from"
    assert first_difference(by_stage_names(stages["fnn"]), by_stage_names(moved["fnn"])) is None
    dumped = tmp_path / "dumped.yaml"
    dumped.write_text(stages["fnn"].dump())
    assert load(dumped) == stages["fnn"]  # a stage is a run like any other
    with pytest.raises(UserError, match="unknown stage 'fn'; did you mean 'fnn'"):
        load(path, ["stages.fn.trainer.epochs=1"])


@pytest.mark.long
def test_a_chain_under_torchrun(root: Path, tmp_path: Path) -> None:
    """All stages in one set of processes; rank 0 alone prints."""
    path = fm_then_fnn(tmp_path, root / "data", max_steps=2)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "shardrec", "train", str(path), "--set", "trainer.max_steps=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("run folder:") == 2
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert [stage["world_size"] for stage in summary["stages"].values()] == [2, 2]
    assert summary["steps"] == 2
    assert summary["peak_memory_bytes"] > 7e8  # both ranks and their launcher; one rank takes some 4e8


def test_stages_share_one_ray(root: Path, tmp_path: Path) -> None:
    """With CPUs for the stage of the most workers; a single stage on Ray starts its own."""
    path = fm_then_fnn(tmp_path, root / "data")
    several = resolve_stages(load(path, ["launch.backend=ray", "launch.workers=1", "stages.fnn.launch.workers=3"]))
    one = resolve_stages(load(path, ["stages.fnn.launch.backend=ray"]))
    with one_ray(one.values(), tmp_path / "log"):
        assert not ray.is_initialized()
    with one_ray(several.values(), tmp_path / "log"):
        for stage in several.values():
            with running_ray(stage.launch, 1):
                assert ray.cluster_resources()["CPU"] >= 3
            assert ray.is_initialized()
    assert not ray.is_initialized()
