"""Workers are started again when their group ended otherwise than it should, but not for ever from one checkpoint."""

from pathlib import Path

from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.launch.leaving import RegroupError
from shardrec.trainer.run_folder.folder import RunFolder


class Restarts(DefaultFailurePolicy):
    """The policy counts the failures since the newest checkpoint: a run of weeks on machines that come and go has many.

    Workers that left to be grouped anew have not failed; what a user has to mend fails alike at each try.
    """

    def __init__(self, failure_config: FailureConfig, folder: str) -> None:
        super().__init__(failure_config)
        self._folder = folder
        self._newest: int | None = None

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Returns whether the workers start again."""
        if isinstance(training_failed_error, WorkerGroupError):
            failures = training_failed_error.worker_failures.values()
            if any(isinstance(failure, RegroupError) for failure in failures):
                return FailureDecision.RETRY
            if any(isinstance(failure, UserError) for failure in failures):
                return FailureDecision.RAISE
            newest = max(RunFolder(Path(self._folder)).steps(), default=None)
            if newest != self._newest:
                self._newest, self._worker_group_failures = newest, 0
        return super().make_decision(training_failed_error)
