"""Metrics measure predictions, and merge across ranks.

- `averages.py`: Averages are ratios of weighted sums: log loss, calibration, accuracy, RMSE, MAE, TD error
- `binned_curves.py`: Binned curves are a score table in a few hundred numbers, which is what a picture of it needs
- `classes.py`: Class errors measure predictions of one class out of several
- `collective.py`: A collective is what metrics need of other ranks, injected so that this layer knows no process group
- `curves.py`: Curves are read off a score table: operating points (ROC, precision and recall), and calibration by bins
- `gathered_table.py`: A gathered table is the score table of all rows that all ranks were given, in bounded memory
- `gauc.py`: Grouped AUC says how well rows are ranked inside of each group (a user, a request)
- `grouped.py`: Grouped metrics see the rows of a group (a user, a request) together, whichever rank they were on
- `lists.py`: List metrics say how many held-out items are in a list of the best of a whole catalogue
- `metric.py`: A metric is a state that adds up over batches and merges over ranks
- `metric_set.py`: A metric set holds the metrics of one evaluation, which are computed together
- `ordered_bits.py`: Ordered bits are float32 scores as int32 of one order, which ties, sorting and histograms go by
- `predicted_values.py`: Predicted values are set beside the numbers that they are to be
- `predictions.py`: Predictions are what every metric reads: the rows of one batch that count
- `ranking.py`: Ranking metrics (AUC, average precision) and curves are read off one table of scores
- `score_table.py`: A score table holds the weight of either class at each distinct score, in bounded memory
- `top_k.py`: Top-K metrics say how far up a group's positives stand: hit rate, NDCG, recall and precision at K, and MRR
"""

from shardrec.models.metrics.averages import Accuracy, Calibration, Errors, LogLoss, MeanLoss, Rows, TemporalDifferences
from shardrec.models.metrics.classes import ClassErrors
from shardrec.models.metrics.curves import CalibrationBins, OperatingPoints
from shardrec.models.metrics.gauc import GroupedAUC
from shardrec.models.metrics.metric import Metric
from shardrec.models.metrics.metric_set import MetricSet
from shardrec.models.metrics.predicted_values import PredictedValues
from shardrec.models.metrics.predictions import Predictions
from shardrec.models.metrics.ranking import Ranking
from shardrec.models.metrics.top_k import TopK

__all__ = [
    "Accuracy",
    "Calibration",
    "CalibrationBins",
    "ClassErrors",
    "Errors",
    "GroupedAUC",
    "LogLoss",
    "MeanLoss",
    "Metric",
    "MetricSet",
    "OperatingPoints",
    "PredictedValues",
    "Predictions",
    "Ranking",
    "Rows",
    "TemporalDifferences",
    "TopK",
]
