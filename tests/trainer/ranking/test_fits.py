"""Isotonic and logistic maps are those of scikit-learn; errors of calibration are those of plain loops."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as sklearn_log_loss

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.checkpoints.calibration import Calibration
from shardrec.trainer.ranking.calibrate import Method, ScoredRows, fit_calibration
from shardrec.trainer.ranking.isotonic import fit_isotonic
from shardrec.trainer.ranking.platt import fit_platt
from shardrec.trainer.ranking.reliability import Array, Reliability, log_loss


def drawn(rows: int, seed: int, digits: int = 3) -> tuple[Array, Array, Array]:
    """Predictions with ties that are too bold, labels and weights."""
    draw = np.random.default_rng(seed)
    prediction = draw.random(rows).round(digits)
    label = (draw.random(rows) < 0.3 + 0.4 * prediction).astype(np.float64)
    weight = draw.choice([0.5, 1.0, 2.0], rows)
    return prediction, label, weight / weight.mean()


@pytest.mark.parametrize("rows", [60, 5000])
@pytest.mark.parametrize("digits", [1, 3, 12])
def test_an_isotonic_map_is_scikit_learns(rows: int, digits: int) -> None:
    prediction, label, weight = drawn(rows, seed=digits, digits=digits)
    asked = np.linspace(-0.1, 1.1, 3001)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(prediction, label, weight)
    x, y = fit_isotonic(prediction, label, weight)
    found = Calibration(method="isotonic", x=x.tolist(), y=y.tolist())(asked)
    assert found.min() > 0 and found.max() < 1
    of_both = (theirs.predict(prediction) > 0) & (theirs.predict(prediction) < 1)  # pieces of one class: see below
    between = (asked >= prediction[of_both].min()) & (asked <= prediction[of_both].max())
    assert between.sum() > 1000
    np.testing.assert_allclose(found[between], theirs.predict(asked[between]), atol=1e-9)


def test_an_isotonic_map_of_what_is_pooled_one_by_one() -> None:
    """Ascending labels with one low one at the end: a round pools one pair only, which the loop takes over."""
    label = np.append(np.linspace(0.1, 0.9, 400), 0.2)
    prediction, weight = np.arange(401.0), np.ones(401)
    expected = IsotonicRegression().fit(prediction, label).predict(prediction)
    np.testing.assert_allclose(np.interp(prediction, *fit_isotonic(prediction, label, weight)), expected, atol=1e-12)


def test_pieces_of_one_class_say_neither_never_nor_always() -> None:
    prediction = np.array([0.1, 0.2, 0.3, 0.6, 0.5, 0.9])
    label = np.array([0.0, 0.0, 0.0, 0.0, 1.0, 1.0])
    x, y = fit_isotonic(prediction, label, np.ones(6))
    assert x.tolist() == [0.1, 0.3, 0.5, 0.6, 0.9]
    assert y.tolist() == [0.5 / 4, 0.5 / 4, 0.5, 0.5, 1 - 0.5 / 2]


@pytest.mark.parametrize("seed", range(3))
def test_platts_map_is_scikit_learns_logistic_regression(seed: int) -> None:
    prediction, label, weight = drawn(500, seed, digits=12)
    positive, negative = (weight * label).sum(), (weight * (1 - label)).sum()
    target = np.where(label == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))
    x = np.log(prediction / (1 - prediction))[:, None]
    weights = np.concatenate([weight * target, weight * (1 - target)])
    both = np.concatenate([np.ones(500), np.zeros(500)])
    expected = LogisticRegression(C=np.inf, tol=1e-10).fit(np.concatenate([x, x]), both, weights)
    found = fit_platt(prediction, label, weight)
    np.testing.assert_allclose(found, [expected.coef_[0, 0], expected.intercept_[0]], rtol=1e-4)


def test_platts_map_of_what_one_number_tells_apart_is_finite() -> None:
    prediction = np.array([0.0, 0.2, 0.4, 0.6, 1.0])
    a, b = fit_platt(prediction, np.array([0.0, 0, 0, 1, 1]), np.ones(5))
    mapped = Calibration(method="platt", a=a, b=b)(prediction)
    assert 0 < a < 100 and (np.diff(mapped) > 0).all() and mapped[0] > 0 and mapped[-1] < 1


def test_platts_map_never_turns_an_order_around() -> None:
    prediction, label, weight = drawn(500, seed=0)
    with pytest.raises(UserError, match=r"found a slope of -.* no better than chance"):
        fit_platt(prediction, 1 - label, weight)
    with pytest.raises(UserError, match="found a slope of 0"):
        fit_platt(np.full(500, 0.5), label, weight)


def test_the_calibration_error_is_that_of_a_loop() -> None:
    prediction, label, weight = drawn(997, seed=5, digits=2)
    order = np.argsort(prediction, kind="stable")
    bins: dict[int, list[int]] = {}
    for value in np.unique(prediction):
        before = weight[prediction < value].sum() + weight[prediction == value].sum() / 2
        bins.setdefault(int(before / weight.sum() * 20), []).extend(i for i in order if prediction[i] == value)
    error = 0.0
    for rows in bins.values():
        total = sum(weight[i] for i in rows)
        gap = sum(weight[i] * (prediction[i] - label[i]) for i in rows) / total
        error += abs(gap) * total / weight.sum()
    found = Reliability.of(prediction, label, weight)
    assert len(found.weight) == len(bins) == 20
    assert found.error == pytest.approx(error, rel=1e-9)
    within = np.clip(prediction, 1e-15, 1 - 1e-15)
    assert log_loss(prediction, label, weight) == pytest.approx(sklearn_log_loss(label, within, sample_weight=weight))


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_the_parts_of_rows_that_come_in_fives_all_have_positives(method: Method) -> None:
    """A positive and then its four negatives, as candidates are often written: each fifth row is of one class."""
    draw = np.random.default_rng(0)
    label = np.tile([1.0, 0, 0, 0, 0], 200)
    chance = np.clip(0.2 + 0.2 * (label - 0.2) + 0.05 * draw.normal(size=1000), 0.01, 0.99)
    found, _ = fit_calibration({"validation": ScoredRows(chance, label, np.ones(1000))}, method, 1, "")
    measured = found.measured["validation"]
    assert measured.log_loss[1] < measured.log_loss[0] and measured.ece[1] < 0.05 < measured.ece[0]
