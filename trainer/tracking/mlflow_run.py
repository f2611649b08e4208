"""A run of MLflow's, by its client alone: no global state of MLflow's is touched."""

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from shardrec.trainer.tracking.job import Ending, Job
from shardrec.trainer.tracking.records import Record
from shardrec.trainer.tracking.tracker import flat, plain_name

ENVIRONMENT = {  # where the user has set nothing else
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # whoever names a folder wants one
}
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_BATCH = 500  # of 1000 metrics, and of 100 parameters, that a request may have
_PARAMETERS = 100
_LONGEST = 6000  # characters of a parameter
_STATUS: dict[Ending, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


def tracking_uri(settings: Mapping[str, Any], directory: str) -> str:
    """Returns where MLflow keeps runs: as set, as its own variable says, else a SQLite file in the directory."""
    named = settings.get("uri") or os.environ.get("MLFLOW_TRACKING_URI")
    return named or f"sqlite:///{directory}/mlflow.db"


class MlflowRun:
    """A run has metrics by step, the resolved run file as parameters, and files of the run folder as artifacts."""

    def __init__(self) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._client: Any = None
        self._run = ""

    def open(self, job: Job, run: str | None) -> str:
        """Goes on with a run that is there, or makes one, in an experiment that is made where it is not there."""
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        uri = tracking_uri(job.settings, job.directory)
        with alone(uri):
            self._client = client = MlflowClient(uri)
        if run is not None:
            with suppress(MlflowException):  # removed there, or another server: then a new run
                client.update_run(run, status="RUNNING")
                self._run = run
                return run
        name = job.settings.get("experiment") or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "shardrec"
        tags = {"shardrec.run_folder": job.folder, "mlflow.source.name": "shardrec"}
        if job.group is not None:
            tags["shardrec.group"] = job.group
        created = client.create_run(self._experiment(name), run_name=job.name, tags=tags)
        self._run = created.info.run_id
        self._parameters(job.config)
        return self._run

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another run has made it meanwhile
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _parameters(self, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        values = {plain_name(key): value for key, value in flat(config).items() if value not in (None, {}, [])}
        parameters = iter([Param(key, str(value)[:_LONGEST]) for key, value in values.items()])
        while batch := list(islice(parameters, _PARAMETERS)):
            self._client.log_batch(self._run, params=batch)

    def send(self, records: Sequence[Record]) -> None:
        """Writes each number as the metric `KIND/NAME`."""
        metrics = (m for record in records for m in _metrics(f"{record.kind}/", record.values, record))
        self._send(metrics)

    def _send(self, metrics: Iterable[Any]) -> None:
        left = iter(metrics)
        while batch := list(islice(left, _BATCH)):
            self._client.log_batch(self._run, metrics=batch)

    def close(self, ending: Ending, summary: Mapping[str, Any], files: Iterable[Path]) -> None:
        """Adds the summary's numbers as metrics `summary/...`, and the files, and says how the run ended."""
        now = Record("summary", int(summary.get("steps", 0)), time.time(), {})
        self._send(_metrics("summary/", flat(summary, separator="/"), now))
        for file in files:
            self._client.log_artifact(self._run, str(file))
        self._client.set_terminated(self._run, _STATUS[ending])


@contextmanager
def alone(uri: str) -> Iterator[None]:
    """Keeps runs of this machine that begin at once from all making the tables of one new SQLite file."""
    if not uri.startswith("sqlite"):
        yield
        return
    name = f"shardrec-mlflow-{os.getuid()}-{hashlib.sha256(uri.encode()).hexdigest()[:16]}.lock"
    with (Path(tempfile.gettempdir()) / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _metrics(prefix: str, values: Mapping[str, Any], at: Record) -> list[Any]:
    from mlflow.entities import Metric

    numbers = {n: v for n, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return [Metric(plain_name(prefix + n), float(v), int(at.time * 1000), at.step) for n, v in numbers.items()]
