"""`tune` of a run file says which of its keys are searched for, and how; commands but `shardrec tune` pass it over.

tune:
  metric: auc
  trials: 40
  space:
    optimizer.tower.learning_rate: {log: [1e-4, 1e-2]}
    model.embedding_dim: [8, 16, 32]
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from shardrec.data_pipeline.declared.declaration import Name, given_twice

MOST_TRIALS = 100_000


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class Parameter(_Part):
    """A parameter is what a key may be: one of some choices, or a number between two bounds, both of which count.

    log: a float whose logarithm is drawn evenly. log_int: an integer likewise. step: between values, from the lower
    bound on. when: key -> values (or one) that another parameter has to have for this one to be set at all.
    """

    choices: tuple[Any, ...] | None = Field(default=None, min_length=1, max_length=1000)
    uniform: tuple[float, float] | None = Field(default=None, alias="float")
    log: tuple[float, float] | None = None
    integer: tuple[int, int] | None = Field(default=None, alias="int")
    log_int: tuple[int, int] | None = None
    step: float | None = Field(default=None, gt=0)
    when: dict[Name, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Takes a list alone for choices."""
        return {"choices": value} if isinstance(value, list | tuple) else value

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Returns the bounds of a number; None of choices."""
        return self.uniform or self.log or self.integer or self.log_int

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        kinds = {"choices": self.choices, "float": self.uniform, "log": self.log, "int": self.integer}
        given = [name for name, kind in {**kinds, "log_int": self.log_int}.items() if kind is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected a list of choices or one of float, log, int, log_int: [lowest, highest]; found "
                f"{' and '.join(given) or 'none'}"
            )
        if self.choices is not None and (twice := given_twice([repr(choice) for choice in self.choices])) is not None:
            raise ValueError(f"the choice {twice} is there twice")
        if self.bounds is not None:
            self._check_bounds(*self.bounds)
        elif self.step is not None:
            raise ValueError("step is of float and int; choices have none")
        return self

    def _check_bounds(self, lowest: float, highest: float) -> None:
        if not lowest < highest:
            raise ValueError(f"expected [lowest, highest], found [{lowest:g}, {highest:g}]")
        if (self.log or self.log_int) and lowest <= 0:
            raise ValueError(f"a logarithm needs bounds above 0, found {lowest:g}")
        if (self.log or self.log_int) and self.step is not None:
            raise ValueError("step is of float and int; leave it out beside a logarithm, or list choices")
        if self.integer and self.step is not None and self.step != int(self.step):
            raise ValueError(f"a step of integers is one, found {self.step:g}")


class Pruner(_Part):
    """A pruner stops trials that are behind. startup_trials: that end before it stops any; warmup: evaluations of each.

    median: behind the median of the others at the same evaluation. hyperband: several rounds of successive halving.
    """

    name: Literal["median", "hyperband", "none"] = "median"
    startup_trials: int = Field(default=5, ge=0, description="median")
    warmup: int = Field(default=0, ge=0, description="median")


class TuneConfig(_Part):
    """Says which keys are searched for, by which metric of the validation rows, and when the search is over."""

    metric: Name | None = Field(default=None, description="default: the run's own that decides what is best")
    trials: int = Field(default=20, gt=0, le=MOST_TRIALS)
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    pruner: Pruner = Pruner()
    keep: Annotated[int, Field(ge=1)] | None = Field(default=3, description="best trials whose checkpoints stay")
    space: dict[Name, Parameter] = {}

    @field_validator("pruner", mode="before")
    @classmethod
    def _called(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("space")
    @classmethod
    def _conditions_come_first(cls, space: dict[str, Parameter]) -> dict[str, Parameter]:
        """Puts each key behind those that its `when` names."""
        ordered: dict[str, Parameter] = {}
        while left := {key: parameter for key, parameter in space.items() if key not in ordered}:
            for key, parameter in left.items():
                _check_conditions(key, parameter, space)
                if all(condition in ordered for condition in parameter.when):
                    ordered[key] = parameter
            if not any(key in ordered for key in left):
                raise ValueError(f"{' and '.join(left)}: each is set only when the other is")
        return ordered


def _check_conditions(key: str, parameter: Parameter, space: Mapping[str, Parameter]) -> None:
    """Raises ValueError for a condition on what is no key with choices, or no choice of it."""
    for condition, wanted in parameter.when.items():
        choices = space[condition].choices if condition in space else None
        if choices is None:
            raise ValueError(f"{key}.when: {condition!r} is no other key of the space with choices")
        if missing := [value for value in listed_values(wanted) if value not in choices]:
            raise ValueError(f"{key}.when: {missing[0]!r} is no choice of {condition}")


def listed_values(wanted: Any) -> list[Any]:
    """Returns the values that a condition allows: a list's, or the one that it is."""
    return list(wanted) if isinstance(wanted, list | tuple) else [wanted]


def applies(parameter: Parameter, values: Mapping[str, Any]) -> bool:
    """Says whether a parameter is set, given what the earlier ones are."""
    return all(key in values and values[key] in listed_values(wanted) for key, wanted in parameter.when.items())
