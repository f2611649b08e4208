"""Metrics that merge across ranks.

- `averages.py`: Metrics that are ratios of weighted sums: log loss, calibration, accuracy, RMSE, MAE
- `classes.py`: Metrics of one class out of several
- `collective.py`: What metrics need from other ranks, injected so that this layer knows no process group
- `gauc.py`: Grouped AUC: how well rows are ranked inside of each group (a user, a request)
- `grouped.py`: Rows met by group: what metrics inside of groups (a user, a request) share
- `metric.py`: Base of all metrics: states that add up over batches and merge over ranks
- `metric_set.py`: The metrics of an evaluation, computed together
- `ordered_bits.py`: float32 scores as int32 whose order is the scores' order: what ties, sorting and histograms go by
- `predictions.py`: What every metric reads: the rows of one batch that count
- `ranking.py`: Metrics of a binary ranking (AUC, average precision, ROC and PR curves), all read off one table of
- `score_table.py`: How much weight either class has at each distinct score: all that a ranking metric needs, in
- `top_k.py`: Hit rate and NDCG at K inside of groups: how far up a group's positives stand among its negatives
"""

from shardrec.models.metrics.averages import Accuracy, Calibration, Errors, LogLoss, Rows
from shardrec.models.metrics.classes import ClassErrors
from shardrec.models.metrics.gauc import GroupedAUC
from shardrec.models.metrics.metric import Metric
from shardrec.models.metrics.metric_set import MetricSet
from shardrec.models.metrics.predictions import Predictions
from shardrec.models.metrics.ranking import Ranking
from shardrec.models.metrics.top_k import TopK

__all__ = [
    "Accuracy",
    "Calibration",
    "ClassErrors",
    "Errors",
    "GroupedAUC",
    "LogLoss",
    "Metric",
    "MetricSet",
    "Predictions",
    "Ranking",
    "Rows",
    "TopK",
]
