"""Declarations are what users write in YAML: how they are read, and the one line that says what is wrong with them."""

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shardrec.data_pipeline.declared.documents import read_document
from shardrec.data_pipeline.declared.flags import checked
from shardrec.data_pipeline.errors import UserError, in_quotes, shortened

LONGEST_MISSPELT = 100
"""Characters of a name that is compared with known ones, and shown whole."""

LONGEST_LIST = 1000
"""Characters of known names that a line lists, at most."""

LONGEST_MESSAGE = 400
"""Characters of what a declaration says is wrong with it, at most."""

D = TypeVar("D", bound="Declaration")
V = TypeVar("V")
H = TypeVar("H", bound=Hashable)


class Declaration(BaseModel):
    """A declaration is what users may write in `schema.yaml`: it is immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Name = Annotated[str, Field(min_length=1)]
"""A name is any text but the empty one: what stands for it in files and modules is made so that both can have it."""


def _without_nul(path: str) -> str:
    if "\0" in path:
        raise ValueError("a path cannot hold a NUL character")
    return path


Place = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_without_nul)]
"""A place is a path or URI, as file systems take it."""


def load_yaml(declaration: type[D], path: str | Path, what: str) -> D:
    """Reads `declaration` from the YAML file at `path`, a local path or a URI that `pyarrow.fs` knows.

    Raises UserError as `read_document` does (`what` ends the line: "no such ..."), and for a wrong or undeclared key.
    """
    declared = read_document(path, what)
    try:
        return checked(declaration, declared)
    except ValidationError as error:
        raise UserError(f"{path}: {first_problem(error)}") from None


def plain(declaration: Declaration) -> dict[str, Any]:
    """Returns a declaration as a dictionary for YAML: `kind` and `name` first, without what equals its default.

    `kind` is always there.
    """
    result: dict[str, Any] = {}
    fields = type(declaration).model_fields
    for key in sorted(fields, key=lambda k: (k != "kind", k != "name")):  # stable: the others keep their order
        value = getattr(declaration, key)
        if key != "kind" and value == fields[key].default:
            continue
        if isinstance(value, Declaration):
            value = plain(value)
        elif isinstance(value, tuple):
            value = [plain(v) if isinstance(v, Declaration) else v for v in value]
        result[key] = value
    return result


def unknown(what: str, name: str, known: Sequence[str]) -> str:
    """Returns one line about a misspelt name, with the nearest known one."""
    near = nearest(name, known)
    return f"unknown {what} {in_quotes(name)}; " + (f"did you mean {near!r}?" if near else f"known: {listed(known)}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that is most like a misspelt one; None where none is like it."""
    if len(name) > LONGEST_MISSPELT:
        return None
    alike = (one for one in known if one != name and len(one) <= LONGEST_MISSPELT)
    return next(iter(get_close_matches(name, alike, n=1, cutoff=0.65)), None)


def listed(names: Iterable[str]) -> str:
    """Returns names with commas between, and how many there are beyond those that `LONGEST_LIST` takes; else "none"."""
    shown, room, left_out = [], LONGEST_LIST, 0
    for name in names:
        text = name if len(name) <= LONGEST_MISSPELT and name.isprintable() else in_quotes(name)
        room -= len(text) + 2
        shown += [text] * (room >= 0)
        left_out += room < 0
    return (", ".join(shown) or "none") + (f" and {left_out:,} more" if left_out else "")


def given_twice(names: Iterable[H]) -> H | None:
    """Returns the first of the names, in their order, that is there twice; None where each is there once."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def first_problem(error: ValidationError) -> str:
    """Returns the first thing that pydantic found wrong as one line: where, what was found, what was expected."""
    problems = error.errors()
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    where = ".".join(_part(part) for part in problem["loc"]) or "the top level"
    message, shown = _message(problem)
    return f"{where}: {message}{shown}" + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


_EXPECTED = {
    "model_type": "expected a mapping of keys to values",
    "model_attributes_type": "expected a mapping of keys to values",
    "dict_type": "expected a mapping of names to values",
    "tuple_type": "expected a list",
}
"""What pydantic says in the words of Python, in those of YAML."""


def _message(problem: Mapping[str, Any]) -> tuple[str, str]:
    """Returns what is wrong, and what was found, in words of bounded length."""
    kind, value, message = problem["type"], problem.get("input"), shortened(problem["msg"], LONGEST_MESSAGE)
    if kind == "extra_forbidden":
        return "unknown key", ""
    expected = problem.get("ctx", {}).get("expected_tags" if kind == "union_tag_invalid" else "expected", "")
    if kind == "union_tag_invalid":
        value = problem["ctx"]["tag"]
    if kind in ("union_tag_invalid", "literal_error") and isinstance(value, str):
        near = nearest(value, re.findall("'([^']*)'", expected))
        hint = f"did you mean {near!r}? " if near else ""
        what = "kind" if kind == "union_tag_invalid" else _part(problem["loc"][-1])
        return f"unknown {what} {in_quotes(value)}; {hint}expected {expected}", ""
    message = _EXPECTED.get(kind, message)
    shown = f" (found {in_quotes(value)})" if isinstance(value, str | int | float | bool) or value is None else ""
    if kind == "string_type" and isinstance(value, int | float):
        shown += "; text that looks like a number, or yes and no, needs quotes"
    return message.removeprefix("Value error, "), shown


def _part(part: int | str) -> str:
    """Returns a part of a place in a document as it is, but for one that is long or would break the line."""
    text = str(part)
    return text if len(text) <= LONGEST_MISSPELT and text.isprintable() else in_quotes(text)


def named(what: str, name: str, known: Mapping[str, V], where: str = "") -> V:
    """Returns what has a name. Raises UserError with the nearest known name, after `where`, if nothing has it."""
    if name not in known:
        raise UserError(where + unknown(what, name, list(known)))
    return known[name]
