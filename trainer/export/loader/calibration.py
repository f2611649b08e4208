"""A calibration maps scores to the rates at which labels come true; a bundle has one where its run has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .checks import NUMBER, TEXT, list_of, object_with, of_kind
from .manifest import read_object

LEAST = 1e-12  # away from 0 and 1, whose logits are infinite

_POINTS = list_of(NUMBER, 1)
_MAP = of_kind({"isotonic": object_with(x=_POINTS, y=_POINTS), "platt": object_with(a=NUMBER, b=NUMBER)}, "method")


class Calibration:
    """A calibration is isotonic (linear between points) or Platt's (of the logit), as `calibration.json` says."""

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        """Reads a bundle's calibration. Raises ValueError for a damaged one, and for one of another checkpoint."""
        path = folder / "calibration.json"
        self._fit = read_object(path)
        try:
            object_with(checkpoint=TEXT)(self._fit, "")
            _MAP(self._fit, "")
            _check_map(self._fit)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; export the run again") from None
        if self._fit["checkpoint"] != run.get("checkpoint"):
            raise ValueError(f"{folder}: calibration.json was fitted to another checkpoint; export the run again")

    def __call__(self, scores: Any) -> Any:
        """Returns calibrated scores."""
        fit = self._fit
        if fit["method"] == "isotonic":
            return np.interp(scores, fit["x"], fit["y"]).astype(np.float32)
        p = np.clip(scores.astype(np.float64), LEAST, 1 - LEAST)
        return np.asarray(1 / (1 + np.exp(-fit["a"] * np.log(p / (1 - p)) - fit["b"])), np.float32)


def _check_map(fit: Mapping[str, Any]) -> None:
    """Raises ValueError for a map that turns scores around, or leads out of 0 to 1."""
    if fit["method"] == "platt":
        if fit["a"] <= 0:
            raise ValueError(f"a is {fit['a']}, expected a positive number")
        return
    x, y = np.array(fit["x"]), np.array(fit["y"])
    if len(x) != len(y) or (np.diff(x) <= 0).any() or (np.diff(y) < 0).any() or y[0] < 0 or y[-1] > 1:
        raise ValueError("x and y are no map, expected as many of both, x ascending, y not descending from 0 to 1")
