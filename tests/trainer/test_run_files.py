"""The ready run files: each parses, its models have the settings it names, and its stages fit one another."""

from pathlib import Path

import pytest
import yaml

import models
from data_pipeline.schema import Identity, IdFeature, Label, Schema
from trainer.config import RunConfig, load
from trainer.packages import HOME
from trainer.session import build_model
from trainer.stages import resolve_stages
from trainer.transfers import resolve
from trainer.warm_start import model_contents

FILES = sorted((HOME / "trainer/runs").glob("*.yaml"))
SCHEMA = Schema(
    features=tuple(
        IdFeature(name=name, role=name if name in ("user", "item") else "context", ids=Identity(num_ids=7))
        for name in ("user", "item", "weather")
    ),
    labels=(Label(),),
    group="user",
)


def configurations(file: Path) -> list[RunConfig]:
    """The runs that a file stands for: itself and its variants, or their stages."""
    variants = yaml.safe_load(file.read_text()).get("variants") or ()
    configs = [load(file), *(load(file, variant=name) for name in variants)]
    return [run for config in configs for run in (resolve_stages(config).values() or [config])]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_models_have_the_settings_that_run_files_name(file: Path) -> None:
    for config in configurations(file):
        settings = {key: value for key, value in config.model.items() if key != "name"}
        models.config_class(models.resolve(config.model["name"])).model_validate(settings)


STAGED = [file for file in FILES if yaml.safe_load(file.read_text()).get("stages")]


@pytest.mark.parametrize("file", STAGED, ids=lambda file: file.name)
def test_stages_start_from_what_earlier_ones_have(file: Path) -> None:
    """Names and shapes agree, and every table of the last stage starts from a trained one."""
    runs = {config.run: config for config in configurations(file)}
    built = {run: model_contents(build_model(config, SCHEMA), run) for run, config in runs.items()}
    last = list(runs.values())[-1]
    copies = resolve([(source, built[str(source.run)]) for source in last.init_from], built[last.run])
    assert {copy.target for part in copies for copy in part.tables} == set(built[last.run].tables)
