"""Settings are searched for from Python as by the command."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.api.door import at_least, door
from shardrec.trainer.api.load import named_model
from shardrec.trainer.config.trust import trust_folders

if TYPE_CHECKING:
    from shardrec.trainer.tuning.plan import Plan
    from shardrec.trainer.tuning.report import Findings


@dataclass(frozen=True)
class Tuning:
    """A tuning is what a search has found, by all trials of its folder.

    folder: all that it left. metric, value: of the validation rows, of the best trial. settings: key of the run file ->
    its value in that trial. run_file: best.yaml, which `train` takes. run_folder: of the best trial, which `open`
    takes. trials: a row of trials.csv each: trial, state (finished, pruned, failed), the metric, evaluations, seconds,
    a column a key, failure. importance: key -> share; {} where too few trials have finished.
    """

    folder: Path
    metric: str
    value: float
    settings: dict[str, Any]
    run_file: Path
    run_folder: Path
    trials: list[dict[str, Any]]
    importance: dict[str, float]


@door
def tune(
    run_file: str | Path | Mapping[str, Any],
    overrides: Iterable[str] = (),
    *,
    variant: str | None = None,
    trials: int | None = None,
    jobs: int = 1,
    timeout: float | None = None,
    resume: bool = False,
    out: str | Path | None = None,
    trust: bool = False,
    quiet: bool = False,
) -> Tuning:
    """Searches for the settings with the best validation metric, as `tune` of a run file or dictionary says.

    trials: in all, instead of the run file's. jobs: trials side by side, each in a process of its own; 0: one after
    another in this process, as models of a notebook need it. timeout: seconds after which no trial begins. resume: goes
    on with the search in `out` (default: RUN-tune). trust: as in `load`.

    Raises UserError for what is wrong with the search, before anything is trained, and where no trial has finished.

        found = shardrec.tune("run.yaml", trials=40)
        summary = shardrec.train(found.run_file)
    """
    from shardrec.trainer.tuning.plan import RunFile, planned
    from shardrec.trainer.tuning.study import check_installed

    check_installed()
    at_least(0, jobs=jobs, timeout=timeout)
    at_least(1, trials=trials)
    if isinstance(run_file, Mapping):
        file = RunFile(named_model(run_file), "run file", Path(os.getcwd()), tuple(overrides), variant)
    else:
        if trust:
            trust_folders(Path(run_file).parent)
        file = RunFile.read(Path(run_file), overrides, variant)
    plan = planned(file, None if out is None else Path(out), trials)
    if jobs and any(str(name).startswith("__main__:") for name in plan.models):
        raise UserError(
            "tune: the model is defined in this notebook or script, which other processes cannot import; put it into a "
            "module, or say jobs=0"
        )
    import torch

    from shardrec.trainer.tuning.search import search

    with torch.random.fork_rng(devices=() if jobs else range(torch.cuda.device_count())):
        found = search(plan, jobs=jobs, timeout=timeout, resume=resume, quiet=quiet)
    return _outcome(plan, found)


def _outcome(plan: "Plan", found: "Findings") -> Tuning:
    """Returns what a search has come to. Raises UserError where no trial has finished."""
    if not found.ranked:
        raise UserError(found.nothing_finished)
    best = found.ranked[0]
    assert best.value is not None
    return Tuning(
        folder=plan.out,
        metric=plan.metric,
        value=best.value,
        settings=found.values(best),
        run_file=found.best_file,
        run_folder=found.folder(best.number),
        trials=[found.row(trial) for trial in found.trials],
        importance=found.importance,
    )
