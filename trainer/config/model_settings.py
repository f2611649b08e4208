"""A run file's `model` is a class and its settings; checking them needs the model's module, and with it torch."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from shardrec.data_pipeline.declared.flags import checked
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.import_path import make_importable
from shardrec.trainer.config.load import problem_in
from shardrec.trainer.config.sections import RunConfig


def model_settings(config: RunConfig) -> tuple[Any, Any]:
    """Returns a run's model class, and its settings as that declares them.

    Raises UserError for an unknown model and for settings that it does not know or take.
    """
    from shardrec import models

    make_importable(config)
    model_class = models.resolve(config.model["name"])
    config_class = models.config_class(model_class)
    try:
        settings = checked(config_class, {k: v for k, v in config.model.items() if k != "name"})
    except ValidationError as error:
        raise UserError(f"model {config.model['name']}: {problem_in(error, config_class)}") from None
    return model_class, settings


def model_defaults(name: str) -> dict[str, Any]:
    """Returns what a model of the package takes where a run file is silent; nothing for somebody's own.

    Raises UserError for an unknown name.
    """
    from shardrec import models

    if ":" in name:
        return {}
    fields = models.config_class(models.resolve(name)).model_fields
    values = {key: of.get_default(call_default_factory=True) for key, of in fields.items() if not of.is_required()}
    return {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in values.items()}


def check_models(runs: Iterable[RunConfig]) -> None:
    """Raises UserError for the first run whose model is unknown, or has settings that it does not know or take."""
    for run in runs:
        model_settings(run)
