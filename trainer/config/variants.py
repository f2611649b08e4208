"""Variants let one run file hold several models, each as a partial run file merged over the rest.

All of this works on the document as it was read, before it is checked: a variant gives only what it changes.
"""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from shardrec import models
from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError, in_quotes
from shardrec.trainer.config.import_path import append_to_path
from shardrec.trainer.config.overrides import laid_over
from shardrec.trainer.config.trust import is_foreign


def varied(declared: Mapping[str, Any], variant: str, where: str) -> dict[str, Any]:
    """Returns the run file with one of its variants merged over it, and without `variants`.

    A name of `MODELS` that is no variant stands for that model with the settings of the file's own that it knows.
    Raises UserError naming `where` for an unknown name and for variants that are not mappings.
    """
    variants = declared.get("variants") or {}
    if not isinstance(variants, Mapping):
        raise UserError(f"{where}: variants: expected a mapping of names to partial run files")
    if not re.fullmatch(r"\w[\w.-]{0,99}", variant):
        raise UserError(
            f"variant {in_quotes(variant)}: expected a name that a folder can have (up to 100 letters, digits, _ - .)"
        )
    if variant not in variants and variant not in models.MODELS:
        known = [*map(str, variants), *(name for name in models.MODELS if name not in variants)]
        raise UserError(f"{where}: " + unknown("variant or model", variant, known))
    over = variants.get(variant, {"model": variant})
    if not isinstance(over, Mapping):
        raise UserError(
            f"{where}: variants.{variant}: expected a partial run file (a mapping), found {in_quotes(over)}"
        )
    base = {key: value for key, value in declared.items() if key != "variants"}
    if "model" in base and "model" in over:
        over = {**over, "model": _merged_model(base.pop("model"), over["model"], base.get("import_from"))}
    return laid_over(base, over)


def _merged_model(base: Any, over: Any, import_from: str | None) -> Any:
    """Lays a model section over the file's own, of which another model takes what it knows and leaves the rest."""
    base, over = ({"name": given} if isinstance(given, str) else given for given in (base, over))
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return over
    name = over.get("name", base.get("name"))
    if isinstance(name, str) and name != base.get("name"):
        if is_foreign(name):
            append_to_path(import_from)
        settings = models.config_class(models.resolve(name))
        base = {"name": name, **_known_part(base, settings)}
    return laid_over(base, over)


def _known_part(given: Mapping[str, Any], settings: type[BaseModel]) -> dict[str, Any]:
    """Returns the keys of `given` that `settings` has, in its sections too."""
    kept = {}
    for key, value in given.items():
        if key not in settings.model_fields:
            continue
        section = settings.model_fields[key].annotation
        inner = isinstance(section, type) and issubclass(section, BaseModel) and isinstance(value, Mapping)
        kept[key] = _known_part(value, section) if inner else value  # type: ignore[arg-type]
    return kept
