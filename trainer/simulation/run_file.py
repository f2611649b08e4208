"""The run file of a simulation is an ordinary one with a section `simulation`.

Its other sections (`model`, `tables`, `optimizer`, `data`, `trainer`, `launch`) are those of the major updates of the
policies that learn a model; `data` needs no path then, since their data is the log.
"""

from collections.abc import Iterable
from pathlib import Path

from pydantic import model_validator

from shardrec.trainer.config.load import load_as
from shardrec.trainer.config.sections import DataConfig, RunConfig
from shardrec.trainer.simulation.settings import SimulationSettings

_ROWS = {"path": "path", "schema_path": "schema", "train": "train", "validation": "validation", "test": "test"}
"""Which rows an ordinary run reads: fields of `data` -> their keys in the run file."""


class SimulationConfig(RunConfig):
    """A simulation is configured by this; `run` is the folder of all its episodes."""

    data: DataConfig = DataConfig()
    simulation: SimulationSettings

    @model_validator(mode="after")
    def _has_name(self) -> "SimulationConfig":
        """Lets `model` be left out: policies without one need none."""
        return self

    @model_validator(mode="after")
    def _names_nothing_that_is_not_read(self) -> "SimulationConfig":
        """Refuses other rows, stages and starts than those that a simulation makes for its training runs."""
        named = [f"data.{key}" for field, key in _ROWS.items() if getattr(self.data, field) is not None]
        named += [key for key in ("stages", "init_from") if getattr(self, key)]
        if named:
            raise ValueError(f"{named[0]}: a simulation trains on its own log, from where it was; leave it out")
        return self


def load_simulation(path: str | Path, overrides: Iterable[str] = ()) -> SimulationConfig:
    """Reads a simulation's run file, with overrides laid over it, as `load` does an ordinary one's.

    Raises UserError as that does; policies are looked up later (`registry.py`).
    """
    return load_as(SimulationConfig, path, overrides)
