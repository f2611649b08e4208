"""Binned curves against plain loops over rows, and that keeping the merged table changes no metric."""

import math

import numpy as np
import pytest
import torch

from shardrec.models.metrics import Predictions, Ranking
from shardrec.models.metrics.binned_curves import (
    CALIBRATION_BINS,
    HISTOGRAM_BINS,
    POINTS,
    ScoreHistogram,
    binned_curves,
)
from shardrec.models.metrics.collective import Alone
from shardrec.models.metrics.score_table import ScoreTable


def rows(count: int, seed: int = 0) -> Predictions:
    draw = np.random.default_rng(seed)
    logit = draw.normal(size=count).astype(np.float32)
    label = (draw.random(count) < 1 / (1 + np.exp(-2 * logit))).astype(np.float64)
    score = torch.tensor(logit).double()
    weight = torch.tensor(draw.choice([0.5, 1.0, 2.0], count))
    return Predictions(score, torch.sigmoid(score), torch.tensor(label), weight, None)


def table_of(given: Predictions) -> ScoreTable:
    metric = Ranking()
    metric.update(given)
    table = metric.score_table(Alone())
    assert table is not None
    return table


def test_a_histogram_counts_each_row_once_in_the_bin_of_its_prediction() -> None:
    given = rows(3000)
    histogram = ScoreHistogram.of(table_of(given), bins=7)
    edges = histogram.edges.tolist()
    expected = np.zeros((2, 7))
    for p, y, w in zip(given.value.tolist(), given.label.tolist(), given.weight.tolist(), strict=True):
        inside = sum(p >= edge for edge in edges[1:-1])
        expected[int(y), inside] += w
    np.testing.assert_allclose(torch.stack([histogram.negatives, histogram.positives]).numpy(), expected)
    beyond = sum(w for p, w in zip(given.value.tolist(), given.weight.tolist(), strict=True) if p < edges[0])
    assert 0 < beyond / float(given.weight.sum()) <= 0.001


@pytest.mark.parametrize("count", [1, 2, 50])
def test_few_and_equal_scores_have_a_histogram(count: int) -> None:
    score, ones = torch.full((count,), 0.3), torch.ones(count)
    found = binned_curves(table_of(Predictions(score, torch.sigmoid(score), ones, ones, None)))
    assert sum(x or 0 for x in found["histogram"]["positives"]) == count
    assert found["points"]["false_positive_rate"] == [0.0, None], "rates of negatives that are not there"


def test_curves_stay_small_and_hold_numbers_that_json_has() -> None:
    found = binned_curves(table_of(rows(60_000)))
    assert 100 < len(found["points"]["precision"]) <= POINTS
    assert (
        len(found["calibration"]["weight"]) <= CALIBRATION_BINS
        and len(found["histogram"]["edges"]) == HISTOGRAM_BINS + 1
    )
    assert all(x is None or math.isfinite(x) for part in found.values() for column in part.values() for x in column)
    roc = zip(found["points"]["false_positive_rate"], found["points"]["true_positive_rate"], strict=True)
    x, y = np.array(list(roc), dtype=float).T
    metric = Ranking()
    metric.update(rows(60_000))
    assert np.trapezoid(y, x) == pytest.approx(metric.compute(Alone())["auc"], abs=1e-3)


def test_rows_that_come_after_a_curve_count_in_the_next_metric() -> None:
    first, second = rows(500), rows(700, seed=1)
    metric, fresh = Ranking(), Ranking()
    metric.update(first)
    assert metric.score_table(Alone()) is not None
    metric.update(second)
    for given in (first, second):
        fresh.update(given)
    assert metric.compute(Alone()) == fresh.compute(Alone())
