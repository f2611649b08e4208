"""The picture of policies has click rate, diversity of clicks and activeness by day: mean of the seeds, and spread."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from shardrec.trainer.run_folder.atomic import write_picture

PANELS = {"click_rate": "click rate", "diversity_clicked": "diversity of clicks", "activeness": "activeness"}
_PER_TAB = 10  # colours of their own; later policies have them dashed


def draw_policies(days: Sequence[Mapping[str, Any]], policies: Sequence[str], path: Path) -> None:
    """Writes the picture as PNG; days: a row for each policy, seed and day."""
    figure = Figure(figsize=(12.0, 3.6), layout="constrained", dpi=150)
    panels = figure.subplots(1, len(PANELS))
    for number, policy in enumerate(policies):
        of_policy = [row for row in days if row["policy"] == policy]
        style = {"color": f"C{number % _PER_TAB}", "linestyle": "-" if number < _PER_TAB else "--"}
        for axes, name in zip(panels, PANELS, strict=True):
            if of_policy:
                _draw(axes, of_policy, name, policy if name == next(iter(PANELS)) else None, style)
    for axes, label in zip(panels, PANELS.values(), strict=True):
        axes.set_title(label, fontsize=10)
        axes.set_xlabel("day")
        axes.grid(color="0.9")
        axes.tick_params(labelsize=8)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    write_picture(path, figure)


def _draw(axes: Any, rows: Sequence[Mapping[str, Any]], name: str, label: str | None, style: dict[str, str]) -> None:
    """Draws a policy's line: the mean of the seeds that have a day, and a standard deviation to both sides."""
    last = max(row["day"] for row in rows)
    values: list[list[float]] = [[] for _ in range(last)]
    for row in rows:
        if np.isfinite(row[name]):
            values[row["day"] - 1].append(row[name])
    days = np.array([day for day, of_day in enumerate(values, start=1) if of_day])
    mean = np.array([np.mean(of_day) for of_day in values if of_day])
    spread = np.array([np.std(of_day, ddof=1) if len(of_day) > 1 else 0.0 for of_day in values if of_day])
    axes.plot(days, mean, label=label, linewidth=1.5, **style)
    axes.fill_between(days, mean - spread, mean + spread, color=style["color"], alpha=0.15, linewidth=0)
