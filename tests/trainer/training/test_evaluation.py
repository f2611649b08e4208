"""Ranks go by the same metrics, whatever each of them has computed."""

from pathlib import Path
from typing import Any

from shardrec.models.metrics import MetricSet
from shardrec.trainer.config.load import load
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session
from shardrec.trainer.training.evaluation import evaluate
from tests.processes import run_processes
from tests.trainer.small_run import run_file, write_data


class Uneven:
    """Metrics that come out a little larger on higher ranks, as sums on GPUs may."""

    def __init__(self, metrics: MetricSet, rank: int) -> None:
        self.metrics, self.rank, self.update = metrics, rank, metrics.update

    def compute(self) -> dict[str, float]:
        return {name: value + 1e-3 * self.rank for name, value in self.metrics.compute().items()}

    def binned_curves(self) -> None:
        return None


def scored(rank: int, path: Path) -> dict[str, float]:
    config = load(path)
    environment = Environment.from_variables("cpu")
    environment.join(60)
    session = Session.build(Blueprint(config), environment)
    task, made = session.model.task, session.model.task.metrics

    def uneven(*arguments: Any, **settings: Any) -> Any:
        return Uneven(made(*arguments, **settings), rank)

    task.metrics = uneven  # type: ignore[method-assign]
    validation = config.data.split("validation")
    assert validation is not None
    return evaluate(session, session.loader(validation)).metrics


def test_all_ranks_have_rank_0s_metrics(tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.yaml", write_data(tmp_path / "data", rows=600))
    first, second = run_processes(2, scored, path)
    assert first == second and first["auc"] > 0.1
