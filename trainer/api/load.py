"""Run files, and dictionaries of the same form, are read as checked configurations."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.load import checked, read
from shardrec.trainer.config.sections import RunConfig


def load(
    run_file: str | Path | Mapping[str, Any], overrides: Iterable[str] = (), *, variant: str | None = None
) -> RunConfig:
    """Reads a run file, or takes a dictionary of the same form.

    overrides: `a.b=c`, as `--set` takes them. variant: one of the file's variants, merged over it; its run folder is
    then RUN/VARIANT. Paths are relative to the working directory. In a dictionary `model` may be a class of your own,
    alone or as the `name` beside its settings.

    Raises UserError for a missing file, broken YAML, an unknown key, variant or model, or a wrong value.

        config = shardrec.load("run.yaml", ["trainer.epochs=3"])
        config = shardrec.load({"run": "runs/mine", "data": {"path": "data"}, "model": MyModel})
    """
    if isinstance(run_file, Mapping):
        declared, where, home = _named(run_file), "run file", Path(os.getcwd())
    else:
        declared, where, home = read(run_file), str(run_file), Path(run_file).resolve().parent
    return checked(declared, where, home, overrides, variant=variant)


def _named(declared: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which a model's class is replaced by the name that it is imported by."""
    model = declared.get("model")
    if isinstance(model, type):
        return {**declared, "model": _import_path(model)}
    if isinstance(model, Mapping) and isinstance(model.get("name"), type):
        return {**declared, "model": {**model, "name": _import_path(model["name"])}}
    return dict(declared)


def _import_path(model: type) -> str:
    if model.__qualname__ != model.__name__:
        raise UserError(
            f"model: class {model.__qualname__} is defined inside of something else, where nothing can import it; "
            "define it at the top of a module or a notebook"
        )
    return f"{model.__module__}:{model.__name__}"
