"""Metrics that merge across ranks. Values equal scikit-learn's on the union of all ranks' rows."""

from models.metrics.averages import Accuracy, Calibration, Errors, LogLoss, Rows
from models.metrics.classes import ClassErrors
from models.metrics.gauc import GroupedAUC
from models.metrics.metric import Metric
from models.metrics.metric_set import MetricSet
from models.metrics.predictions import Predictions
from models.metrics.ranking import Ranking
from models.metrics.top_k import TopK

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
