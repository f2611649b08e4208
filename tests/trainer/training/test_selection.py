"""Which metric decides what is best, and what an evaluation then does to a run's state."""

import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.models.undefined import Undefined
from shardrec.trainer.training.selection import selecting_metric
from shardrec.trainer.training.state import TrainingState

DIRECTIONS = {"auc": True, "average_precision": True, "log_loss": False, "accuracy": True}
ALL = {"auc": 0.7, "average_precision": 0.4, "log_loss": 0.5, "accuracy": 0.8, "rows": 9.0}
ONE_CLASS = ALL | {"auc": Undefined("all labels are 1"), "average_precision": 1.0}
NOTHING = dict.fromkeys(ALL, Undefined("no row has a weight over 0"))


def test_without_a_wish_it_is_the_tasks_own_else_a_loss() -> None:
    assert selecting_metric(ALL, DIRECTIONS, wanted=None, before=None) == "auc"
    assert selecting_metric(ONE_CLASS, DIRECTIONS, wanted=None, before=None) == "log_loss"
    assert selecting_metric(ALL, DIRECTIONS, wanted=None, before="log_loss") == "log_loss"  # a run stays with one
    assert selecting_metric(NOTHING, DIRECTIONS, wanted=None, before=None) is None


def test_what_is_wished_has_to_be_defined() -> None:
    assert selecting_metric(ALL, DIRECTIONS, wanted="accuracy", before="auc") == "accuracy"
    with pytest.raises(
        UserError, match=r"'auc' decides .* all labels are 1; select by another metric \(average_prec.*, "
    ):
        selecting_metric(ONE_CLASS, DIRECTIONS, wanted="auc", before=None)
    with pytest.raises(UserError, match="no row has a weight over 0; select by another metric, or evaluate on other"):
        selecting_metric(NOTHING, DIRECTIONS, wanted="auc", before=None)


def test_the_best_is_measured_by_the_metric_of_today() -> None:
    """A log loss of 0.6 is less than the best step's AUC, but not than its log loss."""
    state = TrainingState(9)
    state.judge(ONE_CLASS | {"auc": 0.7}, "auc", larger_is_better=True, stopping=None)
    state.position.step = 1
    state.judge(ALL | {"log_loss": 0.6}, "log_loss", larger_is_better=False, stopping=None)
    assert state.best_step == 0
    state.judge(ALL | {"log_loss": 0.4}, "log_loss", larger_is_better=False, stopping=None)
    assert state.best_step == 1


def test_reasons_outlive_a_checkpoint() -> None:
    """A manifest is JSON, which has neither NaN nor reasons."""
    state = TrainingState(9)
    state.judge(ONE_CLASS, "log_loss", larger_is_better=False, stopping=None)
    assert state.position.best is not None and state.position.best["metrics"]["auc"] is None
    best = state.best_metrics()
    assert best is not None and isinstance(best["auc"], Undefined) and best["auc"].reason == "all labels are 1"
