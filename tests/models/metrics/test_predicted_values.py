"""Pictures of predicted numbers against plain loops over rows, whatever batches they come in."""

from typing import Any

import numpy as np
import pytest
import torch

from shardrec.models.metrics import Predictions
from shardrec.models.metrics.binned_curves import CALIBRATION_BINS, HISTOGRAM_BINS
from shardrec.models.metrics.collective import Alone
from shardrec.models.metrics.metric import Columns
from shardrec.models.metrics.predicted_values import CAPACITY, PredictedValues
from tests.models.metrics.rows import CASES, CURVES, pictures


def rows(count: int, *, stars: bool) -> Predictions:
    draw = np.random.default_rng(count)
    prediction = draw.normal(3, 1, count).astype(np.float32).astype(np.float64)
    label = prediction + draw.normal(size=count)
    label = np.clip(np.rint(label), 1, 5) if stars else label.astype(np.float32).astype(np.float64)
    weight = draw.choice([0.0, 0.5, 1.0, 2.0], count)
    value, label, weight = map(torch.tensor, (prediction, label, weight))
    return Predictions(score=value, value=value, label=label, weight=weight)


def found(given: Predictions, batches: int = 3) -> dict[str, Columns]:
    metric = PredictedValues()
    for parts in zip(*(column.chunk(batches) for column in given[:4]), strict=True):
        metric.update(Predictions(*parts))
    curves = metric.binned_curves(Alone())
    assert curves is not None and metric.compute(Alone()) == {}
    return curves


def counted(values: torch.Tensor, weight: torch.Tensor, edges: list[float | None]) -> list[float]:
    inner = np.array(edges[1:-1], float)
    place = np.searchsorted(inner, values.numpy(), side="right")
    return np.bincount(place, weight.numpy(), len(edges) - 1).tolist()


@pytest.mark.parametrize("stars", [False, True])
def test_each_row_is_counted_by_its_prediction_its_label_and_its_error(stars: bool) -> None:
    given = rows(3000, stars=stars)
    curves = found(given)
    values, errors, bins = (curves[name] for name in ("values", "errors", "calibration"))
    if stars:
        assert values["edges"] == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5], "a star is in the middle of its bin"
    else:
        assert len(values["edges"]) == HISTOGRAM_BINS + 1
    for name, of in (("predictions", given.value), ("labels", given.label)):
        np.testing.assert_allclose(np.array(values[name], float), counted(of, given.weight, values["edges"]), atol=2)
        assert sum(x or 0 for x in values[name]) == pytest.approx(float(given.weight.sum()), rel=1e-4)
    expected = counted(given.value - given.label, given.weight, errors["edges"])
    np.testing.assert_allclose(np.array(errors["weight"], float), expected, atol=2)

    counts = given.weight.numpy() > 0
    order = np.argsort(np.where(counts, given.value.numpy(), np.inf))[: counts.sum()]
    weight = given.weight.numpy()[order]
    place = ((weight.cumsum() - weight / 2) / weight.sum() * CALIBRATION_BINS).astype(int)
    for column, of in (("prediction_mean", given.value), ("label_mean", given.label)):
        means = np.bincount(place, weight * of.numpy()[order]) / np.bincount(place, weight)
        np.testing.assert_allclose(np.array(bins[column], float), means, rtol=1e-4)


@pytest.mark.parametrize("name", CURVES)
def test_two_ranks_have_one_picture(two_ranks: list[dict[str, Any]], name: str) -> None:
    alone = pictures(CASES[name], Alone())
    assert alone is not None
    for rank in two_ranks:
        found = rank[f"pictures of {name}"]
        assert found.keys() == alone.keys()
        for part, columns in alone.items():
            for column, values in columns.items():
                np.testing.assert_allclose(found[part][column], values, rtol=1e-4, atol=1e-9, err_msg=column)


def test_many_rows_are_merged_to_what_a_picture_tells_apart() -> None:
    count = 2 * CAPACITY
    curves = found(rows(count, stars=False), batches=1)
    total = np.array(curves["calibration"]["weight"], float)
    assert len(total) == CALIBRATION_BINS and total.max() < 1.02 * total.mean()
    gap = np.array(curves["calibration"]["label_mean"], float) - np.array(
        curves["calibration"]["prediction_mean"], float
    )
    assert np.abs(gap).max() < 0.06  # the noise's mean over a bin's 13,000 rows, and what merging adds


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_predictions_that_are_not_finite_have_no_picture(value: float) -> None:
    metric, ones = PredictedValues(), torch.ones(2)
    metric.update(Predictions(ones, torch.tensor([1.0, value]), ones, ones))
    assert metric.binned_curves(Alone()) is None


def test_one_prediction_for_one_label_has_a_picture() -> None:
    ones = torch.full((4,), 2.5)
    curves = found(Predictions(ones, ones, ones, torch.ones(4)), batches=1)
    assert curves["calibration"] == {"prediction_mean": [2.5], "label_mean": [2.5], "weight": [4.0]}
    assert sum(x or 0 for x in curves["errors"]["weight"]) == 4
