"""A model of several classes from training to predictions; a label that is no class ends the run with one line."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn import metrics as sk

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Label
from shardrec.trainer.config.load import load
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.scoring.evaluate import evaluate_run
from shardrec.trainer.scoring.predict import predict_rows
from shardrec.trainer.training.train_run import train_run
from tests.trainer.small_run import SCHEMA, run_file, write_data


def configured(folder: Path, classes: int) -> RunConfig:
    """A run that learns `kind`, 0 to 2, from features of which it is one."""
    SCHEMA.model_copy(update={"labels": (Label(column="kind"),)}).save(folder / "data/schema.yaml")
    path = run_file(folder / "run.yaml", folder / "data")
    content = yaml.safe_load(path.read_text())
    content["model"] = {"name": "deep_crossing", "embedding_dim": 4, "units": [8], "classes": classes}
    path.write_text(yaml.safe_dump(content))
    return load(path)


def test_predictions_are_lists_of_probabilities_and_make_the_metrics(tmp_path: Path) -> None:
    write_data(tmp_path / "data", rows=1500)
    summary = train_run(configured(tmp_path, classes=3), quiet=True)
    predict_rows(tmp_path / "run", (str(tmp_path / "data/test"),), tmp_path / "scores", quiet=True)
    found, rows = pq.read_table(tmp_path / "scores"), pq.read_table(tmp_path / "data/test")
    p = np.stack(found["prediction"].to_numpy()).astype(float)
    kind, weight = rows["kind"].to_numpy(), rows["weight"].to_numpy()
    assert p.shape == (rows.num_rows, 3)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
    p /= p.sum(1, keepdims=True)  # of float32 numbers
    metrics = summary["metrics"]["test"]
    assert metrics["log_loss"] == pytest.approx(sk.log_loss(kind, p, sample_weight=weight), abs=1e-5)
    assert metrics["accuracy"] == pytest.approx(sk.accuracy_score(kind, p.argmax(1), sample_weight=weight))
    assert metrics["accuracy"] > 0.8
    line = "curves: model deep_crossing does not score two classes apart, which .*; evaluate it without them$"
    with pytest.raises(UserError, match=line):
        evaluate_run(tmp_path / "run", curves=tmp_path / "curves", quiet=True)
    assert not (tmp_path / "curves").exists()


def test_a_label_that_is_no_class_is_one_line(tmp_path: Path) -> None:
    write_data(tmp_path / "data", rows=300)
    with pytest.raises(UserError, match=r"label 'label': found 2 in row \d+; classification into 2 classes") as error:
        train_run(configured(tmp_path, classes=2), quiet=True)
    assert "\n" not in str(error.value)
