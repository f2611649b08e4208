"""A space is what a search draws from, key by key: a key that depends on others is drawn after them, if at all."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.tuning import Parameter, applies

if TYPE_CHECKING:
    from optuna import Trial

Values = dict[str, Any]
"""Key of the run file -> its value in one trial."""

MOST_COMBINATIONS = 10_000
"""Trials of a grid, at most."""


def label(value: Any) -> Any:
    """Returns a choice as Optuna stores it: a number or text is itself, a list or mapping its JSON."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def suggested(trial: "Trial", space: Mapping[str, Parameter]) -> Values:
    """Draws a trial's values."""
    values: Values = {}
    for key, parameter in space.items():
        if applies(parameter, values):
            values[key] = _drawn(trial, key, parameter)
    return values


def _drawn(trial: "Trial", key: str, parameter: Parameter) -> Any:
    if parameter.choices is not None:
        choices = {label(choice): choice for choice in parameter.choices}
        return choices[trial.suggest_categorical(key, list(choices))]
    if (whole := parameter.integer or parameter.log_int) is not None:
        if parameter.log_int:
            return trial.suggest_int(key, *whole, log=True)
        return trial.suggest_int(key, *whole, step=int(parameter.step or 1))
    bounds = parameter.bounds
    assert bounds is not None
    return trial.suggest_float(key, *bounds, log=parameter.log is not None, step=parameter.step)


def by_key(stored: Mapping[str, Any], space: Mapping[str, Parameter]) -> Values:
    """Returns a finished trial's values, of which Optuna has stored labels."""
    values: Values = {}
    for key, parameter in space.items():
        if key in stored:
            choices = {label(choice): choice for choice in parameter.choices or ()}
            values[key] = choices.get(stored[key], stored[key])
    return values


def short_key(key: str) -> str:
    """Returns the last two parts of a key."""
    return ".".join(key.split(".")[-2:])


def first_values(space: Mapping[str, Parameter]) -> Values:
    """Returns the first choice, or the lowest value, of each key that then is set."""
    values: Values = {}
    for key, parameter in space.items():
        if applies(parameter, values):
            values[key] = extremes(parameter)[0]
    return values


def extremes(parameter: Parameter) -> list[Any]:
    """Returns all choices, or both bounds."""
    return list(parameter.choices if parameter.choices is not None else parameter.bounds or ())


def grid(space: Mapping[str, Parameter]) -> list[Values]:
    """Returns every combination of a space's values, the last key's changing first.

    Raises UserError for a range that has no steps, and for more combinations than anybody trains.
    """
    found: list[Values] = [{}]
    for key, parameter in space.items():
        steps = list(_steps(key, parameter))
        found = [
            {**values, key: step} if applies(parameter, values) else values
            for values in found
            for step in (steps if applies(parameter, values) else steps[:1])
        ]
        if len(found) > MOST_COMBINATIONS:
            raise UserError(
                f"tune.space: a grid of more than {MOST_COMBINATIONS:,} trials; leave out keys or values, or take "
                "sampler: tpe"
            )
    return found


def _steps(key: str, parameter: Parameter) -> Iterator[Any]:
    if parameter.choices is not None:
        yield from parameter.choices
        return
    is_whole, bounds = parameter.integer is not None, parameter.bounds
    assert bounds is not None
    step = parameter.step or (1 if is_whole else None)
    if step is None or parameter.log_int:
        raise UserError(
            f"tune.space: {key} is a range without steps, of which there is no grid; list its values, or give it a step"
        )
    count = int((bounds[1] - bounds[0]) / step + 1e-9) + 1
    if count > MOST_COMBINATIONS:
        raise UserError(f"tune.space: {key} has {count:,} steps; give it a larger step, or take sampler: tpe")
    for number in range(count):
        value = bounds[0] + number * step
        yield int(value) if is_whole else value
