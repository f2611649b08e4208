"""Platt's scaling is a logistic regression of labels on one number, the logit of the prediction."""

import numpy as np
from numpy.typing import NDArray

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.checkpoints.calibration import logit

Array = NDArray[np.float64]

MOST_STEPS = 100  # of Newton's method, which takes about 6
SMALLEST_STEP = 1e-10


def fit_platt(predictions: Array, labels: Array, weights: Array) -> tuple[float, float]:
    """Returns a and b of the map p -> sigmoid(a logit(p) + b) that has the least log loss.

    Platt, "Probabilistic outputs for support vector machines", 1999: of weights N+ of positives and N- of negatives,
    labels are moved to (N+ + 1) / (N+ + 2) and 1 / (N- + 2), so that a and b are finite where one number tells all
    positives from all negatives. predictions, labels (0 to 1), weights (positive, of mean 1): [n].

    Raises UserError where predictions order rows worse than chance, so that a would turn the order around.
    """
    x = logit(predictions)
    positive, negative = float((weights * labels).sum()), float((weights * (1 - labels)).sum())
    target = labels * (positive + 1) / (positive + 2) + (1 - labels) / (negative + 2)
    inputs = np.stack([x, np.ones_like(x)])
    ab = np.array([0.0, np.log((positive + 1) / (negative + 1))])
    loss = _loss(ab, inputs, target, weights)
    for _ in range(MOST_STEPS):
        p = _sigmoid(ab @ inputs)
        gradient = inputs @ (weights * (p - target))
        curvature = (inputs * (weights * p * (1 - p))) @ inputs.T
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]  # singular where all predictions are equal
        while (lower := _loss(ab - step, inputs, target, weights)) > loss and np.abs(step).max() > SMALLEST_STEP:
            step = step / 2
        if lower > loss or np.abs(step).max() <= SMALLEST_STEP:
            break
        ab, loss = ab - step, lower
    a, b = map(float, ab)
    if a <= 0:
        raise UserError(
            f"calibrate: found a slope of {a:.3g}, expected a positive one: the predictions order these rows no better "
            "than chance, and calibrated they would be turned around; train a better model, or name other rows"
        )
    return a, b


def _loss(ab: Array, inputs: Array, target: Array, weights: Array) -> float:
    z = ab @ inputs
    return float((weights * (np.logaddexp(0, z) - target * z)).sum())


def _sigmoid(z: Array) -> Array:
    return np.exp(-np.logaddexp(0, -z))
