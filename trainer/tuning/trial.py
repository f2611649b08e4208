"""A trial while it trains: its evaluations are reported as they are recorded, and it is asked to stop where it lags.

It is asked by a file in its run folder, which the training looks for between steps: no checkpoint is cut short.
"""

import json
import math
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.stop_request import ask_to_stop
from shardrec.trainer.tracking.records import Records
from shardrec.trainer.tuning.space import Values
from shardrec.trainer.tuning.study import FAILURE

if TYPE_CHECKING:
    from optuna import Study, Trial

SECONDS, EVALUATIONS, VALUES = "seconds", "evaluations", "values"
"""Attributes of trials: what the table shows of them, and their settings by key."""


class RunningTrial:
    """A running trial knows Optuna's trial, its run folder, and the future of its training."""

    def __init__(self, trial: "Trial", values: Values, config: RunConfig, metric: str) -> None:
        self.trial, self.values, self.config, self._metric = trial, values, config, metric
        self.folder = RunFolder(config.run_folder)
        self.future: Future[str | None] = Future()
        self.asked_to_stop = False
        self._records = Records(self.folder.metrics_file)
        self._evaluations, self._began = 0, time.monotonic()
        trial.set_user_attr(VALUES, json.dumps(values))

    def look(self) -> None:
        """Reports the evaluations that are new; asks the trial to stop where the pruner says so."""
        for record in self._records.new():
            value = record.values.get(self._metric)
            if record.kind == "validation" and value is not None and math.isfinite(value):
                self._evaluations += 1
                self.trial.report(value, self._evaluations)
                if not self.asked_to_stop and self.trial.should_prune():
                    self.asked_to_stop = True
                    ask_to_stop(self.folder.path)

    def tell(self, study: "Study") -> None:
        """Tells the study what came of the trial, once its future is done."""
        from optuna.trial import TrialState

        self.look()
        self.trial.set_user_attr(SECONDS, round(time.monotonic() - self._began, 2))
        self.trial.set_user_attr(EVALUATIONS, self._evaluations)
        failure, value = self._outcome()
        if value is not None:
            study.tell(self.trial, value)
        elif self.asked_to_stop and failure is not None and self._evaluations:
            study.tell(self.trial, state=TrialState.PRUNED)
        else:
            self.trial.set_user_attr(FAILURE, failure or "no value")
            study.tell(self.trial, state=TrialState.FAIL)

    def _outcome(self) -> tuple[str | None, float | None]:
        """Returns why the trial has no value, or its value: of its best checkpoint, on validation rows."""
        try:
            failure = self.future.result()
            summary = self.folder.summary() if failure is None else None
        except UserError as error:
            return str(error), None
        if failure is not None or summary is None:
            return failure or "it left no summary", None
        value = summary["metrics"].get("validation", {}).get(self._metric)
        if value is None or not math.isfinite(value):
            reason = summary.get("undefined", {}).get("validation", {}).get(self._metric, "no validation rows scored")
            return f"{self._metric} is undefined: {reason}", None
        return None, float(value)
