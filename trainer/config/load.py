"""Reads run files: YAML, with overrides and a variant laid over it, checked before anything starts."""

import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from shardrec.data_pipeline.declared import flags
from shardrec.data_pipeline.declared.declaration import first_problem, nearest, unknown
from shardrec.data_pipeline.declared.documents import read_document
from shardrec.data_pipeline.errors import UserError, in_quotes
from shardrec.trainer.config.overrides import apply_override
from shardrec.trainer.config.paths import located
from shardrec.trainer.config.relocation import lies_in_run_folder, relocated
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.config.trust import check_trusted

C = TypeVar("C", bound=RunConfig)


def load(
    path: str | Path, overrides: Iterable[str] = (), *, variant: str | None = None, vouched: bool = True
) -> RunConfig:
    """Reads a run file; `variant` merges one of its variants over it, whose run folder is then RUN/VARIANT.

    vouched: the user named the file, and so vouches for it, unless it lies in a run folder.

    Raises UserError for a missing file, broken YAML, an unknown key, variant or model, or a wrong value, and for a run
    folder's own file that would run code that nobody vouched for (`trust.py`).
    """
    return load_as(RunConfig, path, overrides, variant=variant, vouched=vouched)


def load_as(
    kind: type[C],
    path: str | Path,
    overrides: Iterable[str] = (),
    *,
    variant: str | None = None,
    vouched: bool = True,
) -> C:
    """Reads a run file of a kind, which has sections of its own beside those of all, as `load` does."""
    declared, home = read(path), Path(path).resolve().parent
    if not vouched or lies_in_run_folder(declared, Path(path)):
        check_trusted(declared, Path(path).parent, trains=vouched)
    return _checked(kind, declared, str(path), home, overrides, variant)


def checked(
    declared: dict[str, Any], where: str, home: Path, overrides: Iterable[str] = (), *, variant: str | None = None
) -> RunConfig:
    """Makes a configuration of a run file's content, as `load` does.

    where: what error lines call it. home: the folder that models of one's own are imported from, where it names none.
    """
    return _checked(RunConfig, declared, where, home, overrides, variant)


def _checked(
    kind: type[C], declared: dict[str, Any], where: str, home: Path, overrides: Iterable[str], variant: str | None
) -> C:
    declared.setdefault("import_from", str(home))
    if variant is not None:
        from shardrec.trainer.config.variants import varied  # imports every model

        declared = varied(declared, variant, where)
    for override in overrides:
        apply_override(declared, override)
    config = _parsed(kind, declared, where)
    if variant is not None:
        config = config.model_copy(update={"run": f"{config.run.rstrip('/')}/{variant}"})
    return located(config)


def read(path: str | Path) -> dict[str, Any]:
    """Returns a run file's content, unchecked; that of a run folder with `run` where the folder is now.

    Raises UserError for a missing file and broken YAML.
    """
    path = Path(path)
    if own := next((path / n for n in ("config.yaml", "stages.yaml") if (path / n).is_file()), None):
        raise UserError(f"{path}: a folder, where a run file (YAML) is expected; of this run it is {own}")
    declared = read_document(path, "run file", exponents=True)
    if not isinstance(declared, dict):
        raise UserError(f"{path}: a run file is a mapping of sections; see the ready ones in trainer/runs")
    return relocated(declared, path)


def parse(declared: Mapping[str, Any], where: str) -> RunConfig:
    """Checks a run file's content. Raises UserError naming `where`, the key, and the nearest known key."""
    return _parsed(RunConfig, declared, where)


def _parsed(kind: type[C], declared: Mapping[str, Any], where: str) -> C:
    try:
        return flags.checked(kind, declared)
    except ValidationError as error:
        raise UserError(f"{where}: {problem_in(error, kind)}") from None


def problem_in(error: ValidationError, root: type[BaseModel]) -> str:
    """Returns one line about the first problem in a section; an unknown key is shown with the nearest known one."""
    problem = next((p for p in error.errors() if p["type"] == "extra_forbidden"), None)
    if problem is None:
        return first_problem(error)
    *parents, key = (str(part) for part in problem["loc"])
    section = ".".join(parents)
    known = _known_keys(root, parents)
    home = None if key in known or nearest(key, known) else _home_of(root, key)
    where = f"in {section}: " if section else ""
    if home:
        return f"{where}unknown key {in_quotes(key)}; did you mean {home}.{key}?"
    return where + unknown("key", key, known)


def _home_of(root: type[BaseModel], key: str, inside: str = "") -> str | None:
    """Returns the section that has a key, by its path; None where no section or several of one level have it."""
    sections = {name: _section_of(field.annotation) for name, field in root.model_fields.items()}
    sections = {n: s for n, s in sections.items() if isinstance(s, type) and issubclass(s, BaseModel)}
    having = [name for name, section in sections.items() if key in _known_keys(section, ())]
    if having:
        return f"{inside}{having[0]}" if len(having) == 1 else None
    deeper = [home for name, section in sections.items() if (home := _home_of(section, key, f"{inside}{name}."))]
    return deeper[0] if len(deeper) == 1 else None


def _known_keys(model: type[BaseModel], path: Iterable[str]) -> list[str]:
    """Returns the keys that the section at `path` knows."""
    at: Any = model
    for part in path:
        at = _inner(at, part)
    if not (isinstance(at, type) and issubclass(at, BaseModel)):
        return []
    return [field.alias or name for name, field in at.model_fields.items()]


def _inner(annotation: Any, part: str) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        annotations = [f.annotation for name, f in annotation.model_fields.items() if part in (name, f.alias)]
        return _section_of(annotations[0]) if annotations else None
    if get_origin(annotation) in (dict, tuple):
        return _section_of(get_args(annotation)[get_origin(annotation) is dict])
    return None


def _section_of(annotation: Any) -> Any:
    """Returns the section inside `Section | None`."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next((a for a in get_args(annotation) if a is not type(None)), None)
    return annotation
