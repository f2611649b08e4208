"""Two pictures of a search: the metric as trials went on, and which keys mattered to be among the best.

Importance is PED-ANOVA's (Watanabe et al., "PED-ANOVA: efficiently quantifying hyperparameter importance in arbitrary
subspaces", IJCAI 2023): how far the distribution of a key's values among the best trials is from that among all. It
needs no forest of trees, and says nothing of keys that only some trials have.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from shardrec.trainer.run_folder.atomic import write_picture

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from shardrec.trainer.tuning.report import Findings

PANELS = 3  # keys whose values are drawn
FEWEST = 4  # finished trials that importance takes
BEST_SHARE, BEST_COUNT = 0.1, 4
"""The best are a tenth of the trials, but so many at least, and no more than half."""


def importance(found: "Findings") -> dict[str, float]:
    """Returns key -> its share of importance, the largest first; {} where there are too few trials to say."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    count = len(found.ranked)
    if count < FEWEST or found.ranked[0].value == found.ranked[-1].value:
        return {}
    share = min(0.5, max(BEST_SHARE, BEST_COUNT / count))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=share)
    return get_param_importances(found.study, evaluator=evaluator)


def draw_history(found: "Findings", path: Path) -> None:
    """Writes the metric of each trial, the best so far as a line, and which were pruned."""
    figure = Figure(figsize=(7.0, 3.6), layout="constrained", dpi=150)
    axes = figure.subplots()
    finished = sorted(found.ranked, key=lambda trial: trial.number)
    numbers, values = [t.number for t in finished], np.array([t.value for t in finished])
    so_far = np.maximum.accumulate(values) if found.plan.larger_is_better else np.minimum.accumulate(values)
    axes.plot(numbers, values, "o", color="C0", markersize=4, label="finished")
    axes.step(numbers, so_far, where="post", color="C1", linewidth=1.5, label="best so far")
    pruned = [t for t in found.trials if t.state.name == "PRUNED" and t.value is not None]
    if pruned:
        axes.plot([t.number for t in pruned], [t.value for t in pruned], "x", color="0.6", label="pruned, when stopped")
    axes.set_xlabel("trial")
    axes.set_ylabel(f"validation {found.plan.metric}")
    axes.locator_params(axis="x", integer=True)
    _plain(axes)
    axes.legend(fontsize=8, frameon=False)
    write_picture(path, figure)


def draw_importance(found: "Findings", path: Path) -> None:
    """Writes which keys mattered, and the metric over the values of those that did most; nothing where none is known."""
    shares = importance(found)
    if not shares:
        return
    chosen = list(shares)[:PANELS]
    figure = Figure(figsize=(4.2 + 2.8 * len(chosen), 3.4), layout="constrained", dpi=150)
    bars, *panels = figure.subplots(1, 1 + len(chosen), width_ratios=[1.5, *([1.0] * len(chosen))])
    names = list(shares)[::-1]
    bars.barh([_short(name) for name in names], [shares[name] for name in names], color="C0")
    bars.set_xlabel("importance")
    _plain(bars)
    for axes, key in zip(panels, chosen, strict=True):
        _draw_values(axes, found, found.ranked, key)
    panels[0].set_ylabel(f"validation {found.plan.metric}", fontsize=8)
    write_picture(path, figure)


def _draw_values(axes: Any, found: "Findings", trials: "list[FrozenTrial]", key: str) -> None:
    parameter = found.plan.tune.space[key]
    having = [trial for trial in trials if key in trial.params]
    metric = [trial.value for trial in having]
    if parameter.choices is not None:
        texts = [str(choice) for choice in parameter.choices]
        places = [texts.index(str(found.values(trial)[key])) for trial in having]
        axes.plot(places, metric, "o", color="C0", markersize=4)
        axes.set_xticks(range(len(texts)), texts, rotation=30 if max(map(len, texts)) > 5 else 0)
        axes.set_xlim(-0.5, len(texts) - 0.5)
    else:
        axes.plot([trial.params[key] for trial in having], metric, "o", color="C0", markersize=4)
        if parameter.log or parameter.log_int:
            axes.set_xscale("log")
    axes.set_xlabel(_short(key), fontsize=8)
    _plain(axes)


def _short(key: str) -> str:
    """Returns the last two parts of a key."""
    return ".".join(key.split(".")[-2:])


def _plain(axes: Any) -> None:
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
