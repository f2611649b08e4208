"""A metric that its rows do not define has a value of its own, which says why."""

from collections.abc import Mapping
from math import isfinite, nan
from typing import Self


class Undefined(float):
    """An undefined value is a NaN with a `reason`: one line about the rows that a metric cannot be computed of."""

    reason: str

    def __new__(cls, reason: str) -> Self:
        """Makes a NaN that says why it is one."""
        value = super().__new__(cls, nan)
        value.reason = reason
        return value

    def __getnewargs__(self) -> tuple[str]:  # type: ignore[override]  # what a copy is made of
        return (self.reason,)

    def __repr__(self) -> str:
        return f"Undefined({self.reason!r})"

    def __str__(self) -> str:
        return f"undefined ({self.reason})"


def undefined_in(values: Mapping[str, object]) -> dict[str, str]:
    """Returns the reason of each undefined one of some values, by name: what JSON has beside nulls."""
    return {name: value.reason for name, value in values.items() if isinstance(value, Undefined)}


def with_reasons(values: Mapping[str, float | None], reasons: Mapping[str, str]) -> dict[str, float]:
    """Returns values as they were before JSON: those that are null or NaN are `Undefined`, for what `reasons` say."""
    return {
        name: Undefined(reasons.get(name, "no reason was recorded")) if value is None or not isfinite(value) else value
        for name, value in values.items()
    }
