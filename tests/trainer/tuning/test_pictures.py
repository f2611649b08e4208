"""What mattered of a search, and when it stops a trial, told from trials that need no training."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from shardrec.trainer.config.tuning import Pruner, TuneConfig
from shardrec.trainer.tuning.pictures import draw_importance, importance
from shardrec.trainer.tuning.plan import Plan, RunFile
from shardrec.trainer.tuning.study import made_pruner


def test_keys_that_only_some_trials_have_are_left_out_of_importance(tmp_path: Path) -> None:
    space = {"variant": ["fm", "deepfm"], "dropout": {"float": [0, 0.5], "when": {"variant": "deepfm"}}}
    tune = TuneConfig.model_validate({"space": {**space, "rate": {"log": [1e-3, 1]}}})
    kinds: dict[str, Any] = {"variant": CategoricalDistribution(["fm", "deepfm"]), "dropout": FloatDistribution(0, 0.5)}
    kinds["rate"] = FloatDistribution(1e-3, 1, log=True)
    study = optuna.create_study(direction="maximize")
    for number in range(8):
        params = {"variant": "deepfm", "dropout": 0.1, "rate": 0.1} if number % 2 else {"variant": "fm", "rate": 0.01}
        of = {key: kinds[key] for key in params}
        study.add_trial(optuna.create_trial(params=params, distributions=of, value=number / 10))
    ranked = sorted(study.trials, key=lambda trial: -(trial.value or 0))
    shares = importance(study, ranked)
    assert set(shares) == {"variant", "rate"} and sum(shares.values()) == pytest.approx(1)
    plan = Plan(RunFile({}, "run.yaml", tmp_path), tune, "auc", True, tmp_path)
    draw_importance(plan, shares, ranked, tmp_path / "importance.png")
    assert (tmp_path / "importance.png").stat().st_size > 1000
    assert importance(study, [trial for trial in ranked if trial.value in (0.0, 0.1)]) == {}


def test_a_pruner_judges_no_evaluation_of_its_warmup() -> None:
    study = optuna.create_study(pruner=made_pruner(Pruner(startup_trials=1, warmup=2)))
    for values in ((0.1, 0.1, 0.1), (0.9, 0.9, 0.9)):
        trial, judged = study.ask(), []
        for evaluation, value in enumerate(values, start=1):
            trial.report(value, evaluation)
            judged.append(trial.should_prune())
        study.tell(trial, values[-1])
    assert judged == [False, False, True]
