"""Predictions are what every metric reads: the rows of one batch that count."""

from typing import NamedTuple

from torch import Tensor


class Predictions(NamedTuple):
    """Predictions are of n rows, padding left out; all are [n] float64 but the groups.

    score: what the tower says of a row: a logit, a rating; of several classes, the log-probability of the label's
    value: the prediction made of it: a probability, a clipped rating; of several classes, the most probable one
    label, weight: as in the batch
    group: [n] int64, or None
    """

    score: Tensor
    value: Tensor
    label: Tensor
    weight: Tensor
    group: Tensor | None = None
