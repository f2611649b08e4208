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


class SimulationConfig(RunConfig):
    """A simulation is configured by this; `run` is the folder of all its episodes."""

    data: DataConfig = DataConfig()
    simulation: SimulationSettings

    @model_validator(mode="after")
    def _has_name(self) -> "SimulationConfig":
        """Lets `model` be left out: policies without one need none."""
        return self


def load_simulation(path: str | Path, overrides: Iterable[str] = ()) -> SimulationConfig:
    """Reads a simulation's run file, with overrides laid over it, as `load` does an ordinary one's.

    Raises UserError as that does; policies are looked up later (`registry.py`).
    """
    return load_as(SimulationConfig, path, overrides)
