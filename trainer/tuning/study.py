"""A search's study is Optuna's, in study.db; what was searched for is in study.yaml beside it.

The folder is one process's at a time, so a trial that is still said to run is one whose process died: it is told as
failed, and its settings are asked for once more.
"""

import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shardrec.data_pipeline.declared.documents import dump_document, read_document
from shardrec.data_pipeline.errors import UserError, installed_by, shortened
from shardrec.trainer.config.differences import first_difference
from shardrec.trainer.config.load import parse
from shardrec.trainer.config.tuning import Pruner
from shardrec.trainer.run_folder.atomic import write_atomically
from shardrec.trainer.run_folder.lasting import check_lasting, check_on_disk
from shardrec.trainer.run_folder.lock import LOCK
from shardrec.trainer.tuning.plan import Plan
from shardrec.trainer.tuning.space import grid, label

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

STUDY_FILE = "study.yaml"
DATABASE = "study.db"
DIED, FAILURE = "died", "failure"
"""Attributes of trials: of one that ended with the search itself, and why one failed."""

_MAY_CHANGE = ("trials", "keep", "pruner", "sampler")
_FREE = ("launch", "trainer.best_metric")


def check_installed() -> None:
    """Raises UserError where Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError(f"tune: needs optuna; {installed_by('tune')}")


def check_folder(plan: Plan, *, resume: bool) -> None:
    """Raises UserError where the folder holds something else, a search that is not to be gone on with, or none."""
    check_lasting("--out", plan.out)
    check_on_disk("--out", plan.out)
    file = plan.out / STUDY_FILE
    if plan.out.is_symlink():
        raise UserError(f"{plan.out}: a link, through which no run is trained; name another --out, or its target")
    if not file.exists():
        if resume:
            raise UserError(f"{plan.out}: holds no search to go on with; leave --resume out to start one")
        if plan.out.exists() and (not plan.out.is_dir() or any(path.name != LOCK for path in plan.out.iterdir())):
            raise UserError(f"{plan.out}: not the folder of a search and not empty; name another --out")
        return
    if not resume:
        raise UserError(f"{plan.out}: holds a search already; go on with it by --resume, or name another --out")
    before = read_document(file, "study")
    if not isinstance(before, dict) or set(before) != {"metric", "run", "tune"}:
        raise UserError(f"{file}: not what a search leaves; put it back, or name another --out")
    if not (plan.out / DATABASE).exists() and any(plan.out.glob("trial-*")):
        raise UserError(
            f"{plan.out / DATABASE}: is gone, and with it what came of the trials; put it back, or name another --out"
        )
    now = _declared(plan)
    for what in ("metric", "tune"):
        if before[what] != now[what]:
            raise UserError(
                f"{plan.out}: holds a search through another space or by another metric; name another --out"
            )
    if change := first_difference(parse(before["run"], str(file)), parse(now["run"], str(file)), _FREE):
        raise UserError(
            f"{plan.out}: holds a search with other settings ({change.key} was {change.before}, now {change.now}); "
            "ask for the same, or name another --out"
        )


def _declared(plan: Plan) -> dict[str, Any]:
    """Returns what may not change while a search lasts."""
    tune = plan.tune.model_dump(mode="json", by_alias=True, exclude=set(_MAY_CHANGE))
    run = plan.file.config().model_dump(mode="json", by_alias=True)
    return {"metric": plan.metric, "tune": tune, "run": run}


@contextmanager
def database_errors(plan: Plan) -> Iterator[None]:
    """Makes a UserError of what keeps the study from being read or written: no database, a full disk."""
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (OptunaError, SQLAlchemyError) as error:
        cause = error if isinstance(error, SQLAlchemyError) or error.__cause__ is None else error.__cause__
        line = shortened((str(cause).splitlines() or [type(cause).__name__])[0], 200)
        raise UserError(f"{plan.out / DATABASE}: {line}; once that is mended, --resume goes on") from error


def opened(plan: Plan) -> "Study":
    """Opens the study in a search's folder, which is made where it is not there; its process is the only one."""
    import optuna
    from optuna.trial import TrialState

    write_atomically(plan.out / STUDY_FILE, dump_document(_declared(plan)))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="tune",
        storage=f"sqlite:///{plan.out / DATABASE}",
        direction="maximize" if plan.larger_is_better else "minimize",
        pruner=made_pruner(plan.tune.pruner),
        load_if_exists=True,
    )
    known = study.get_trials(deepcopy=False)
    study.sampler = _sampler(plan, len(known))
    for trial in known:
        if trial.state == TrialState.RUNNING:
            _give_up(study, trial)
    if plan.tune.sampler == "grid":
        for values in grid(plan.tune.space):
            study.enqueue_trial({key: label(value) for key, value in values.items()}, skip_if_exists=True)
    return study


def _give_up(study: "Study", trial: "FrozenTrial") -> None:
    """Tells a trial whose process died as failed, and asks for its settings again."""
    from optuna.trial import Trial, TrialState

    left = Trial(study, trial._trial_id)
    left.set_user_attr(DIED, True)
    left.set_user_attr(FAILURE, "the search was stopped while it trained")
    study.tell(trial.number, state=TrialState.FAIL)
    if trial.params:
        study.enqueue_trial(trial.params)


def _sampler(plan: Plan, drawn: int) -> "BaseSampler":
    """Returns the sampler, seeded by the run's seed and by how many trials it has drawn: a resumed one draws others."""
    from optuna.samplers import RandomSampler, TPESampler

    seed = (plan.file.config().trainer.seed + drawn) % 2**32
    if plan.tune.sampler == "tpe":
        return TPESampler(seed=seed, constant_liar=True)  # trials side by side keep away from each other
    return RandomSampler(seed=seed)


def made_pruner(asked: Pruner) -> "BasePruner":
    """Returns Optuna's pruner as a search asks for it."""
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    if asked.name == "none":
        return NopPruner()
    if asked.name == "hyperband":
        return HyperbandPruner()
    first_judged = asked.warmup + 1  # evaluations are counted from 1
    return MedianPruner(n_startup_trials=asked.startup_trials, n_warmup_steps=first_judged)


def over(study: "Study") -> "list[FrozenTrial]":
    """Returns the trials that are over, in the order in which they began."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def counted(trials: "Iterable[FrozenTrial]") -> int:
    """Returns how many of the trials that are asked for some make: none for one that ended with the search itself."""
    return sum(DIED not in trial.user_attrs for trial in trials)
