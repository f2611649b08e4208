"""Two pictures of a search: the metric as trials went on, and which keys mattered to be among the best.

Importance is PED-ANOVA's (Watanabe et al., "PED-ANOVA: efficiently quantifying hyperparameter importance in arbitrary
subspaces", IJCAI 2023): how far the distribution of a key's values among the best trials is from that among all. It
needs no forest of trees, and says nothing of keys that only some trials have.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from shardrec.trainer.run_folder.atomic import write_picture
from shardrec.trainer.tuning.plan import Plan
from shardrec.trainer.tuning.space import by_key, short_key

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

DECADE, MARGIN = 10.0, 1.2  # factors, of a logarithmic axis
PANELS = 3  # keys whose values are drawn
LONGEST_LEVEL = 5  # characters of a choice that is written level
FEWEST = 4  # finished trials that importance takes
BEST_SHARE, BEST_COUNT = 0.1, 4
"""The best are a tenth of the trials, but so many at least, and no more than half."""


def importance(study: "Study", ranked: "Sequence[FrozenTrial]") -> dict[str, float]:
    """Returns key -> its share of importance, the largest first, of the keys that all of the trials have.

    ranked: the finished trials, the best first. {} where there are too few of them to say.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    if len(ranked) < FEWEST or ranked[0].value == ranked[-1].value:
        return {}
    share = min(0.5, max(BEST_SHARE, BEST_COUNT / len(ranked)))
    shared = [key for key in ranked[0].params if all(key in trial.params for trial in ranked)]
    evaluator = PedAnovaImportanceEvaluator(target_quantile=share)
    return get_param_importances(study, evaluator=evaluator, params=shared)


def draw_history(plan: Plan, trials: "Sequence[FrozenTrial]", path: Path) -> None:
    """Writes the metric of each trial, the best so far as a line, and which were pruned."""
    figure = Figure(figsize=(7.0, 3.6), layout="constrained", dpi=150)
    axes = figure.subplots()
    finished, pruned = ([t for t in trials if t.state.name == state] for state in ("COMPLETE", "PRUNED"))
    values = np.array([t.value for t in finished], float)
    so_far = np.maximum.accumulate(values) if plan.larger_is_better else np.minimum.accumulate(values)
    axes.plot([t.number for t in finished], values, "o", color="C0", markersize=4, label="finished")
    axes.step([t.number for t in finished], so_far, where="post", color="C1", linewidth=1.5, label="best so far")
    if pruned:
        last = np.array([t.value for t in pruned], float)
        axes.plot([t.number for t in pruned], last, "x", color="0.6", label="pruned, when stopped")
    axes.set_xlabel("trial", fontsize=8)
    axes.set_ylabel(f"validation {plan.metric}", fontsize=8)
    axes.locator_params(axis="x", integer=True)
    _plain(axes)
    axes.legend(fontsize=8, frameon=False)
    write_picture(path, figure)


def draw_importance(plan: Plan, shares: Mapping[str, float], ranked: "Sequence[FrozenTrial]", path: Path) -> None:
    """Writes which keys mattered, and the metric over the values of those that did most. shares: as `importance`."""
    chosen, names = list(shares)[:PANELS], list(shares)[::-1]
    figure = Figure(figsize=(4.2 + 2.8 * len(chosen), 3.4), layout="constrained", dpi=150)
    bars, *panels = figure.subplots(1, 1 + len(chosen), width_ratios=[1.5, *([1.0] * len(chosen))])
    bars.barh([short_key(name) for name in names], [shares[name] for name in names], color="C0")
    bars.set_xlabel("importance", fontsize=8)
    _plain(bars)
    for axes, key in zip(panels, chosen, strict=True):
        _draw_values(axes, plan, ranked, key)
    panels[0].set_ylabel(f"validation {plan.metric}", fontsize=8)
    write_picture(path, figure)


def _draw_values(axes: Any, plan: Plan, ranked: "Sequence[FrozenTrial]", key: str) -> None:
    """Draws the metric of each trial over its value of a key."""
    parameter = plan.tune.space[key]
    metric = np.array([trial.value for trial in ranked], float)
    values = [by_key(trial.params, plan.tune.space)[key] for trial in ranked]
    if parameter.choices is not None:
        texts = [str(choice) for choice in parameter.choices]
        axes.plot([texts.index(str(value)) for value in values], metric, "o", color="C0", markersize=4)
        axes.set_xticks(range(len(texts)), texts, rotation=30 if max(map(len, texts)) > LONGEST_LEVEL else 0)
        axes.set_xlim(-0.5, len(texts) - 0.5)
    else:
        axes.plot(values, metric, "o", color="C0", markersize=4)
        lowest, highest = parameter.bounds or (0.0, 1.0)
        if parameter.log or parameter.log_int:
            axes.set_xscale("log")
            if highest >= DECADE * lowest:
                axes.xaxis.set_minor_formatter(NullFormatter())  # their labels would overlap
            axes.set_xlim(lowest / MARGIN, highest * MARGIN)
    axes.set_xlabel(short_key(key), fontsize=8)
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.tick_params(which="both", labelsize=8)
