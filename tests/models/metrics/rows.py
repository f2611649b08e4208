"""Rows to score, what our metrics make of them on a rank, and what scikit-learn makes of all of them."""

import warnings
from collections.abc import Sequence
from itertools import pairwise
from math import nan
from typing import NamedTuple

import numpy as np
import torch
from sklearn import metrics as sk

from shardrec.models.metrics import (
    Accuracy,
    Calibration,
    CalibrationBins,
    Errors,
    GroupedAUC,
    LogLoss,
    Metric,
    OperatingPoints,
    PredictedValues,
    Predictions,
    Ranking,
    Rows,
    TopK,
)
from shardrec.models.metrics.collective import Alone, Collective
from shardrec.models.metrics.metric import Columns

CUTOFFS = (1, 5)


class Case(NamedTuple):
    """[n] columns; `cuts` are the places where batches end, the two ranks take them in turn."""

    logit: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    group: np.ndarray
    cuts: tuple[int, ...] = ()
    capacity: int = 10_000_000

    def batches(self, collective: Collective) -> list[Predictions]:
        edges = [0, *self.cuts, len(self.logit)]
        parts = [slice(a, b) for a, b in pairwise(edges)]
        mine = parts[collective.rank :: collective.world_size] or [slice(0, 0)]
        return [self.predictions(part) for part in mine]

    def predictions(self, part: slice) -> Predictions:
        logit, label, weight = (
            torch.as_tensor(column[part], dtype=torch.float64) for column in (self.logit, self.label, self.weight)
        )
        return Predictions(logit, torch.sigmoid(logit), label, weight, torch.as_tensor(self.group[part]))


def run(case: Case, collective: Collective) -> dict[str, float]:
    """Everything that our metrics say of a case; a second `compute` must say the same."""
    metrics: Sequence[Metric] = (
        Ranking(case.capacity), LogLoss(), Calibration(), Accuracy(), Errors(), Rows(), GroupedAUC(case.capacity),
        TopK(CUTOFFS, case.capacity),
    )  # fmt: skip
    for rows in case.batches(collective):
        for metric in metrics:
            metric.update(rows)
    values = [{k: v for m in metrics for k, v in m.compute(collective).items()} for _ in range(2)]
    np.testing.assert_equal(values[0], values[1])
    return values[0]


def run_alone(case: Case) -> dict[str, float]:
    return run(case, Alone())


def curves(case: Case, collective: Collective) -> tuple[OperatingPoints, CalibrationBins] | None:
    """The curves of a case, from metrics that go on to be computed."""
    metric = Ranking(case.capacity)
    for rows in case.batches(collective):
        metric.update(rows)
    found = metric.curves(collective)
    metric.compute(collective)
    return found


def pictures(case: Case, collective: Collective) -> dict[str, Columns] | None:
    """What pictures of a case's predicted values are drawn of."""
    metric = PredictedValues()
    for rows in case.batches(collective):
        metric.update(rows)
    return metric.binned_curves(collective)


def by_scikit_learn(case: Case) -> dict[str, float]:
    """The same values by scikit-learn, NaN where they are not defined."""
    logit, y, w, group = case.logit.astype(np.float64), case.label.astype(np.float64), case.weight, case.group
    w = w.astype(np.float64)
    p = 1 / (1 + np.exp(-logit.clip(-50, 50)))
    mean = np.average(y, weights=w)
    one_class = mean in (0, 1)
    # scikit-learn's log loss clips at the resolution of its dtype; the logits of the extreme case are beyond that
    log_loss = np.average(np.logaddexp(0, logit) - y * logit, weights=w)
    if np.abs(logit).max() < 30:
        assert abs(sk.log_loss(y, p, sample_weight=w, labels=[0, 1]) - log_loss) < 1e-9
    entropy = nan if one_class else -mean * np.log(mean) - (1 - mean) * np.log(1 - mean)
    gauc, counted, skipped = grouped_auc(logit, y, w, group)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision = nan if mean == 0 else sk.average_precision_score(y, logit, sample_weight=w)
        auc = nan if one_class else sk.roc_auc_score(y, logit, sample_weight=w)
    return {
        "auc": auc,
        "average_precision": precision,
        "log_loss": log_loss,
        "normalized_entropy": log_loss / entropy,
        "calibration": np.average(p, weights=w) / mean if mean else nan,
        "label_mean": mean,
        "prediction_mean": np.average(p, weights=w),
        "accuracy": sk.accuracy_score(y, p >= 0.5, sample_weight=w),
        "rmse": sk.root_mean_squared_error(y, p, sample_weight=w),
        "mae": sk.mean_absolute_error(y, p, sample_weight=w),
        "rows": len(y),
        "gauc": gauc,
        "gauc_groups": counted,
        "gauc_skipped_groups": skipped,
        **top_k(case.logit, y, w, group),
    }


def top_k(logit: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray) -> dict[str, float]:
    """All top-K metrics at the cutoffs by a loop over groups and their ranks."""
    names = [*(f"{name}@{k}" for k in CUTOFFS for name in ("hr", "ndcg", "recall", "precision")), "mrr"]
    values: dict[str, list[float]] = {name: [] for name in names}
    counted = skipped = 0
    for g in np.unique(group):
        mine = (group == g) & (w > 0)
        positives, negatives = logit[mine & (y == 1)], logit[mine & (y == 0)]
        if not len(positives) or not len(negatives):
            skipped += bool(mine.any())
            continue
        counted += 1
        best_first = sorted(positives, reverse=True)
        ranks = [i + 1 + sum(other >= score for other in negatives) for i, score in enumerate(best_first)]
        for k in CUTOFFS:
            hits = [rank for rank in ranks if rank <= k]
            best = sum(1 / np.log2(i + 2) for i in range(min(k, len(ranks))))
            values[f"hr@{k}"].append(1.0 if hits else 0.0)
            values[f"ndcg@{k}"].append(sum(1 / np.log2(rank + 1) for rank in hits) / best)
            values[f"recall@{k}"].append(len(hits) / len(ranks))
            values[f"precision@{k}"].append(len(hits) / k)
        values["mrr"].append(1 / ranks[0])
    means = {name: float(np.mean(of_groups)) if counted else nan for name, of_groups in values.items()}
    return means | {"top_k_groups": counted, "top_k_skipped_groups": skipped}


def grouped_auc(logit: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray) -> tuple[float, int, int]:
    """Impression-weighted mean of the groups' AUCs, groups counted, groups of one class."""
    aucs, weights, skipped = [], [], 0
    for g in np.unique(group):
        mine = (group == g) & (w > 0)
        if len(np.unique(y[mine])) == 2:
            aucs.append(sk.roc_auc_score(y[mine], logit[mine], sample_weight=w[mine]))
            weights.append(w[mine].sum())
        else:
            skipped += bool(mine.any())
    return (float(np.average(aucs, weights=weights)) if aucs else nan), len(aucs), skipped


def case(
    seed: int = 0,
    n: int = 3000,
    *,
    logit: np.ndarray | None = None,
    label: np.ndarray | None = None,
    weight: np.ndarray | None = None,
    groups: int = 50,
    cuts: tuple[int, ...] = (700, 1500, 1501),
) -> Case:
    """n random rows whose labels lean on their logits, unless columns are given."""
    r = np.random.default_rng(seed)
    logit = r.normal(size=n) if logit is None else logit
    logit = logit.astype(np.float32)
    label = (r.random(len(logit)) < 1 / (1 + np.exp(-logit.clip(-50, 50)))) if label is None else label
    weight = np.ones(len(logit), np.float32) if weight is None else weight
    group = r.integers(-(2**63), 2**63 - 1, groups)[r.integers(0, groups, len(logit))]
    return Case(logit, label.astype(np.float32), weight.astype(np.float32), group, cuts)


def squeezed(n: int = 3000) -> Case:
    """Probabilities between 0.0100 and 0.0101."""
    p = np.random.default_rng(1).uniform(0.0100, 0.0101, n)
    label = np.random.default_rng(2).random(n) < (p - 0.0100) / 0.0001
    return case(logit=np.log(p / (1 - p)), label=label)


R = np.random.default_rng(7)
CASES = {
    "plain": case(),
    "ties": case(logit=R.integers(-3, 4, 3000) / 2),
    "constant": case(logit=np.full(3000, -1.5)),
    "weights": case(weight=R.exponential(size=3000) * (R.random(3000) < 0.8)),
    "weights and ties": case(logit=R.integers(-3, 4, 3000) / 2, weight=R.integers(0, 3, 3000)),
    "squeezed": squeezed(),
    "signed zeros": case(logit=R.choice([-0.0, 0.0, 1e-30, -1e-30], 3000)),
    "far out": case(logit=R.normal(size=3000) * 200),
    "positives only": case(label=np.ones(3000)),
    "negatives only": case(label=np.zeros(3000)),
    "one positive": case(label=np.arange(3000) == 1234),
    "many groups": case(n=1500, groups=400),
    "one group": case(groups=1),
    "one rank has all": case(cuts=()),
    "three rows": case(n=3, cuts=(1,)),
}
COARSE = {name: CASES[name]._replace(capacity=200) for name in ("plain", "squeezed", "weights", "many groups")}
CURVES = ("plain", "weights and ties", "one rank has all")
