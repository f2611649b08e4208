"""A plan of a search is its run file, its space and its metric, all of it checked before anything is trained."""

import copy
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.stores.mirrors import local
from shardrec.trainer.config.load import checked, read
from shardrec.trainer.config.model_settings import check_models
from shardrec.trainer.config.relocation import lies_in_run_folder
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.config.trust import check_trusted
from shardrec.trainer.config.tuning import TuneConfig, applies, listed_values
from shardrec.trainer.launch.backends import check_launches_workers
from shardrec.trainer.tuning.space import Values, extremes, first_values, grid

VARIANT = "variant"
"""The key of a space that names variants of the run file, or models, instead of a key of it."""

NOT_SEARCHED = ("run", "tune", "variants", "stages", "import_from", "trainer.best_metric", "trainer.tracking")
NOT_SEARCHED_DATA = ("path", "schema", "validation", "test")


@dataclass(frozen=True)
class RunFile:
    """A run file is a document with what is laid over it: a variant, and `--set`'s overrides."""

    document: Mapping[str, Any]
    where: str
    home: Path
    overrides: tuple[str, ...] = ()
    variant: str | None = None

    @classmethod
    def read(cls, path: Path, overrides: Iterable[str] = (), variant: str | None = None) -> "RunFile":
        """Reads a run file. Raises UserError as `load` does."""
        document = read(path)
        if lies_in_run_folder(document, path):
            check_trusted(document, path.parent, trains=True)
        return cls(document, str(path), path.resolve().parent, tuple(overrides), variant)

    def config(self, values: Mapping[str, Any] | None = None) -> RunConfig:
        """Returns the configuration with values of a trial laid over all else. Raises UserError as `load` does."""
        values = dict(values or {})
        variant = values.pop(VARIANT, self.variant)
        overrides = (*self.overrides, *(f"{_quoted(key)}={json.dumps(value)}" for key, value in values.items()))
        return checked(copy.deepcopy(dict(self.document)), self.where, self.home, overrides, variant=variant)


@dataclass(frozen=True)
class Plan:
    """A plan says what is searched for. metric: of the validation rows; out: the folder of the search."""

    file: RunFile
    tune: TuneConfig
    metric: str
    larger_is_better: bool
    out: Path

    @property
    def models(self) -> list[str]:
        """Returns the models that trials may be of."""
        searched = self.tune.space.get("model.name")
        names = list(searched.choices or ()) if searched else []
        return [*names, str(self.file.config(first_values(self.tune.space)).model.get("name"))]

    def config(self, values: Mapping[str, Any], name: str) -> RunConfig:
        """Returns the configuration of a trial, whose run folder is called `name`."""
        return self.named(self.file.config(values), name)

    def named(self, config: RunConfig, name: str) -> RunConfig:
        """Returns a configuration with its run folder in the search's, selecting by the search's metric."""
        trainer = config.trainer
        if trainer.selection_metric is None:
            trainer = trainer.model_copy(update={"best_metric": self.metric})
        return config.model_copy(update={"run": str(self.out / name), "trainer": trainer})


def planned(file: RunFile, out: Path | None, trials: int | None = None) -> Plan:
    """Checks a search. Raises UserError for the first thing that is wrong with its run file, its space or its data.

    out: default: beside the run file's `run`, as RUN-tune. trials: instead of the run file's.
    """
    base = file.config()
    if base.tune is None or not base.tune.space:
        raise UserError(
            f"{file.where}: has no `tune.space` to search; give it keys and what they may be, such as "
            "optimizer.tower.learning_rate: {log: [1e-4, 1e-2]}"
        )
    tune = base.tune if trials is None else base.tune.model_copy(update={"trials": trials})
    config = _check_space(file, tune)
    if config.stages:
        raise UserError(f"{file.where}: has stages, which are not searched through; name a run file of one run")
    check_launches_workers(config.launch, "tune")
    wanted = config.trainer.selection_metric
    if tune.metric and wanted and tune.metric != wanted:
        raise UserError(
            f"{file.where}: found tune.metric {tune.metric!r} beside {wanted!r}, which decides what is best of a run; "
            "leave one of them out"
        )
    out = local(f"{base.run.rstrip('/')}-tune") if out is None else Path(os.path.abspath(out.expanduser()))
    metric, larger_is_better = _metric(config, tune.metric or wanted, out)
    return Plan(file, tune, metric, larger_is_better, out)


def _check_space(file: RunFile, tune: TuneConfig) -> RunConfig:
    """Checks each value of each key, the others being at their first; returns the configuration of all first values."""
    for key in tune.space:
        parts = key.split(".")
        of_data = parts[0] == "data" and parts[1:2] and parts[1] in NOT_SEARCHED_DATA
        if of_data or any(f"{key}.".startswith(f"{name}.") for name in NOT_SEARCHED):
            raise UserError(f"{file.where}: tune.space: {key} is the same in all trials, and is not searched for")
    _check_said_once(file, tune)
    if VARIANT in tune.space and file.variant is not None:
        raise UserError(f"{file.where}: tune.space searches through variants; leave --variant out")
    if tune.sampler == "grid":
        grid(tune.space)
    first = first_values(tune.space)
    configs = [file.config(first)]
    for key, parameter in tune.space.items():
        condition = {name: listed_values(wanted)[0] for name, wanted in parameter.when.items()}
        for value in extremes(parameter):
            values = _consistent({**first, **condition, key: value}, tune)
            configs.append(file.config(values))
    check_models(configs)
    return configs[0]


def _check_said_once(file: RunFile, tune: TuneConfig) -> None:
    """Raises UserError where a trial's value of one key would replace what is searched for, or set, by another."""
    for override in file.overrides:
        name = override.partition("=")[0].strip()
        if searched := next((key for key in tune.space if f"{name}.".startswith(f"{key}.")), None):
            raise UserError(f"--set {name}: tune.space searches for {searched}; leave one of them out")
    for key, parameter in tune.space.items():
        inner = next((other for other in tune.space if other.startswith(f"{key}.")), None)
        if inner is not None and not parameter.when and not tune.space[inner].when:
            raise UserError(f"{file.where}: tune.space: {inner} is a part of {key}; leave one of them out")


def _consistent(values: Values, tune: TuneConfig) -> Values:
    """Returns values without those of keys whose conditions do not hold."""
    kept: Values = {}
    for key, parameter in tune.space.items():
        if key in values and applies(parameter, kept):
            kept[key] = values[key]
    return kept


def _metric(config: RunConfig, wanted: str | None, out: Path) -> tuple[str, bool]:
    """Inspects a trial; returns the metric that judges, and whether larger is better."""
    from shardrec.trainer.catalogue.evaluation import directions, larger_is_better
    from shardrec.trainer.training.inspection import inspect_run

    trainer = config.trainer
    if wanted is not None and trainer.selection_metric is None:
        trainer = trainer.model_copy(update={"best_metric": wanted})
    config = config.model_copy(update={"trainer": trainer, "run": str(out / "trial")})
    if config.data.split("validation") is None:
        raise UserError("tune: trials are judged by validation rows, of which there are none; name data.validation")
    model = inspect_run(config).model
    name = wanted or next(iter(directions(model.task, config)))
    return name, larger_is_better(model, config, name)


def _quoted(key: str) -> str:
    """Returns a key as an override takes it: one with a `=` in a part cannot be told from its value otherwise."""
    if "=" in key:
        raise UserError(f"tune.space: {key}: no key of a run file holds a `=`")
    return key
