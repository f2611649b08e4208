"""A tracker is a package of its own, which is asked for before anything starts."""

import importlib.util
import os

from shardrec.data_pipeline.errors import UserError, installed_by
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.tracking.mlflow_run import DATABASES, tracking_uri


def check_trackers(config: RunConfig) -> None:
    """Raises UserError where a tracker that the run file names is not installed."""
    if config.trainer.tracking is None:
        return
    trackers = config.trainer.tracking.trackers
    for name in trackers:
        _check(name, name)
    if "mlflow" in trackers and tracking_uri(trackers["mlflow"], os.getcwd()).startswith(DATABASES):
        for package in ("sqlalchemy", "alembic"):  # of MLflow's client alone, which comes without
            _check("mlflow", package)


def _check(tracker: str, package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"trainer.tracking: needs {package}; {installed_by(tracker)}")
