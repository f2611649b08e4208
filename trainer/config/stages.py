"""`stages:` of a run file are runs in turn, each of which may start from the tables and towers of earlier ones.

A stage is a partial run file with a `name`. Its whole configuration is the file's own sections with the stage's laid
over them, its run folder RUN/NAME; what comes out are ordinary run configurations.
"""

import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError, in_quotes
from shardrec.trainer.config.load import parse
from shardrec.trainer.config.overrides import OF_THE_WHOLE, laid_over
from shardrec.trainer.config.paths import located
from shardrec.trainer.config.sections import RunConfig


def resolve_stages(config: RunConfig) -> dict[str, RunConfig]:
    """Returns stage name -> its whole configuration, in order; {} where a run has no stages.

    Sources that name a stage come out naming its run folder. Raises UserError for a stage without a name or of a taken
    one, for keys that a stage cannot have, and for a source that is no earlier stage.
    """
    common = config.model_dump(exclude_unset=True, by_alias=True)
    common = {key: value for key, value in common.items() if key not in ("stages", "variants")}
    if config.stages and config.init_from:
        raise UserError("init_from: in a run of stages it belongs into the stage that starts from it")
    resolved_stages: dict[str, RunConfig] = {}
    for stage in config.stages:
        name = _checked_name(stage, resolved_stages)
        own = {key: value for key, value in stage.items() if key != "name"}
        if isinstance(own.get("model"), str):
            own["model"] = {"name": own["model"]}
        declared = laid_over(common, own) | {"run": f"{config.run}/{name}"}
        resolved = parse(declared, f"stage {in_quotes(name)}")
        resolved_stages[name] = located(_with_folders(resolved, name, resolved_stages))
    return resolved_stages


def stage_names(declared: Mapping[str, Any], where: str) -> list[str]:
    """Returns the names of the stages of an unchecked run file. Raises UserError for what no stage is called."""
    stages = declared.get("stages")
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, Mapping) for stage in stages):
        raise UserError(f"{where}: stages: expected a list of partial run files, each with a `name`")
    names: list[str] = []
    for stage in stages:
        names.append(_checked_name(stage, names))
    return names


def planned_folders(stages: Mapping[str, RunConfig]) -> dict[str, RunConfig]:
    """Returns run folder -> the configuration of the stage that will make it."""
    return {stage.run: stage for stage in stages.values()}


def by_stage_names(config: RunConfig) -> RunConfig:
    """Returns a stage's configuration with the earlier stages that it starts from by name, wherever their folder is."""
    whole = Path(config.run).parent
    sources = (
        source.model_copy(update={"run": None, "stage": Path(source.run).name})
        if source.run and Path(source.run).parent == whole
        else source
        for source in config.init_from
    )
    return config.model_copy(update={"init_from": tuple(sources)})


def _checked_name(stage: Mapping[str, Any], earlier: Container[str]) -> str:
    name = stage.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]{0,99}", name):
        expected = "each needs a `name` that a folder can have (up to 100 letters, digits, _ - .)"
        raise UserError(f"stages: {expected}, found {in_quotes(name)}")
    if name in earlier:
        raise UserError(f"stages: {in_quotes(name)} is there twice")
    for key in OF_THE_WHOLE:
        if key in stage:
            raise UserError(f"stages: {in_quotes(name)} has a key {key!r}, which belongs to the whole run file")
    return name


def _with_folders(config: RunConfig, name: str, earlier: Mapping[str, RunConfig]) -> RunConfig:
    """Returns the configuration with run folders for the stages that it starts from."""
    sources = []
    for source in config.init_from:
        if source.stage is not None:
            if source.stage not in earlier:
                near = unknown("earlier stage", source.stage, list(earlier)) if earlier else "it is the first one"
                raise UserError(f"init_from: stage {in_quotes(name)} starts from {in_quotes(source.stage)}: {near}")
            source = source.model_copy(update={"run": earlier[source.stage].run, "stage": None})
        sources.append(source)
    return config.model_copy(update={"init_from": tuple(sources)})
