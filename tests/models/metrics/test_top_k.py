"""Top-K metrics where the answer is plain or torchmetrics'; other cases, on one and two ranks, are in test_metrics."""

from math import log2

import numpy as np
import pytest
import torch
from torchmetrics import retrieval

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import IdFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.base import PointwiseConfig
from shardrec.models.metrics import Predictions, TopK
from shardrec.models.metrics.collective import Alone

SCHEMA = Schema(features=(IdFeature(name="item", ids=Identity(num_ids=9)),), group="user")


def found(rows: list[tuple[int, float, float]], k: int, weight: list[float] | None = None) -> dict[str, float]:
    """rows: (group, score, label)."""
    group, score, label = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    metric = TopK((k,))
    weights = torch.ones(len(rows)) if weight is None else torch.tensor(weight)
    metric.update(Predictions(score, score, label, weights, group.long()))
    return metric.compute(Alone())


def test_ties_count_against_the_model() -> None:
    constant = [(0, 0.5, 1), (0, 0.5, 0), (0, 0.5, 0)]
    assert found(constant, 2)["hr@2"] == 0
    third = found(constant, 3)
    assert third["hr@3"] == 1 and third["ndcg@3"] == pytest.approx(1 / log2(4))


def test_positives_of_equal_scores_rank_one_after_another_behind_the_negatives() -> None:
    values = found([(0, 2.0, 1), (0, 1.0, 1), (0, 1.0, 0), (0, 1.0, 1), (0, 0.0, 0)], 3)  # ranks 1, 3, 4
    assert values["ndcg@3"] == pytest.approx((1 + 1 / log2(4)) / (1 + 1 / log2(3) + 1 / log2(4)))
    assert (values["hr@3"], values["mrr"]) == (1, 1)
    assert (values["recall@3"], values["precision@3"]) == pytest.approx((2 / 3, 2 / 3))


def test_one_positive_a_group_is_leave_one_out() -> None:
    """He et al., WWW 2017: 1 and 1 / log2(rank + 1) where the item is among the first k, means over users."""
    draw = torch.Generator().manual_seed(1)
    rows, hits, gains = [], [], []
    for user in range(50):
        scores = torch.randn(100, generator=draw).tolist()
        rows += [(user, score, float(i == 0)) for i, score in enumerate(scores)]
        rank = sum(score >= scores[0] for score in scores)
        hits.append(rank <= 10)
        gains.append(1 / log2(rank + 1) if rank <= 10 else 0)
    values = found(rows, 10)
    assert values["hr@10"] == values["recall@10"] == sum(hits) / 50
    assert values["ndcg@10"] == pytest.approx(sum(gains) / 50, abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 10, 40])
def test_equals_torchmetrics(k: int) -> None:
    """Groups of 2 to 30 rows with any number of positives, those of one class left out, distinct scores."""
    r = np.random.default_rng(k)
    group = np.repeat(np.arange(60), r.integers(2, 31, 60))
    score = r.permutation(len(group)).astype(np.float32)
    label = r.random(len(group)) < r.random(60)[group]
    values = found(list(zip(group.tolist(), score.tolist(), label.astype(float).tolist(), strict=True)), k)
    both = np.isin(group, [g for g in range(60) if 0 < label[group == g].mean() < 1])
    rows = torch.from_numpy(score[both]), torch.from_numpy(label[both]), torch.from_numpy(group[both])
    theirs = {
        f"hr@{k}": retrieval.RetrievalHitRate(top_k=k),
        f"ndcg@{k}": retrieval.RetrievalNormalizedDCG(top_k=k),
        f"recall@{k}": retrieval.RetrievalRecall(top_k=k),
        f"precision@{k}": retrieval.RetrievalPrecision(top_k=k),
        "mrr": retrieval.RetrievalMRR(),
    }
    assert values["top_k_groups"] == len(np.unique(group[both])) > 40 and values["top_k_skipped_groups"] > 0
    for name, metric in theirs.items():
        assert values[name] == pytest.approx(float(metric(*rows[:2], indexes=rows[2])), abs=1e-6), name


def test_groups_of_one_class_and_rows_without_weight_do_not_count() -> None:
    rows = [(0, 1.0, 1), (0, 2.0, 0), (0, 0.0, 0), (1, 1.0, 1), (2, 1.0, 0), (3, 1.0, 1), (3, 0.0, 0)]
    values = found(rows, 1, weight=[1, 0, 1, 1, 1, 1, 0])
    of_one = dict.fromkeys(("hr@1", "ndcg@1", "recall@1", "precision@1", "mrr"), 1)
    assert values == of_one | {"top_k_groups": 1, "top_k_skipped_groups": 3}


def test_a_run_may_select_by_them() -> None:
    metrics = PointwiseConfig(top_k=(5, 10)).build_task(SCHEMA).metrics()
    assert all(metrics.larger_is_better(name) for name in ("hr@5", "ndcg@5", "recall@10", "precision@10", "mrr"))
    with pytest.raises(UserError, match="unknown metric to select by 'hr@20'; did you mean 'hr@10'"):
        metrics.larger_is_better("hr@20")


def test_gauc_needs_a_group() -> None:
    metrics = PointwiseConfig().build_task(SCHEMA.model_copy(update={"group": None})).metrics()
    with pytest.raises(UserError, match=r"metric 'gauc': the schema has no group, .* \(`group: user`\) in schema.yaml"):
        metrics.larger_is_better("gauc")
    assert PointwiseConfig().build_task(SCHEMA).metrics().larger_is_better("gauc")


def test_they_need_groups_and_classes() -> None:
    with pytest.raises(UserError, match=r"model\.top_k: the schema has no group"):
        PointwiseConfig(top_k=(10,)).build_task(SCHEMA.model_copy(update={"group": None}))
    with pytest.raises(ValueError, match="top_k is for task: binary"):
        PointwiseConfig(top_k=(10,), task="regression")
