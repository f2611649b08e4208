"""A door is a function that callers from Python enter by: what they pass is checked, and errors name it as they do."""

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from shardrec.data_pipeline.errors import UserError, in_quotes

P = ParamSpec("P")
R = TypeVar("R")

_OPTION = re.compile(r"`[^`]*`|(?<![\w/-])--([a-z][a-z-]*)(?: ([a-z]\w*))?")
_ALSO_CALLED = {
    "set": "overrides",
    "index-set": "settings",
    "similar": "ids",
    "uncalibrated": "calibrated",
}
"""Options that are other arguments in Python."""
_NOUNS = {bool: "True or False", int: "a whole number", float: "a number", NoneType: "None"}


def door(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a door of a function, by the types that it declares.

    Raises UserError for an argument that is none of the choices it declares, no number where it is to be one, or empty
    text, which as a path would be the current folder. Errors that speak of the command's options name arguments.
    """

    @functools.wraps(function)
    def entered(*args: P.args, **kwargs: P.kwargs) -> R:
        declared, signature = _declared(function)
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            given = {}  # the call says what is wrong with it, as Python does
        for name, value in given.items():
            _check(name, value, declared.get(name, Any))
        try:
            return function(*args, **kwargs)
        except UserError as error:
            error.args = (in_arguments(str(error), declared), *error.args[1:])
            raise

    return entered


@functools.cache
def _declared(function: Callable[..., Any]) -> tuple[dict[str, Any], inspect.Signature]:
    """Returns the types of a function's parameters by name, and those of the fields of a dataclass that it takes."""
    signature, hints = inspect.signature(function), get_type_hints(function)
    declared = {name: hints.get(name, Any) for name in signature.parameters if name != "self"}
    for described in [part for hint in declared.values() for part in _parts(hint) if is_dataclass(part)]:
        declared |= {field.name: Any for field in fields(described) if field.name not in declared}
    return declared, signature


def _parts(hint: Any) -> Iterator[Any]:
    if get_origin(hint) in (Union, UnionType):
        for part in get_args(hint):
            yield from _parts(part)
    else:
        yield hint


def _choices(hint: Any) -> list[Any]:
    return [choice for part in _parts(hint) if get_origin(part) is Literal for choice in get_args(part)]


def _check(name: str, value: Any, hint: Any) -> None:
    parts = list(_parts(hint))
    of_any_items = any(object in get_args(part) for part in parts)  # ids, which may be empty text
    if value == "" if isinstance(value, str) else isinstance(value, list | tuple) and not of_any_items and "" in value:
        raise UserError(f"{name}: found nothing in it, expected a value; give one, or leave it out")
    kinds = [part for part in parts if get_origin(part) is not Literal]
    if not all(kind in _NOUNS or is_dataclass(kind) for kind in kinds):
        return
    choices = _choices(hint)
    if not (any(_is(value, kind) for kind in kinds) or (isinstance(value, str) and value in choices)):
        expected = [*map(repr, choices), *(_NOUNS.get(kind, f"a shardrec.{kind.__name__}") for kind in kinds)]
        raise UserError(f"{name}: found {in_quotes(value)}, expected {' or '.join(expected)}")
    if is_dataclass(value):
        for field, of_field in get_type_hints(type(value)).items():
            _check(field, getattr(value, field), of_field)


def _is(value: Any, kind: type) -> bool:
    if kind is bool or type(value).__name__ in ("bool", "bool_"):  # NumPy's too
        return kind is bool and type(value).__name__ in ("bool", "bool_")
    return isinstance(value, Integral if kind is int else Real if kind is float else kind)


def at_least(least: int, **given: float | None) -> None:
    """Raises UserError for the first of some arguments that is there and below `least`, or no number."""
    for name, value in given.items():
        if value is not None and not value >= least:
            raise UserError(f"{name}: found {value}, expected {least} or more")


def in_arguments(line: str, declared: Mapping[str, Any]) -> str:
    """Returns an error line with the names of arguments in place of options; commands in backticks stay as they are."""

    def argument(found: re.Match[str]) -> str:
        option, word = found[1], found[2]
        name = _ALSO_CALLED.get(option, option and option.replace("-", "_"))
        if name not in declared:
            return found[0]
        behind = f" {word}" if word else ""
        if word in _choices(declared[name]):
            return f'{name}="{word}"'
        if bool in _parts(declared[name]):
            return f"{name}={option != 'uncalibrated'}{behind}"
        return f"{name}{behind}"

    return _OPTION.sub(argument, line)
