"""A search asks for settings, has them trained and tells what came of them, until enough trials are over.

OUT/trial-NNNN/    an ordinary run, of which validation rows are all that the search looks at
OUT/study.db       Optuna's study, by which a killed search goes on; study.yaml: what is searched for
OUT/trials.csv, history.png, importance.png, best.yaml, report.html   what has come of it (report.py, pictures.py,
page.py)
"""

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait
from typing import TYPE_CHECKING

from shardrec.trainer.checkpoints.removal import remove
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.cores import cores
from shardrec.trainer.run_folder.command_logs import command_name
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.lock import locked
from shardrec.trainer.run_folder.stop_request import ask_to_stop
from shardrec.trainer.run_folder.terminal import messages, status_line
from shardrec.trainer.tuning.page import write_search_page
from shardrec.trainer.tuning.plan import Plan
from shardrec.trainer.tuning.report import Findings
from shardrec.trainer.tuning.space import suggested
from shardrec.trainer.tuning.study import DIED, check_folder, check_installed, counted, database_errors, opened, over
from shardrec.trainer.tuning.trial import RunningTrial
from shardrec.trainer.tuning.workplace import Workplaces

if TYPE_CHECKING:
    from optuna import Study

POLL_SECONDS = 0.05


def search(
    plan: Plan, *, jobs: int = 1, timeout: float | None = None, resume: bool = False, quiet: bool = False
) -> Findings:
    """Searches as planned; returns what was found by all trials of the folder.

    jobs: trials side by side, each in a process of its own; 0: one after another in this process. timeout: seconds
    after which no trial is begun. resume: goes on with the search in the folder.

    Raises UserError for a folder that holds something else, before anything is written. Trials that fail are part of
    what is found.
    """
    check_installed()
    check_folder(plan, resume=resume)
    Findings.check_writable(plan.out)
    until = None if timeout is None else time.monotonic() + timeout
    with locked(plan.out, command_name("tune"), named="--out"), database_errors(plan):
        check_folder(plan, resume=resume)
        study = opened(plan)
        with status_line() as show, Workplaces(jobs, plan.out) as workplaces:
            found = _Search(plan, study, workplaces, jobs, until, None if quiet else show).run()
        found.write(pictures=True)
        write_search_page(found, importance=found.importance)
    return found


class _Search:
    def __init__(
        self,
        plan: Plan,
        study: "Study",
        workplaces: Workplaces,
        jobs: int,
        until: float | None,
        show: Callable[[str], None] | None,
    ) -> None:
        self._plan, self._study, self._workplaces, self._until, self._show = plan, study, workplaces, until, show
        self._slots = max(1, jobs)
        self._threads = max(1, cores() // jobs) if jobs > 1 else None
        self._running: list[RunningTrial] = []
        self._over = counted(over(study))
        died = [trial.number for trial in over(study) if DIED in trial.user_attrs]
        _prune(Findings(plan, study), *died)

    def run(self) -> Findings:
        """Goes on until enough trials are over, or time is."""
        try:
            while self._begin_trials() or self._running:
                wait([running.future for running in self._running], POLL_SECONDS, FIRST_COMPLETED)
                for running in list(self._running):
                    running.look()
                    if running.future.done():
                        self._end(running)
        except BaseException:
            for running in self._running:
                ask_to_stop(running.folder.path)
            raise
        return Findings(self._plan, self._study)

    def _begin_trials(self) -> bool:
        """Begins as many trials as there is room for; says whether there are any that it began or left for later."""
        while len(self._running) < self._slots and self._is_wanted():
            trial = self._study.ask()
            values = suggested(trial, self._plan.tune.space)
            config = self._with_threads(self._plan.config(values, f"trial-{trial.number:04d}"))
            running = RunningTrial(trial, values, config, self._plan.metric)
            running.future = self._workplaces.train(config)
            self._running.append(running)
            self._say()
        return bool(self._running)

    def _is_wanted(self) -> bool:
        from optuna.trial import TrialState

        if self._over + len(self._running) >= self._plan.tune.trials:
            return False
        if self._until is not None and time.monotonic() >= self._until:
            return False
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return self._plan.tune.sampler != "grid" or bool(waiting)

    def _with_threads(self, config: RunConfig) -> RunConfig:
        """Returns a configuration with its share of the cores, where trials run side by side."""
        if self._threads is None or config.launch.threads is not None:
            return config
        workers = config.launch.most_workers or 1
        threads = max(1, self._threads // workers)
        return config.model_copy(update={"launch": config.launch.model_copy(update={"threads": threads})})

    def _end(self, running: RunningTrial) -> None:
        self._running.remove(running)
        running.tell(self._study)
        self._over += 1
        found = Findings(self._plan, self._study)
        _prune(found, running.trial.number)
        found.write(pictures=False)
        write_search_page(found, importance={})
        if self._show is not None:
            messages().print(found.line(running.trial.number), markup=False, soft_wrap=True)
        self._say()

    def _say(self) -> None:
        if self._show is not None:
            numbers = ", ".join(str(running.trial.number) for running in self._running)
            self._show(f"{self._over} of {self._plan.tune.trials} trials are over; trains {numbers or 'none'}")


def _prune(found: Findings, *ended: int) -> None:
    """Removes the checkpoints of trials that have ended, and of the one that they may have beaten, but for the best."""
    if (keep := found.plan.tune.keep) is None:
        return
    kept, beaten = ({t.number for t in of} for of in (found.ranked[:keep], found.ranked[keep : keep + len(ended)]))
    for number in {*ended, *beaten} - kept:
        folder = RunFolder(found.folder(number))
        for step in () if folder.path.is_symlink() else folder.steps():
            remove(folder.checkpoint(step))
        if not folder.steps() and not folder.path.is_symlink():
            (folder.checkpoints / "best").unlink(missing_ok=True)
