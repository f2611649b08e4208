"""Runs as users set them: early stopping, best checkpoints, precision, weights, URIs, features left out."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import shardrec
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.load import load
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.launch.supervision import supervised
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.summaries import print_summary
from shardrec.trainer.scoring.evaluate import evaluate_worker
from shardrec.trainer.training.trainer import Trainer
from tests.trainer.recorded import recording_worker, train
from tests.trainer.small_run import run_file, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("training") / "data", rows=2400)


def validations(folder: Path) -> list[dict]:
    return [
        r for r in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if r["kind"] == "validation"
    ]


def test_learning_happens(data: Path, tmp_path: Path) -> None:
    result = train(run_file(tmp_path / "run.yaml", data, trainer={"epochs": 12}))
    assert result["metrics"]["test"]["auc"] > 0.7
    assert result["losses"][-1] < result["losses"][0] - 0.1


def test_it_stops_when_nothing_improves_and_scores_the_best(data: Path, tmp_path: Path) -> None:
    stopping = {"epochs": 60, "early_stopping": {"metric": "log_loss", "patience": 3}}
    path = run_file(
        tmp_path / "run.yaml", data, trainer=stopping, optimizer={"tables": {"name": "adagrad", "learning_rate": 0.5}}
    )
    result = train(path)
    found = validations(tmp_path / "run")
    losses = [r["log_loss"] for r in found]
    assert result["stopped_early"] and len(losses) < 60
    assert int(np.argmin(losses)) == len(losses) - 4
    assert result["best_step"] == found[-4]["step"] == RunFolder(tmp_path / "run").best_step()
    assert result["metrics"]["validation"]["log_loss"] == min(losses)
    config = load(path, ["trainer.early_stopping.patience=5"])
    more = launch_again(config)
    assert more["steps"] > result["steps"]  # more patience goes on


def launch_again(config: RunConfig) -> dict:
    return launch(recording_worker, config, RunFolder.create(config, resume=True))


def test_the_best_checkpoint_outlives_a_crash_before_it_was_named(data: Path, tmp_path: Path) -> None:
    settings = {"evaluation": {"every_steps": 2}, "checkpoint": {"every_steps": 1, "keep": 1}, "epochs": 4}
    path = run_file(tmp_path / "run.yaml", data, trainer=settings)
    train(path, ("trainer.max_steps=4",))
    folder = RunFolder(tmp_path / "run")
    best = folder.best_step()
    assert best is not None
    (folder.checkpoints / "best").unlink()
    again = train(path, resume=True)
    assert folder.best_step() == again["best_step"] >= best
    assert again["metrics"]["test"]["rows"] == 600


def test_what_the_rows_do_not_define_is_shown_and_the_loss_decides_instead(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_file(tmp_path / "run.yaml", with_one_class(data, tmp_path), trainer={"epochs": 3, "tensorboard": True})
    result = shardrec.train(path, quiet=True)
    assert result is not None
    found = validations(tmp_path / "run")
    losses = [r["log_loss"] for r in found]
    best = found[int(np.argmin(losses))]
    assert result.best_step == RunFolder(tmp_path / "run").best_step() == best["step"]
    assert result.metrics["validation"]["log_loss"] == min(losses) and result.metrics["test"]["auc"] > 0.5

    reason = "all labels are 1"
    assert {(r["auc"], r["undefined"]["auc"]) for r in found} == {(None, reason)}
    auc = result.metrics["validation"]["auc"]
    assert isinstance(auc, shardrec.Undefined) and np.isnan(auc) and auc.reason == reason
    with shardrec.open(tmp_path / "run") as model:
        assert model.evaluate()["validation"]["auc"].reason == reason  # type: ignore[attr-defined]
    summary = RunFolder(tmp_path / "run").summary()
    assert summary is not None and summary["metrics"]["validation"]["auc"] is None
    assert summary["undefined"] == {"validation": dict.fromkeys(("auc", "normalized_entropy"), reason)}
    print_summary(load(path), summary | {"metrics": result.metrics})
    table, line = (text for text in capsys.readouterr().out.splitlines() if "validation" in text)
    assert table.split()[:2] == ["validation", "undefined"] and line.endswith(f"auc, normalized_entropy ({reason})")
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    assert "validation/log_loss" in events.Tags()["scalars"] and "validation/auc" not in events.Tags()["scalars"]
    assert reason.encode() in events.Tensors("validation/auc/text_summary")[0].tensor_proto.string_val[0]


def test_selection_by_what_the_rows_do_not_define_is_an_error_that_costs_no_work(data: Path, tmp_path: Path) -> None:
    """Before the first step and after an epoch, which is saved; training goes on by another metric."""
    spoiled = with_one_class(data, tmp_path)
    stopping = {"epochs": 2, "early_stopping": {"metric": "auc", "patience": 1}}
    said = r"'auc' decides what is best, but the validation rows do not define it: all labels are 1; .*\(average_precis"
    path = run_file(tmp_path / "first.yaml", spoiled, trainer=stopping | {"evaluation": {"at_start": True}})
    with pytest.raises(UserError, match=said):
        train(path)
    assert RunFolder(tmp_path / "first").steps() == []
    path = run_file(tmp_path / "run.yaml", spoiled, trainer=stopping)
    with pytest.raises(UserError, match=said + r".*what was trained so far is saved as step-11$"):
        train(path)
    result = train(path, ("trainer.early_stopping.metric=log_loss",), resume=True)
    assert (result["first_step"], result["steps"], result["best_step"]) == (11, 22, 11)


def with_one_class(data: Path, folder: Path) -> Path:
    """A copy of the data whose validation rows have no AUC."""
    spoiled = Path(shutil.copytree(data, folder / "data"))
    rows = pq.read_table(spoiled / "validation/0.parquet")
    one_class = rows.set_column(rows.column_names.index("label"), "label", [np.ones(rows.num_rows, np.float32)])
    pq.write_table(one_class, spoiled / "validation/0.parquet")
    return spoiled


def test_bf16_towers_learn_nearly_the_same(data: Path, tmp_path: Path) -> None:
    full = train(run_file(tmp_path / "a.yaml", data, trainer={"epochs": 8}))
    half = train(run_file(tmp_path / "b.yaml", data, trainer={"epochs": 8, "precision": "bf16"}))
    assert half["losses"] != full["losses"]
    assert half["metrics"]["test"]["auc"] == pytest.approx(full["metrics"]["test"]["auc"], abs=0.03)


def test_class_weights_move_the_predictions(data: Path, tmp_path: Path) -> None:
    short = {"epochs": 6}
    plain = train(run_file(tmp_path / "a.yaml", data, trainer=short))
    weighted = train(run_file(tmp_path / "b.yaml", data, trainer=short, data={"class_weights": {0: 1, 1: 6}}))
    means = [r["metrics"]["test"]["prediction_mean"] for r in (plain, weighted)]
    assert means[1] > means[0] + 0.15


def test_exact_zeros_are_reported(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """FTRL on the wide tables beside AdaGrad on the deep ones; with a warm-up, whose first step has rate 0."""
    ftrl = {"name": "ftrl", "learning_rate": 0.5, "l1": 8.0}
    schedule = {"warmup_steps": 3, "decay": "linear"}
    path = run_file(
        tmp_path / "run.yaml", data, model={"name": "wide_deep"}, tables={"wide/*": {"optimizer": ftrl}},
        optimizer={"schedule": schedule}, trainer={"epochs": 3},
    )  # fmt: skip
    summary = train(path)
    zeros = summary["zero_weights"]
    assert zeros.keys() == {f"wide/{name}" for name in ("user", "item", "kind", "tags", "shelves")}
    assert zeros["wide/user"] > 0.5 > zeros["wide/kind"]
    recorded = [r for r in RunFolder(path.with_suffix("")).records() if r["kind"] == "zero_weights"]
    assert len(recorded) == 3
    assert {f"table/{name}" for name in zeros} <= recorded[0].keys()
    print_summary(load(path), summary | {"peak_memory_bytes": 0, "wall_seconds": 0})
    assert f"zero weights: wide/user {100 * zeros['wide/user']:.1f} %" in capsys.readouterr().out


def test_a_cross_under_ftrl_finds_what_its_parts_do_not(data: Path, tmp_path: Path) -> None:
    """Clicks go by `kind` and `item` together; the deep part sees neither. A larger l1 leaves more of it out."""

    def wide(name: str, feature: str, l1: float) -> dict:
        """The summary of a run with the usual FTRL settings, whose wide part reads one feature."""
        cross = {"crosses": [{"features": ["kind", "item"], "num_ids": 1000}]}
        ftrl = {"name": "ftrl", "learning_rate": 0.1, "beta": 1.0, "l1": l1}
        tables = {"wide/*": {"optimizer": ftrl}}
        path = run_file(tmp_path / f"{name}.yaml", data, data=cross, tables=tables, trainer={"epochs": 4})
        model = {
            "name": "wide_deep",
            "wide": [feature],
            "deep": ["shelves"],
            "embedding_dim": 4,
            "mlp": {"hidden": [8]},
        }
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"model": model}))
        return train(path)

    without = wide("without", "shelves", 0.1)
    crossed = [wide(f"cross_{l1}", "kind_x_item", l1) for l1 in (0.1, 3.0, 30.0)]
    auc = without["metrics"]["test"]["auc"]
    assert crossed[0]["metrics"]["test"]["auc"] > auc + 0.07
    assert crossed[1]["metrics"]["test"]["auc"] > auc + 0.04
    zeros = [found["zero_weights"]["wide/kind_x_item"] for found in crossed]
    assert 0.7 < zeros[0] < zeros[1] < zeros[2] and zeros[2] > 0.95  # of 1000 rows 709 or more are no pair's


def test_groups_give_gauc(data: Path, tmp_path: Path) -> None:
    schema = yaml.safe_load((data / "schema.yaml").read_text())
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(schema | {"group": "user"}))
    settings = {"data": {"schema": str(tmp_path / "schema.yaml")}, "trainer": {"early_stopping": {"metric": "gauc"}}}
    result = train(run_file(tmp_path / "run.yaml", data, **settings))
    assert 0 < result["metrics"]["test"]["gauc"] < 1


def test_features_that_the_model_does_not_read_may_be_there(data: Path, tmp_path: Path) -> None:
    model = {"name": "wide_deep", "wide": ["user"], "deep": ["item"], "embedding_dim": 4, "mlp": {"hidden": [8]}}
    path = run_file(tmp_path / "run.yaml", data, trainer={"max_steps": 2})
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"model": model}))
    assert train(path)["steps"] == 2


def test_prepared_data_by_uri(data: Path, tmp_path: Path) -> None:
    by_path = train(run_file(tmp_path / "a.yaml", data, trainer={"max_steps": 3}))
    by_uri = train(run_file(tmp_path / "b.yaml", data, trainer={"max_steps": 3}, data={"path": f"file://{data}"}))
    assert by_uri["losses"] == by_path["losses"]
    assert by_uri["metrics"] == by_path["metrics"]


def test_an_error_of_an_earlier_command_is_forgotten(data: Path, tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.yaml", data, trainer={"max_steps": 2})
    train(path)
    folder = RunFolder.open(tmp_path / "run")
    folder.error_file.write_text(json.dumps({"error": "old"}))
    splits = {"test": str(data / "test")}
    found = supervised(evaluate_worker, folder.config(), folder, splits=splits, step=2, quiet=True)
    assert found and found["metrics"]["test"]["rows"] == 600
    assert not folder.error_file.exists()


def test_a_run_that_fails_leaves_no_reader(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error, which may be kept, keeps nothing alive."""

    def log(trainer: Trainer) -> None:
        raise LookupError("lost")

    monkeypatch.setattr(Trainer, "log", log)
    path = run_file(tmp_path / "run.yaml", data, trainer={"log_every_steps": 2})
    threads = threading.active_count()
    with pytest.raises(LookupError) as kept:
        train(path, ["data.readers=2"])
    assert "lost" in str(kept.value) and threading.active_count() == threads
    children = psutil.Process().children()
    assert not [child for child in children if "reader_process" in " ".join(child.cmdline())]
