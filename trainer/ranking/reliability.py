"""Reliability is how far predictions are from the rates at which their labels came true, bin by bin."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardrec.trainer.run_folder.atomic import write_picture

Array = NDArray[np.float64]

BINS = 20
LEAST_CHANCE = 1e-15  # of a label, in the log loss of predictions that are 0 or 1


class Reliability(NamedTuple):
    """Reliability has, of bins of about equal weight by prediction, the mean prediction, the mean label and the weight.

    Equal predictions are in one bin, so that there may be fewer than were asked for. All are [bins].
    """

    prediction: Array
    label: Array
    weight: Array

    @classmethod
    def of(cls, predictions: Array, labels: Array, weights: Array, bins: int = BINS) -> "Reliability":
        """Sorts [n] rows into bins."""
        x, place = np.unique(predictions, return_inverse=True)
        weight = np.bincount(place, weights).astype(np.float64)
        positive = np.bincount(place, weights * labels)
        middle = weight.cumsum() - weight / 2
        _, bin_of = np.unique(np.floor(middle / weight.sum() * bins), return_inverse=True)
        total = np.bincount(bin_of, weight).astype(np.float64)
        return cls(np.bincount(bin_of, weight * x) / total, np.bincount(bin_of, positive) / total, total)

    @property
    def error(self) -> float:
        """Returns the expected calibration error: the mean distance of prediction and label, by weight.

        Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015.
        """
        return float((self.weight * np.abs(self.prediction - self.label)).sum() / self.weight.sum())


def log_loss(predictions: Array, labels: Array, weights: Array) -> float:
    """Returns the mean log loss of [n] rows, by weight."""
    p = np.clip(predictions, LEAST_CHANCE, 1 - LEAST_CHANCE)
    losses = -(labels * np.log(p) + (1 - labels) * np.log1p(-p))
    return float((weights * losses).sum() / weights.sum())


def draw_reliability(path: Path, found: Mapping[str, tuple[Reliability, Reliability]]) -> None:
    """Draws a panel for each set of rows, before and after calibration, as PNG or SVG by the path's ending."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(found), 4.8), layout="constrained")
    for axes, (name, pair) in zip(np.ravel(figure.subplots(1, len(found))), found.items(), strict=True):
        axes.axline((0, 0), slope=1, color="0.6", linewidth=1, linestyle="--", label="calibrated")
        for bins, label, mark in zip(pair, ("before", "after"), ("s--", "o-"), strict=True):
            axes.plot(
                bins.prediction, bins.label, mark, markersize=4, linewidth=1, label=f"{label}: ECE {bins.error:.4f}"
            )
        end = 1.05 * max(float(np.max(values)) for bins in pair for values in (bins.prediction, bins.label))
        axes.set(title=name, xlabel="mean prediction", ylabel="share of positives", xlim=(0, end), ylim=(0, end))
        axes.grid(color="0.9")
        axes.legend(loc="upper left")
    write_picture(path, figure)
