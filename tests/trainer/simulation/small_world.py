"""Small simulations that tests share."""

from pathlib import Path
from typing import Any

from shardrec.trainer.simulation.log_schema import log_schema
from shardrec.trainer.simulation.policies import PolicyContext
from shardrec.trainer.simulation.run_file import SimulationConfig
from shardrec.trainer.simulation.settings import SimulationSettings
from shardrec.trainer.simulation.world import World

SMALL: dict[str, Any] = {
    "users": 120,
    "days": 3,
    "seeds": 1,
    "candidates": 6,
    "shown": 3,
    "news": {"per_day": 8, "fresh_hours": 30, "lasting": 2, "topics": 4, "publishers": 5},
    "tastes": {"groups": 3},
    "returns": {"hazard": 4e-5, "lost_days": 0.75},
}


def settings(**changes: Any) -> SimulationSettings:
    """Returns the small settings with some of them replaced, whole sections at a time."""
    return SimulationSettings.model_validate(SMALL | changes)


def config(folder: Path, **changes: Any) -> SimulationConfig:
    """Returns the run file of a small simulation."""
    return SimulationConfig.model_validate({"run": str(folder), "simulation": SMALL | changes})


def context(name: str, world: World, seed: int = 0) -> PolicyContext:
    """Returns what a policy of this world is made with; it keeps nothing on disk."""
    of_world = SimulationConfig(run="unused", simulation=world.settings)
    return PolicyContext(name, seed, of_world, log_schema(world.settings), Path("unused"), world)
