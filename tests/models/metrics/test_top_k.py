"""HR@K and NDCG@K where the answer is plain; other cases, on one and two ranks, are in test_metrics."""

from math import log2

import pytest
import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Identity, IdFeature, Schema
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


def test_positives_of_one_group_do_not_rank_each_other() -> None:
    values = found([(7, 3.0, 1), (7, 2.0, 1), (7, 1.0, 0), (7, 0.0, 1), (8, 1.0, 1), (8, 2.0, 0)], 1)
    assert values["hr@1"] == pytest.approx((2 / 3 + 0) / 2)
    assert values["ndcg@1"] == values["hr@1"]


def test_groups_of_one_class_and_rows_without_weight_do_not_count() -> None:
    rows = [(0, 1.0, 1), (0, 2.0, 0), (0, 0.0, 0), (1, 1.0, 1), (2, 1.0, 0), (3, 1.0, 1), (3, 0.0, 0)]
    values = found(rows, 1, weight=[1, 0, 1, 1, 1, 1, 0])
    assert values == {"hr@1": 1, "ndcg@1": 1, "top_k_groups": 1, "top_k_skipped_groups": 3}


def test_a_run_may_select_by_them() -> None:
    metrics = PointwiseConfig(top_k=(5, 10)).build_task(SCHEMA).metrics()
    assert all(metrics.larger_is_better(name) for name in ("hr@5", "ndcg@5", "hr@10", "ndcg@10"))
    with pytest.raises(UserError, match="unknown metric to select by 'hr@20'; did you mean 'hr@10'"):
        metrics.larger_is_better("hr@20")


def test_they_need_groups_and_classes() -> None:
    with pytest.raises(UserError, match=r"model\.top_k: the schema has no group"):
        PointwiseConfig(top_k=(10,)).build_task(SCHEMA.model_copy(update={"group": None}))
    with pytest.raises(ValueError, match="top_k is for task: binary"):
        PointwiseConfig(top_k=(10,), task="regression")
