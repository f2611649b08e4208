"""Run files, and dictionaries of the same form, are read as checked configurations."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.api.door import door
from shardrec.trainer.config.load import checked
from shardrec.trainer.config.load import load as load_file
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.config.stages import resolve_stages
from shardrec.trainer.config.trust import trust_folders


@door
def load(
    run_file: str | Path | Mapping[str, Any],
    overrides: Iterable[str] = (),
    *,
    variant: str | None = None,
    trust: bool = False,
) -> RunConfig:
    """Reads a run file, or takes a dictionary of the same form.

    overrides: `a.b=c`, as `--set` takes them. variant: one of the file's variants, merged over it; its run folder is
    then RUN/VARIANT. Paths are relative to the working directory. In a dictionary `model` may be a class of your own,
    alone or as the `name` beside its settings. trust: a run folder that the file lies in or starts from may name code
    that is imported; without it only one that this user trained on this machine may.

    Raises UserError for a missing file, broken YAML, an unknown key, variant or model, or a wrong value, and for a run
    folder's own file that would run code that nobody vouched for.

        config = shardrec.load("run.yaml", ["trainer.epochs=3"])
        config = shardrec.load({"run": "runs/mine", "data": {"path": "data"}, "model": MyModel})
    """
    if isinstance(run_file, Mapping):
        config = checked(named_model(run_file), "run file", Path(os.getcwd()), overrides, variant=variant)
    else:
        if trust:
            trust_folders(Path(run_file).parent)
        config = load_file(run_file, overrides, variant=variant)
    if trust:
        trust_folders(*(source.run for run in (config, *resolve_stages(config).values()) for source in run.init_from))
    return config


def named_model(declared: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a run file's content, with the name by which it is imported in place of a model's class."""
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
