"""All metrics equal scikit-learn's, on one process and on two ranks."""

import copy
import json
import pickle
from collections.abc import Callable
from functools import cache
from math import nan
from typing import Any

import numpy as np
import pytest
import torch

from shardrec.models.metrics import (
    Accuracy,
    Calibration,
    Errors,
    GroupedAUC,
    LogLoss,
    Metric,
    MetricSet,
    Predictions,
    Ranking,
    TopK,
    gathered_table,
)
from shardrec.models.metrics.collective import Alone
from shardrec.models.undefined import Undefined, undefined_in, with_reasons
from tests.models.metrics.rows import CASES, COARSE, by_scikit_learn, run_alone


@cache
def expected(name: str) -> dict[str, float]:
    return by_scikit_learn(CASES[name])


def check(found: dict[str, float], name: str) -> None:
    assert found.keys() == expected(name).keys()
    for value, wanted in expected(name).items():
        np.testing.assert_allclose(found[value], wanted, rtol=0, atol=1e-6, err_msg=value)


@pytest.mark.parametrize("name", CASES)
def test_one_process_equals_scikit_learn(name: str) -> None:
    check(run_alone(CASES[name]), name)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_equal_scikit_learn(two_ranks: list[dict[str, Any]], name: str) -> None:
    for rank in two_ranks:
        check(rank[name], name)


@pytest.mark.parametrize("name", COARSE)
def test_beyond_their_capacity_ranks_agree_and_stay_within_the_bound(
    two_ranks: list[dict[str, Any]], name: str
) -> None:
    for found in (run_alone(COARSE[name]), *(rank[f"coarse {name}"] for rank in two_ranks)):
        bound = found["auc_error_bound"]
        assert abs(found["auc"] - expected(name)["auc"]) <= bound < 0.02
        assert found["gauc_sampled_share"] <= 1 / 4
        assert found["gauc_groups"] + found["gauc_skipped_groups"] > 0
        assert found["top_k_sampled_share"] == found["gauc_sampled_share"]
        assert found["top_k_groups"] == found["gauc_groups"]
        assert abs(found["gauc"] - expected(name)["gauc"]) < 0.15
    np.testing.assert_equal(two_ranks[0][f"coarse {name}"], two_ranks[1][f"coarse {name}"])


def feed(metric: Ranking, name: str, rows: int) -> dict[str, float]:
    case = CASES[name]
    for start in range(0, len(case.logit), rows):
        metric.update(case.predictions(slice(start, start + rows)))
    return metric.compute(Alone())


def test_settling_along_the_way_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = feed(Ranking(), "weights and ties", 100)
    monkeypatch.setattr(gathered_table, "COMPACTION_ROWS", 64)
    for name in ("weights and ties", "squeezed"):
        assert feed(Ranking(), name, 100)["auc"] == pytest.approx(expected(name)["auc"], abs=1e-12)
    assert feed(Ranking(), "weights and ties", 100) == pytest.approx(exact, abs=1e-12)


def test_settling_along_the_way_keeps_to_memory_and_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered_table, "COMPACTION_ROWS", 64)
    metric = Ranking(capacity=500)
    found = feed(metric, "squeezed", 100)
    kept = metric._gathered._table
    assert kept is not None and kept.keys.numel() <= 500
    assert 0 < abs(found["auc"] - expected("squeezed")["auc"]) <= found["auc_error_bound"] < 0.01


@pytest.mark.parametrize("nan", [float("nan"), -float("nan")])
@pytest.mark.parametrize("metric", [Ranking, GroupedAUC, lambda: TopK((1,))])
def test_a_nan_score_makes_nan(metric: Callable[[], Metric], nan: float) -> None:
    score = torch.tensor([1.0, nan, 2.0, float("inf")], dtype=torch.float64)
    label, one = torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.ones(4)
    found = metric()
    found.update(Predictions(score, score, label, one, torch.zeros(4, dtype=torch.int64)))
    values = found.compute(Alone())
    assert np.isnan(values[next(iter(values))])


def rows_of(label: list[float], weight: list[float] | None = None, score: list[float] | None = None) -> Predictions:
    n = len(label)
    scores, ones = torch.tensor(score or [0.5] * n).double(), torch.ones(n).double()
    weights = ones if weight is None else torch.tensor(weight).double()
    return Predictions(scores, torch.sigmoid(scores), torch.tensor(label).double(), weights, torch.arange(n) // 2)


UNDEFINED = {
    "all labels are 0": (rows_of([0, 0, 0]), ("auc", "average_precision", "normalized_entropy", "calibration")),
    "all labels are 1": (rows_of([1, 1, 1]), ("auc", "normalized_entropy")),
    "no row has a weight over 0": (
        rows_of([1, 0], weight=[0, 0]),
        ("auc", "average_precision", "log_loss", "normalized_entropy", "calibration", "accuracy", "rmse", "mae"),
    ),
    "no group has rows of both classes": (
        rows_of([1, 1, 0, 0]),
        ("gauc", "hr@1", "ndcg@1", "recall@1", "precision@1", "mrr"),
    ),
    "the model's scores are NaN": (rows_of([1, 0], score=[nan, 0.0]), ("auc", "average_precision", "gauc", "mrr")),
    "the model's scores are not finite": (rows_of([1, 0], score=[nan, 0.0]), ("log_loss", "calibration", "rmse")),
}


@pytest.mark.parametrize("reason", UNDEFINED)
def test_what_rows_do_not_define_is_a_value_that_says_why(reason: str) -> None:
    rows, names = UNDEFINED[reason]
    metrics = MetricSet(
        [Ranking(), LogLoss(), Calibration(), Accuracy(), Errors(), GroupedAUC(), TopK((1,))], lambda rows, _: rows
    )
    metrics.update(rows, None)  # type: ignore[arg-type]
    values = metrics.compute()
    assert undefined_in(values).items() >= dict.fromkeys(names, reason).items()
    assert all(isinstance(v, Undefined) or np.isfinite(v) for v in values.values())
    for copied in (pickle.loads(pickle.dumps(values)), copy.deepcopy(values)):
        assert undefined_in(copied) == undefined_in(values)
    again = with_reasons(json.loads(json.dumps(values)), undefined_in(values))
    assert undefined_in(again) == undefined_in(values)
    np.testing.assert_equal(again, values)
