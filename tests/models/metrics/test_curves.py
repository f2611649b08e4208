"""Curves equal scikit-learn's, on one process and on two ranks; what is left out of them is within the bound."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from shardrec.models.metrics import CalibrationBins, MetricSet, OperatingPoints, Ranking, Rows
from shardrec.models.metrics.collective import Alone
from shardrec.models.metrics.score_table import ScoreTable
from tests.models.metrics.rows import CASES, CURVES, Case, case, curves, run_alone


def found_of(asked: Case) -> tuple[OperatingPoints, CalibrationBins]:
    found = curves(asked, Alone())
    assert found is not None
    return found


def live(asked: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, logits and weights; scikit-learn has points for scores without weight."""
    kept = asked.weight > 0
    return asked.label[kept], asked.logit[kept], asked.weight[kept].astype(np.float64)


def areas(points: OperatingPoints) -> tuple[float, float]:
    """AUC by trapezoids, and average precision by steps."""
    recall = points.true_positive_rate
    auc = torch.trapezoid(recall, points.false_positive_rate)
    return float(auc), float((recall.diff() * points.precision[1:]).sum())


@pytest.mark.parametrize("name", CURVES)
def test_points_equal_scikit_learns_and_make_the_metrics(two_ranks: list[dict[str, Any]], name: str) -> None:
    label, logit, weight = live(CASES[name])
    false, true, threshold = sk.roc_curve(label, logit, sample_weight=weight, drop_intermediate=False)
    precision, recall, _ = sk.precision_recall_curve(label, logit, sample_weight=weight)
    np.testing.assert_allclose(recall[::-1], true, atol=1e-12)
    for found, _ in (found_of(CASES[name]), *(rank[f"curves of {name}"] for rank in two_ranks)):
        for column, wanted in zip(found, (threshold, true, false, precision[::-1]), strict=True):
            np.testing.assert_allclose(column, wanted, rtol=0, atol=1e-12)
        metrics = run_alone(CASES[name])
        assert areas(found) == pytest.approx((metrics["auc"], metrics["average_precision"]), abs=1e-12)


@pytest.mark.parametrize("name", CURVES)
def test_bins_are_means_of_rows_whose_scores_are_neighbours(two_ranks: list[dict[str, Any]], name: str) -> None:
    label, logit, weight = live(CASES[name])
    order = np.argsort(logit, kind="stable")
    label, weight, p = label[order], weight[order], 1 / (1 + np.exp(-logit[order].astype(np.float64)))
    for _, bins in (found_of(CASES[name]), *(rank[f"curves of {name}"] for rank in two_ranks)):
        ends = np.searchsorted(weight.cumsum(), bins.weight.cumsum(0).numpy() - 1e-6)
        parts = np.split(np.arange(len(p)), ends[:-1] + 1)
        means = [[np.average(of[part], weights=weight[part]) for part in parts] for of in (p, label)]
        np.testing.assert_allclose(bins.prediction_mean, means[0], atol=1e-9)
        np.testing.assert_allclose(bins.label_mean, means[1], atol=1e-9)
        assert all(p[end] < p[end + 1] for end in ends[:-1]), "equal scores are in one bin"
    if "ties" not in name:
        assert len(bins.weight) == 10 and bins.weight.max() < weight.sum() / 10 + 2


def test_points_left_out_are_near_the_next_one_and_no_corner_is_lost() -> None:
    """Of rows that a model tells apart well, with a jump: many rows of one score."""
    r = np.random.default_rng(3)
    logit = np.concatenate([r.normal(size=40_000), np.full(9_000, 1.0)])
    all_points = OperatingPoints.of(scores_of(case(logit=logit)))
    kept = all_points.thinned(900)
    assert len(all_points.score) > 30_000 and len(kept.score) <= 900
    next_kept = torch.searchsorted(-kept.score, -all_points.score)
    way = (1.0, 1.0, float(all_points.precision.diff().abs().sum()))
    for whole, part, length in zip(all_points[1:], kept[1:], way, strict=True):
        assert float((whole - part[next_kept]).abs().max()) <= 3 / 896 * length
    assert torch.equal(kept.score[[0, -1]], all_points.score[[0, -1]])
    assert areas(kept) == pytest.approx(areas(all_points), abs=5e-4)
    jump = all_points.true_positive_rate.diff().argmax()
    near = [abs(kept.true_positive_rate - all_points.true_positive_rate[at]).min() for at in (jump, jump + 1)]
    assert max(near) <= 3 / 896
    assert kept.thinned(900) is kept


def scores_of(asked: Case) -> ScoreTable:
    rows = asked.predictions(slice(None))
    metric = Ranking(asked.capacity)
    metric.update(rows)
    return metric.score_table(Alone())  # type: ignore[return-value]


def test_of_merged_scores_points_are_still_those_of_all_rows() -> None:
    """Also at the ends, where a merged score lies beyond all numbers."""
    logit = CASES["plain"].logit.copy()
    logit[:3], logit[3:6] = -np.inf, np.inf
    merged, _ = found_of(CASES["plain"]._replace(logit=logit, capacity=200))
    label = CASES["plain"].label
    assert 50 < len(merged.score) <= 201 and not merged.score.isnan().any() and merged.score[-1] == -np.inf
    for score, true, false, precision in zip(*(column[1:] for column in merged), strict=True):
        positive = logit >= float(score)
        assert float(true) == pytest.approx(label[positive].sum() / label.sum())
        assert float(false) == pytest.approx((1 - label[positive]).sum() / (1 - label).sum())
        assert float(precision) == pytest.approx(label[positive].mean())


def test_rows_of_one_class_have_half_a_curve() -> None:
    positives, _ = found_of(CASES["positives only"])
    assert positives.false_positive_rate[1:].isnan().all() and positives.true_positive_rate[-1] == 1
    assert positives.precision.eq(1).all()
    many = case(n=12_000, label=np.zeros(12_000))
    negatives, bins = found_of(many)
    assert negatives.true_positive_rate[1:].isnan().all() and negatives.false_positive_rate[-1] == 1
    assert len(negatives.score) <= 10_000 and bins.label_mean.eq(0).all()


def test_rows_that_define_no_curve_have_none() -> None:
    rows = CASES["three rows"].predictions(slice(None))
    for none in (rows._replace(weight=rows.weight * 0), rows._replace(score=rows.score * torch.nan)):
        metrics = MetricSet([Rows(), Ranking()], lambda rows, _: rows)
        metrics.update(none, None)  # type: ignore[arg-type]
        assert metrics.has_curves and metrics.curves() is None
    assert not MetricSet([Rows()], lambda rows, _: rows).has_curves
