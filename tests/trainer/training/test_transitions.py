"""DRN on Parquet, by the real trainer: the values that dynamic programming finds, who overestimates, what resumes."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import shardrec
from tests.trainer.command_line import refused
from tests.trainer.mdp import Decisions, write
from tests.trainer.recorded import assert_same_checkpoint, tower, train
from tests.trainer.saved_runs import saved_again
from tests.trainer.small_run import run_file


def run_of(path: Path, data: Path, model: dict[str, Any], rate: float, decay: str = "none", **trainer: Any) -> Path:
    small = {"name": "drn", "embedding_dim": 8, "mlp": {"hidden": [32]}, "rewards": {"reward": 1.0}}
    return run_file(
        path,
        data,
        data={"global_batch_size": 150, "window": 150, "lanes": 1},
        model=small | model,
        optimizer={
            "tables": {"name": "adam", "learning_rate": rate, "eps": 1e-8},
            "tower": {"name": "adam", "learning_rate": rate},
            "schedule": {"decay": decay},
        },
        trainer={"log_every_steps": 1000} | trainer,
    )


def test_learns_the_values_of_a_decision_process(tmp_path: Path) -> None:
    """Of five states and three actions, whose rewards and successors are drawn: each within 1 % of the true one.

    A batch holds every outcome of every action as often as it is likely, in another order each time.
    """
    decisions = Decisions.drawn(5, 3)
    data = write(tmp_path / "data", decisions.schema(), train=pa.concat_tables([decisions.log()] * 20))
    model = {"discount": 0.6, "target": {"every": 20}}
    train(run_of(tmp_path / "run.yaml", data, model, 0.02, "cosine", epochs=15))
    with shardrec.open(tmp_path / "run") as learned:
        found = np.array(learned.predict(decisions.pairs())["prediction"]).reshape(5, 3)
    np.testing.assert_allclose(found, decisions.values(0.6), rtol=0.01)


@pytest.mark.parametrize("by", ["copy", "swap"])
def test_goes_on_from_what_two_ranks_saved_between_two_updates_of_the_target(tmp_path: Path, by: str) -> None:
    """To the same bit as the run that was never stopped: its target network, the count of steps and the rest."""
    decisions = Decisions.drawn(5, 3)
    data = write(tmp_path / "data", decisions.schema(), train=decisions.log())
    model = {"target": {"every": 4, "by": by}}
    for name in ("whole", "broken"):
        path = run_of(tmp_path / f"{name}.yaml", data, model, 0.05, epochs=11, checkpoint={"every_steps": 6, "keep": 9})
        if name == "whole":
            train(path)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(tmp_path / "broken.yaml", ("trainer.max_steps=6",))
    at = broken / "checkpoints/step-6"
    again = saved_again(broken, 6, tmp_path / "again", 2, {"state": "row_wise", "action": "row_wise"})
    shutil.rmtree(at)
    again.rename(at)
    train(tmp_path / "broken.yaml", resume=True)
    assert_same_checkpoint(broken / "checkpoints/step-11", whole / "checkpoints/step-11")
    saved = [tower(whole / f"checkpoints/step-{step}") for step in (6, 11)]
    assert [int(tensors["tower_buffer/model.steps"]) for tensors in saved] == [6, 11]
    name = "model.target.advantage.layers.0.weight"
    assert not torch.equal(saved[1][f"tower_buffer/{name}"], saved[0][f"tower_buffer/{name}"])
    assert not torch.equal(saved[1][f"tower_buffer/{name}"], saved[1][f"tower/{name.replace('target', 'online')}"])


def test_rows_that_cannot_be_learned_from_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decisions = Decisions.drawn(3, 2)
    first = decisions.log()["terminal"].to_pylist().index(1)
    data = write(tmp_path / "data", decisions.schema(), train=decisions.log(marked=False))
    line = refused(monkeypatch, "train", run_of(tmp_path / "run.yaml", data, {}, 0.02), "--quiet")
    assert f"length of 'next_actions': found 0 in row {first}; a row with 'terminal' 0 needs the actions" in line
