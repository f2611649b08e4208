"""Declarations are what users write in YAML: how they are read, and the one line that says what is wrong with them."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from shardrec.data_pipeline.errors import UserError, shortened

D = TypeVar("D", bound="Declaration")
V = TypeVar("V")
_SHOWN = 1000  # characters of a list of names, or of a message about a value, that an error line shows
_COMPARED = 250  # characters of the longest name for which a nearest one is looked for


class Declaration(BaseModel):
    """A declaration is what users may write in `schema.yaml`: it is immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def load_yaml(declaration: type[D], path: str | Path, what: str) -> D:
    """Reads `declaration` from the YAML file at `path`, a local path or a URI that `pyarrow.fs` knows.

    Raises UserError for a missing file (`what` ends the line: "no such ..."), broken YAML or a wrong or undeclared key.
    """
    try:
        if "://" in str(path):
            from pyarrow.fs import FileSystem  # slow to import, and most files are local

            system, place = FileSystem.from_uri(str(path))
            with system.open_input_stream(place) as stream:
                text = stream.read().decode()
        else:
            text = Path(path).read_text(encoding="utf-8")
        declared = yaml.safe_load(text)
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # numbers and dates that Python has not, deep nesting
        raise UserError(f"{path}: not valid YAML: {shortened(' '.join(str(error).split()), _SHOWN)}") from None
    try:
        return declaration.model_validate(declared)
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
    near = _nearest(name, known)
    hint = f"did you mean {near!r}?" if near else f"known: {shortened(', '.join(known), _SHOWN)}"
    return f"unknown {what} {shortened(name, _COMPARED)!r}; {hint}"


def first_problem(error: ValidationError) -> str:
    """Returns the first thing that pydantic found wrong as one line: where, what was found, what was expected."""
    problems = error.errors()
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    where = ".".join(str(part) for part in problem["loc"]) or "the top level"
    value = problem.get("input")
    shown = f" (found {shortened(repr(value) if isinstance(value, str) else value)})" if _is_scalar(value) else ""
    message = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "literal_error" and isinstance(value, str):
        near = _nearest(value, re.findall("'([^']*)'", message))
        hint = f"did you mean {near!r}? " if near else ""
        message, shown = f"unknown {problem['loc'][-1]} {shortened(value, _COMPARED)!r}; {hint}{message}", ""
    return f"{shortened(where, _SHOWN)}: {shortened(message, _SHOWN)}{shown}" + (
        f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    )


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float | bool) or value is None


def _nearest(name: str, known: Sequence[str]) -> str | None:
    """Returns the known name that is most like a misspelt one. Very long names, slow to compare, are like none."""
    if len(name) > _COMPARED:
        return None
    near = get_close_matches(name, [k for k in known if len(k) <= _COMPARED], n=1, cutoff=0.5)
    return near[0] if near else None


def named(what: str, name: str, known: Mapping[str, V], where: str = "") -> V:
    """Returns what has a name. Raises UserError with the nearest known name, after `where`, if nothing has it."""
    if name not in known:
        raise UserError(where + unknown(what, name, list(known)))
    return known[name]
