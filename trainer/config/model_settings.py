"""A run file's `model` is a class and its settings; checking them needs the model's module, and with it torch."""

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

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
        settings = config_class.model_validate({k: v for k, v in config.model.items() if k != "name"})
    except ValidationError as error:
        raise UserError(f"model {config.model['name']}: {problem_in(error, config_class)}") from None
    return model_class, settings


def check_models(runs: Iterable[RunConfig]) -> None:
    """Raises UserError for the first run whose model is unknown, or has settings that it does not know or take."""
    for run in runs:
        model_settings(run)
