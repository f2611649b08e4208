"""Checks are of JSON's values: each raises ValueError for one that is not as it should be, and names the place."""

import json
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

Check = Callable[[Any, str], None]
"""Raises ValueError for a value that is not as it should be; it is told where the value is."""


def value_that(expected: str, holds: Callable[[Any], bool]) -> Check:
    def check(value: Any, where: str) -> None:
        if not holds(value):
            text = json.dumps(value)
            raise ValueError(f"{where or 'it'} is {text[:60]}{'...' * (len(text) > 60)}, expected {expected}")

    return check


def _is_integer(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def one_of(names: Collection[str]) -> Check:
    return value_that(f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names)


TEXT = value_that("a string", lambda value: isinstance(value, str))
FLAG = value_that("true or false", lambda value: isinstance(value, bool))
INTEGER = value_that("an integer", _is_integer)
COUNT = value_that("an integer of 0 or more", lambda value: _is_integer(value) and value >= 0)
POSITIVE = value_that("an integer of 1 or more", lambda value: _is_integer(value) and value >= 1)
BOUND = value_that("a number", lambda value: type(value) in (int, float) and not math.isnan(value))
NUMBER = value_that("a finite number", is_number)
OBJECT = value_that("an object", lambda value: isinstance(value, dict))
LIST = value_that("a list", lambda value: isinstance(value, list))


def or_none(check: Check) -> Check:
    """Returns a check that lets null pass."""
    return lambda value, where: None if value is None else check(value, where)


def list_of(check: Check, least: int = 0) -> Check:
    """Returns a check of lists with so many elements at least."""

    def of_all(value: Any, where: str) -> None:
        LIST(value, where)
        if len(value) < least:
            raise ValueError(f"{where} is empty, expected {least} or more")
        for place, element in enumerate(value):
            check(element, f"{where}[{place}]")

    return of_all


def object_with(optional: Mapping[str, Check] | None = None, **members: Check) -> Check:
    """Returns a check of objects that have these members, and may have the optional ones and others."""

    def of_all(value: Any, where: str) -> None:
        OBJECT(value, where)
        for name, check in {**members, **(optional or {})}.items():
            at = f"{where}.{name}" if where else name
            if name in value:
                check(value[name], at)
            elif name in members:
                raise ValueError(f"{at} is missing")

    return of_all


def by_name(check: Check) -> Check:
    def of_all(value: Any, where: str) -> None:
        OBJECT(value, where)
        for name, member in value.items():
            check(member, f"{where}.{name}")

    return of_all


def of_kind(kinds: Mapping[str, Check], key: str = "kind") -> Check:
    """Returns a check of objects by what they have under a key."""

    def of_all(value: Any, where: str) -> None:
        object_with(None, **{key: one_of(kinds)})(value, where)
        kinds[value[key]](value, where)

    return of_all
