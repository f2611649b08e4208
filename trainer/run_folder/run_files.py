"""Where the files of a run lie: those that are read by name, and the folders that hold the others."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from shardrec.data_pipeline.stores.location import Location, StorePath
from shardrec.data_pipeline.stores.mirrors import address, mirrored

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class RunFiles:
    """A run's files lie in a folder; its checkpoints in the store that this is a mirror of, where the run is in one.

    own_logs: the folder of one command's logs, where it has one (`own_logs` in command_logs.py). elsewhere: of a run in
    a store, this is the mirror of another machine than the launcher's.
    """

    path: Path
    own_logs: Path | None = None
    elsewhere: bool = False

    @property
    def config_file(self) -> Path:
        """Returns the file of the resolved run file."""
        return self.path / "config.yaml"

    @property
    def schema_file(self) -> Path:
        """Returns the file of the schema that the run used."""
        return self.path / "schema.yaml"

    @property
    def logs(self) -> Path:
        """Returns the folder of the workers' logs, of what they tell each other, and of what they tell the launcher."""
        return self.own_logs or self.path / "logs"

    @cached_property
    def store(self) -> StorePath | None:
        """Returns what this folder is a mirror of, where the run is in a store."""
        return mirrored(self.path)

    @property
    def address(self) -> str:
        """Returns what the user names the run by: its URI, or its path."""
        return address(self.path)

    @property
    def checkpoints(self) -> Location:
        """Returns the folder of all checkpoints, which is in the store where the run is."""
        return (self.store or self.path) / CHECKPOINTS

    def stored(self, file: Path) -> StorePath:
        """Returns the object of a file of this folder, where the run is in a store."""
        assert self.store is not None
        return self.store / file.relative_to(self.path).as_posix()

    @property
    def metrics_file(self) -> Path:
        """Returns the file with a line of JSON for each recorded step or evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def summary_file(self) -> Path:
        """Returns the file that says what a finished run came to."""
        return self.path / "summary.json"

    @property
    def plan_file(self) -> Path:
        """Returns the file of the plan in numbers; `plan.txt` has it in words."""
        return self.path / "plan.json"

    @property
    def slices_file(self) -> Path:
        """Returns the file of the scores by slices that a report was asked for."""
        return self.path / "slices.json"

    @property
    def curves_file(self) -> Path:
        """Returns the file of the best checkpoint's curves (`final_curves.py`)."""
        return self.path / "curves.json"

    @property
    def launches_file(self) -> Path:
        """Returns the file of the commands that trained here (`launches.py`)."""
        return self.path / "launches.jsonl"

    @property
    def report_file(self) -> Path:
        """Returns the page that shows the run."""
        return self.path / "report.html"

    @property
    def calibration_file(self) -> Path:
        """Returns the file of the map from predictions to probabilities, where the run was calibrated."""
        return self.path / "calibration.json"

    @property
    def stages_file(self) -> Path:
        """Returns the resolved run file of a run of stages, which has it instead of `config_file`."""
        return self.path / "stages.yaml"

    @property
    def error_file(self) -> Path:
        """Returns the file with the line that stopped the run on some worker, which writes it for the launcher."""
        return self.logs / "error.json"

    @property
    def result_file(self) -> Path:
        """Returns the file with what rank 0 returns to a launcher whose workers run elsewhere."""
        return self.logs / "result.json"
