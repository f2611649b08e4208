"""What a search draws: every combination of a grid, values within their bounds, keys that depend on others."""

from typing import Any

import optuna
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.load import parse
from shardrec.trainer.config.tuning import TuneConfig
from shardrec.trainer.tuning.space import by_key, grid, label, suggested


def space(**parameters: Any) -> TuneConfig:
    return TuneConfig.model_validate({"space": parameters})


def test_a_grid_has_each_combination_once_and_leaves_out_what_does_not_apply() -> None:
    searched = space(
        a=["x", "y"],
        b={"int": [1, 5], "step": 2, "when": {"a": "y"}},
        c={"float": [0, 1], "step": 0.5},
        d=[[1], [2, 3]],
    )
    expected = []
    for a in ("x", "y"):
        for b in (1, 3, 5) if a == "y" else (None,):
            for c in (0, 0.5, 1.0):
                for d in ([1], [2, 3]):
                    expected.append({"a": a, **({} if b is None else {"b": b}), "c": c, "d": d})
    assert grid(searched.space) == expected
    assert all(type(values.get("b", 1)) is int for values in grid(searched.space))


def test_a_key_is_drawn_after_what_it_depends_on_wherever_it_is_written() -> None:
    searched = space(a=["x", "y"], b={"choices": [1, 2], "when": {"c": 4}}, c={"choices": [3, 4], "when": {"a": "y"}})
    assert list(searched.space) == ["a", "c", "b"]
    assert grid(searched.space)[-3:] == [{"a": "y", "c": 3}, {"a": "y", "c": 4, "b": 1}, {"a": "y", "c": 4, "b": 2}]
    with pytest.raises(ValueError, match="a and b: each is set only when the other is"):
        space(a={"choices": [1], "when": {"b": 1}}, b={"choices": [1], "when": {"a": 1}})


def test_draws_are_within_their_bounds_and_read_back_as_they_were() -> None:
    searched = space(
        kind=["adam", "ftrl"],
        rate={"log": [1e-4, 1e-2]},
        hidden=[[4, 4], [8], None],
        l1={"float": [0, 1], "step": 0.25, "when": {"kind": ["ftrl"]}},
        depth={"int": [2, 8], "step": 3},
        width={"log_int": [1, 64]},
    ).space
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen: dict[str, list[Any]] = {key: [] for key in searched}
    for number in range(60):
        trial = study.ask()
        values = suggested(trial, searched)
        study.tell(trial, float(number))
        assert ("l1" in values) == (values["kind"] == "ftrl")
        assert by_key(study.trials[-1].params, searched) == values
        for key, value in values.items():
            seen[key].append(value)
    assert 1e-4 <= min(seen["rate"]) < 3e-4 and 3e-3 < max(seen["rate"]) <= 1e-2
    assert sum(rate < 1e-3 for rate in seen["rate"]) in range(20, 41)  # half of them, as logarithms go
    assert set(seen["depth"]) == {2, 5, 8} and set(seen["l1"]) <= {0, 0.25, 0.5, 0.75, 1}
    assert {label(hidden) for hidden in seen["hidden"]} == {"[4, 4]", "[8]", None}
    assert 1 <= min(seen["width"]) <= 4 and 16 <= max(seen["width"]) <= 64


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ({"int": [1, 2], "log": [1, 2]}, "found log and int"),
        ({}, "found none"),
        ({"float": [2, 1]}, "expected [lowest, highest], found [2, 1]"),
        ({"log": [0, 1]}, "a logarithm needs bounds above 0"),
        ({"log": [1, 2], "step": 0.1}, "step is of float and int"),
        ({"int": [1, 4], "step": 0.5}, "a step of integers is one"),
        ([1, 2, 1], "the choice 1 is there twice"),
        ({"choices": [1, 2], "when": {"trainer.epochs": 1}}, "'trainer.epochs' is no other key"),
        ({"ints": [1, 4]}, "unknown key 'ints'"),
    ],
)
def test_what_is_no_parameter_is_said_in_one_line(parameter: Any, said: str) -> None:
    declared = {"run": "r", "data": {}, "model": "lr", "tune": {"space": {"trainer.seed": parameter}}}
    with pytest.raises(UserError) as refused:
        parse(declared, "run.yaml")
    assert said in str(refused.value) and "trainer.seed" in str(refused.value)


def test_a_range_without_steps_has_no_grid() -> None:
    with pytest.raises(UserError, match="rate is a range without steps"):
        grid(space(rate={"log": [1e-4, 1e-2]}).space)
    with pytest.raises(UserError, match="more than 10,000 trials"):
        grid(space(a=list(range(200)), b={"int": [1, 100]}).space)
