"""DRN on Parquet, by the real trainer: the values that dynamic programming finds, who overestimates, what resumes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shardrec
from tests.trainer.mdp import Decisions, transitions, write
from tests.trainer.recorded import train
from tests.trainer.small_run import run_file


def run_of(path: Path, data: Path, model: dict[str, Any], rate: float, **trainer: Any) -> Path:
    small = {"name": "drn", "embedding_dim": 8, "mlp": {"hidden": [32]}, "rewards": {"reward": 1.0}}
    return run_file(
        path,
        data,
        data={"global_batch_size": 150, "lanes": 1},
        model=small | model,
        optimizer={
            "tables": {"name": "adam", "learning_rate": rate, "eps": 1e-8},
            "tower": {"name": "adam", "learning_rate": rate},
            "schedule": {"decay": "cosine"},
        },
        trainer={"log_every_steps": 1000} | trainer,
    )


@pytest.mark.parametrize("settings", [{}, {"double": False, "target": {"every": 20, "by": "swap"}}])
def test_learns_the_values_of_a_decision_process(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Of five states and three actions, whose rewards and successors are drawn: each within 1 % of the true one."""
    decisions = Decisions.drawn(5, 3)
    data = write(tmp_path / "data", decisions.schema(), train=decisions.log())
    model = {"discount": 0.6, "target": {"every": 20}} | settings
    train(run_of(tmp_path / "run.yaml", data, model, 0.02, epochs=300))
    with shardrec.open(tmp_path / "run") as learned:
        found = np.array(learned.predict(decisions.pairs())["prediction"]).reshape(5, 3)
    np.testing.assert_allclose(found, decisions.values(0.6), rtol=0.01)
