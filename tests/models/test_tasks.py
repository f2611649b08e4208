"""Loss terms, predictions and metrics of the tasks: weights, padding, down-sampling, clipping, wrong labels."""

from math import log

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import IdFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Label, Schema
from shardrec.models.base import PointwiseConfig
from shardrec.models.tasks import BinaryClassification, MultiClass, Pointwise, Regression
from tests.models.reference_lookup import make_batch

SCHEMA = Schema(features=(IdFeature(name="user", ids=Identity(num_ids=9)),))
LOGIT = np.array([0.3, -2.0, 1.5, 0.0, -0.7])
LABEL = np.array([1, 0, 1, 1, 0])
WEIGHT = np.array([1.0, 0.5, 2.0, 0.0, 3.0])


def batch(label: np.ndarray = LABEL, padding: int = 0, groups: np.ndarray | None = None) -> Batch:
    ids = {"user": [[i] for i in range(len(label))]}
    return make_batch(SCHEMA, ids, labels=label, weights=WEIGHT, groups=groups, padding=padding)


def output(padding: int = 0) -> torch.Tensor:
    return torch.cat([torch.from_numpy(LOGIT), torch.full((padding,), 50.0)])


@pytest.mark.parametrize("padding", [0, 3])
def test_binary_loss_is_the_weighted_log_loss(padding: int) -> None:
    term = BinaryClassification("label").loss(output(padding), batch(padding=padding))["log_loss"]
    p = 1 / (1 + np.exp(-LOGIT))
    assert float(term.count) == pytest.approx(6.5)
    assert float(term.total / term.count) == pytest.approx(sk.log_loss(LABEL, p, sample_weight=WEIGHT), abs=1e-12)


@pytest.mark.parametrize("padding", [0, 3])
def test_regression_loss_is_the_weighted_squared_error(padding: int) -> None:
    task = Regression("label", clip=(-1, 1))
    term = task.loss(output(padding), batch(padding=padding))["squared_error"]
    expected = sk.mean_squared_error(LABEL, LOGIT, sample_weight=WEIGHT)
    assert float(term.total / term.count) == pytest.approx(expected, abs=1e-12)


LOGITS = np.array([[0.3, 1.0, -2.0], [0.1, 0.0, 4.0], [-1.0, 2.0, 1.9], [9.0, 0.0, 0.0], [0.0, -3.0, -0.5]])
CLASS = np.array([1, 0, 2, 0, 0])


@pytest.mark.parametrize("padding", [0, 3])
def test_multi_class_loss_and_metrics_are_those_of_the_softmax(padding: int) -> None:
    task = MultiClass("label", 3)
    logits = torch.cat([torch.from_numpy(LOGITS), torch.full((padding, 3), 50.0)])
    rows = batch(CLASS, padding=padding)
    task.check(rows)
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    expected = sk.log_loss(CLASS, p, sample_weight=WEIGHT, labels=[0, 1, 2])
    term = task.loss(logits, rows)["log_loss"]
    assert float(term.total / term.count) == pytest.approx(expected, abs=1e-12)
    assert not task.broken_rows(logits, rows).any()  # another rank's rows may be broken
    spoilt = logits.index_fill(0, torch.tensor([3, *range(5, 5 + padding)]), torch.nan)
    assert task.broken_rows(spoilt, rows).nonzero().flatten().tolist() == [3]
    torch.testing.assert_close(task.prediction(logits)[:5], torch.from_numpy(p), rtol=0, atol=1e-12)
    metrics = task.metrics()
    metrics.update(logits, rows)
    values = metrics.compute()
    assert values["log_loss"] == pytest.approx(expected, abs=1e-12)
    accuracy = sk.accuracy_score(CLASS, LOGITS.argmax(1), sample_weight=WEIGHT)
    assert (values["accuracy"], values["rows"]) == (pytest.approx(accuracy), 5)
    assert next(iter(metrics.directions)) == "log_loss"
    assert metrics.larger_is_better("accuracy") and not metrics.larger_is_better("log_loss")


def test_padding_that_carries_weight_still_counts_nowhere() -> None:
    padded = batch(padding=3)
    padded.weights[:] = 1
    for task in (BinaryClassification("label"), Regression("label")):
        (term,) = task.loss(output(3), padded).values()
        assert float(term.count) == 5
        metrics = task.metrics()
        metrics.update(output(3), padded)
        assert metrics.compute()["rows"] == 5


def test_a_batch_of_padding_has_a_term_of_zero() -> None:
    rows = batch(padding=2)
    rows.rows[:] = -1
    term = BinaryClassification("label").loss(output(2), rows)["log_loss"]
    assert float(term.total) == float(term.count) == 0


def test_half_precision_outputs_lose_nothing_more() -> None:
    half = output().bfloat16()
    term = BinaryClassification("label").loss(half, batch())["log_loss"]
    same = BinaryClassification("label").loss(half.float(), batch())["log_loss"]
    assert term.total.dtype == torch.float32 and term.total == same.total


def test_down_sampled_negatives_are_corrected_in_predictions_and_metrics_but_not_in_the_loss() -> None:
    plain, corrected = BinaryClassification("label"), BinaryClassification("label", negative_rate=0.1)
    assert plain.loss(output(), batch())["log_loss"].total == corrected.loss(output(), batch())["log_loss"].total
    p = plain.prediction(output())
    # Bayes: of p / (1 - p) odds seen with a tenth of the negatives, a tenth are real
    odds = p / (1 - p) * 0.1
    torch.testing.assert_close(corrected.prediction(output()), odds / (1 + odds), rtol=0, atol=1e-12)
    values = {}
    for down_sampled in (True, False):
        metrics = corrected.metrics(down_sampled=down_sampled)
        metrics.update(output(), batch())
        values[down_sampled] = metrics.compute()
    expected = sk.log_loss(LABEL, (odds / (1 + odds)).numpy(), sample_weight=WEIGHT)
    assert values[False]["log_loss"] == pytest.approx(expected, abs=1e-12)
    assert values[True]["log_loss"] == pytest.approx(sk.log_loss(LABEL, p.numpy(), sample_weight=WEIGHT), abs=1e-12)
    assert values[True]["auc"] == values[False]["auc"]


def test_regression_metrics_are_of_clipped_predictions() -> None:
    task = Regression("label", clip=(-1, 1))
    assert task.prediction(output()).tolist() == pytest.approx([0.3, -1, 1, 0, -0.7])
    metrics = task.metrics()
    metrics.update(output(2), batch(padding=2))
    values = metrics.compute()
    assert values["rmse"] == pytest.approx(
        sk.root_mean_squared_error(LABEL, LOGIT.clip(-1, 1), sample_weight=WEIGHT), abs=1e-7
    )
    assert values["mae"] == pytest.approx(
        sk.mean_absolute_error(LABEL, LOGIT.clip(-1, 1), sample_weight=WEIGHT), abs=1e-7
    )


def test_gauc_comes_with_groups() -> None:
    metrics = BinaryClassification("label", grouped=True).metrics()
    metrics.update(output(2), batch(padding=2, groups=np.array([7, 7, -1, 7, -1])))
    values = metrics.compute()
    assert (values["gauc"], values["gauc_groups"]) == (1.0, 2)
    with pytest.raises(UserError, match="gauc"):
        BinaryClassification("label").metrics().larger_is_better("gauc")


def test_early_stopping_asks_for_the_direction() -> None:
    metrics = BinaryClassification("label").metrics()
    assert next(iter(metrics.directions)) == "auc" and next(iter(Regression("label").metrics().directions)) == "rmse"
    assert metrics.larger_is_better("auc") and not metrics.larger_is_better("log_loss")
    with pytest.raises(UserError, match="unknown metric to select by 'logloss'; did you mean 'log_loss'"):
        metrics.larger_is_better("logloss")
    with pytest.raises(UserError, match="'calibration'"):
        metrics.larger_is_better("calibration")


@pytest.mark.parametrize(
    ("task", "label", "line"),
    [
        (
            BinaryClassification("label"),
            [1, 0, -1, 1, 0],
            "found -1 in row 2; binary classification needs labels from 0",
        ),
        (BinaryClassification("label"), [1, 0, float("nan"), 5, 0], "found nan in row 2"),
        (Regression("label"), [1, 0, 3, float("inf"), 0], "found inf in row 3; regression needs finite labels"),
        (MultiClass("label", 3), [2, 0, 3, 1, 0], "found 3 in row 2; classification into 3 classes needs whole labels"),
        (MultiClass("label", 3), [2, 0.5, 3, 1, 0], "found 0.5 in row 1; .* whole labels from 0 to 2"),
        (MultiClass("label", 3), [2, 1, 1, 1, -1], "found -1 in row 4"),
    ],
)
def test_wrong_labels_are_one_line(task: Pointwise, label: list[float], line: str) -> None:
    task.check(batch())
    with pytest.raises(UserError, match=line):
        task.check(batch(np.array(label), padding=2))


def test_the_task_of_a_config() -> None:
    schema = SCHEMA.model_copy(update={"labels": (Label(name="click"), Label(name="stars")), "negative_rate": 0.2})
    assert PointwiseConfig().build_task(schema).label == "click"
    rating = PointwiseConfig(task="regression", label="stars", clip=(1, 5)).build_task(schema)
    assert isinstance(rating, Regression) and (rating.label, rating.clip) == ("stars", (1, 5))
    binary = PointwiseConfig().build_task(schema)
    assert isinstance(binary, BinaryClassification)
    assert float(binary.prediction(torch.zeros(1))) == pytest.approx(0.2 / 1.2)
    assert log(binary.negative_rate) == pytest.approx(log(0.2))
    with pytest.raises(UserError, match="unknown label 'strs'; did you mean 'stars'"):
        PointwiseConfig(label="strs").build_task(schema)
