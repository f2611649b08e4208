"""Metrics that merge across ranks. Values equal scikit-learn's on the union of all ranks' rows."""

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
