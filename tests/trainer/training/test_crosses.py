"""Crosses of a run file reach the model and the run folder, once, and later commands need nothing else."""

from pathlib import Path

import shardrec
from shardrec.data_pipeline.features.feature_kinds import FeatureCross
from shardrec.data_pipeline.features.schema import Schema
from shardrec.trainer.config.load import load
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.scoring.evaluate import evaluate_worker
from shardrec.trainer.scoring.predict import predict_rows
from shardrec.trainer.training.train_run import train_run
from tests.trainer.small_run import run_file, write_data

CROSS = {"features": ["kind", "item"], "num_ids": 500}
OF_LISTS = {"features": ["tags", "shelves", "kind"], "num_ids": 300, "name": "lists", "max_length": 3}


def test_a_run_with_a_cross_trains_resumes_and_scores(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", rows=600)
    path = run_file(
        tmp_path / "run.yaml",
        data,
        data={"crosses": [CROSS, OF_LISTS], "features": ["user", "item", "price"], "share": {"pairs": ["kind_x_item"]}},
        model={"name": "wide_deep"},
        trainer={"epochs": 1},
    )
    train_run(load(path), quiet=True)
    folder = RunFolder.open(tmp_path / "run")
    assert [f.name for f in folder.schema().features] == ["user", "item", "price", "kind_x_item", "lists"]
    of = Schema.load(data / "schema.yaml")
    assert folder.schema()["kind_x_item"].ids == FeatureCross(features=(of["kind"], of["item"]), num_ids=500)
    plan = (folder.path / "plan.txt").read_text()
    assert "wide/pairs " in plan and "deep/user " in plan and "deep/pairs" not in plan
    assert "wide/lists " in plan and "deep/lists" not in plan
    with shardrec.open(folder.path) as model:
        assert any(weight[0] for weight in model.table("wide/lists")["vector"].to_pylist())  # all start at 0
    assert folder.config().load_schema() == folder.schema()

    summary = train_run(load(path, ["trainer.epochs=2"]), resume=True, quiet=True)
    assert summary is not None and summary["first_step"] == summary["steps"] // 2
    config, test = folder.config(), data / "test"
    found = launch(evaluate_worker, config, folder, splits={"test": str(test)}, step=summary["best_step"])
    assert found["metrics"]["test"]["auc"] == summary["metrics"]["test"]["auc"]
    scored = predict_rows(folder.path, (str(test),), tmp_path / "scores", quiet=True)
    assert scored is not None and scored["rows"] == summary["metrics"]["test"]["rows"]
