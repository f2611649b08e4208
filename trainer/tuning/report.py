"""What a search has come to: a table of trials, trials.csv, the best trial's run file, and two pictures."""

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from shardrec.data_pipeline.files.owned_files import check_own_file
from shardrec.trainer.reports.page import check_own_page
from shardrec.trainer.reports.report import REPORT
from shardrec.trainer.run_folder.atomic import check_own_picture, write_atomically, write_csv
from shardrec.trainer.run_folder.terminal import plain_table, print_table
from shardrec.trainer.tuning.pictures import draw_history, draw_importance, importance
from shardrec.trainer.tuning.plan import Plan
from shardrec.trainer.tuning.space import Values, by_key, label, short_key
from shardrec.trainer.tuning.study import FAILURE, over
from shardrec.trainer.tuning.trial import EVALUATIONS, SECONDS

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

TABLE, HISTORY, IMPORTANCE, BEST = "trials.csv", "history.png", "importance.png", "best.yaml"
SHOWN = 20  # trials that the printed table has
NAMES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}


class Findings:
    """Findings are a study's trials that are over, as people read them."""

    def __init__(self, plan: Plan, study: "Study") -> None:
        self.plan, self.study = plan, study

    @cached_property
    def trials(self) -> "list[FrozenTrial]":
        """Returns the trials that are over, in the order in which they began."""
        return over(self.study)

    @cached_property
    def ranked(self) -> "list[FrozenTrial]":
        """Returns the finished trials, the best first; of equals the earlier one."""
        sign = -1 if self.plan.larger_is_better else 1
        finished = [trial for trial in self.trials if state_of(trial) == "finished"]
        return sorted(finished, key=lambda trial: sign * _value(trial))

    @cached_property
    def importance(self) -> dict[str, float]:
        """Returns key -> how much it mattered, as a share; {} where too few trials have finished to say."""
        return importance(self.study, self.ranked)

    def folder(self, number: int) -> Path:
        """Returns the run folder of a trial."""
        return self.plan.out / f"trial-{number:04d}"

    @property
    def best_file(self) -> Path:
        """Returns the best trial's run file."""
        return self.plan.out / BEST

    def values(self, trial: "FrozenTrial") -> Values:
        """Returns a trial's settings by key."""
        return by_key(trial.params, self.plan.tune.space)

    def row(self, trial: "FrozenTrial") -> dict[str, Any]:
        """Returns a trial as a row of trials.csv; the metric of a pruned one is of its last evaluation."""
        return {
            "trial": trial.number,
            "state": state_of(trial),
            self.plan.metric: trial.value,
            "evaluations": trial.user_attrs.get(EVALUATIONS),
            "seconds": trial.user_attrs.get(SECONDS),
            **{key: label(value) for key, value in self.values(trial).items()},
            "failure": trial.user_attrs.get(FAILURE),
        }

    def line(self, number: int) -> str:
        """Returns a line about a trial that is over, beside the best so far."""
        trial = next(trial for trial in self.trials if trial.number == number)
        state, best = state_of(trial), self.ranked[:1]
        what = trial.user_attrs.get(FAILURE) if state == "failed" else f"{self.plan.metric} {_shown(trial.value)}"
        settings = ", ".join(f"{short_key(key)} {_shown(value)}" for key, value in self.values(trial).items())
        ahead = f" (best {_shown(best[0].value)}, trial {best[0].number})" if best else ""
        return f"trial {number}: {state}: {what}{ahead}: {settings}"

    # ------------------------------------------------------------ for people

    def print(self, console: Console) -> None:
        """Prints the best trials, then how many there were of each kind, and where the best one is."""
        keys = [key for key in self.plan.tune.space]
        behind = [trial for trial in self.trials if trial not in self.ranked and state_of(trial) == "pruned"]
        lines = []
        for trial in [*self.ranked, *behind][:SHOWN]:
            values = self.values(trial)
            cells = [_shown(values[key]) if key in values else "-" for key in keys]
            facts = [str(trial.user_attrs.get(EVALUATIONS, "-")), f"{trial.user_attrs.get(SECONDS, 0):.1f}"]
            lines.append([str(trial.number), state_of(trial), _shown(trial.value), *facts, *cells])
        header = ["trial", "state", self.plan.metric, "evaluations", "seconds", *(k.replace(".", ".\n") for k in keys)]
        if lines:
            print_table(console, plain_table(header, lines, left=("state",)))
        counts = {name: sum(state_of(trial) == name for trial in self.trials) for name in NAMES.values()}
        more = f", the best {SHOWN} shown" if len(self.ranked) + len(behind) > SHOWN else ""
        console.print(", ".join(f"{count} {name}" for name, count in counts.items()) + more, soft_wrap=True)
        for reason, numbers in self.failures().items():
            console.print(f"failed: trial {', '.join(map(str, numbers))}: {reason}", soft_wrap=True, markup=False)
        if self.ranked:
            best = self.ranked[0]
            line = f"best: trial {best.number}, validation {self.plan.metric} {_shown(best.value)}: {self.best_file}"
            console.print(line, soft_wrap=True, markup=False)

    @property
    def nothing_finished(self) -> str:
        """Returns the line that a search ends with of which no trial has finished."""
        if reasons := list(self.failures()):
            why = f"the first failure: {reasons[0]}"
        elif self.trials:
            why = "all were pruned; take a larger tune.pruner.startup_trials, or pruner: none"
        else:
            why = "none has begun within --timeout; give it more time"
        return f"tune: no trial has finished in {self.plan.out}: {why}"

    def failures(self) -> dict[str, list[int]]:
        """Returns why trials failed -> which did."""
        reasons: dict[str, list[int]] = {}
        for trial in self.trials:
            if state_of(trial) == "failed":
                reasons.setdefault(str(trial.user_attrs.get(FAILURE)), []).append(trial.number)
        return reasons

    # ------------------------------------------------------------ files

    @staticmethod
    def check_writable(out: Path) -> None:
        """Raises UserError where files have the names of those that are written, and are others."""
        check_own_file(out / TABLE, rb"trial,state.*")
        check_own_page(out / REPORT)
        for name in (HISTORY, IMPORTANCE):
            check_own_picture(out / name)

    def write(self, *, pictures: bool) -> None:
        """Writes trials.csv and best.yaml, and the pictures."""
        write_csv(self.plan.out / TABLE, map(self.row, self.trials))
        if not self.ranked:
            return
        best = self.plan.config(self.values(self.ranked[0]), "best")
        write_atomically(self.best_file, best.dump())
        if pictures:
            draw_history(self.plan, self.trials, self.plan.out / HISTORY)
            if shares := self.importance:
                draw_importance(self.plan, shares, self.ranked, self.plan.out / IMPORTANCE)


def state_of(trial: "FrozenTrial") -> str:
    """Returns how a trial that is over ended, in a word."""
    return NAMES[trial.state.name]


def _value(trial: "FrozenTrial") -> float:
    assert trial.value is not None
    return trial.value


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if value and abs(value) < 0.1 else f"{value:.4f}"
    return value if isinstance(value, str) else json.dumps(value)
