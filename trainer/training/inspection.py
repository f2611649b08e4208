"""Inspection finds what is wrong with a run before anything is started or written: files, columns, model, memory."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.same_rows import check_same_rows
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.reading.labels import labels_in
from shardrec.data_pipeline.sampling.negatives import check_negatives
from shardrec.models.base import Recommender
from shardrec.models.table_reads import features_of
from shardrec.trainer.catalogue.evaluation import check_catalogue, larger_is_better
from shardrec.trainer.config.init_from import Transfer, resolve_copies
from shardrec.trainer.config.launch import LaunchConfig
from shardrec.trainer.config.sections import SPLITS, Paths, RunConfig
from shardrec.trainer.launch.backends import choose_backend
from shardrec.trainer.launch.cores import cluster_address
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.worker import hush_tracing
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.session.bad_rows import check_few
from shardrec.trainer.session.blueprint import Blueprint, build_model
from shardrec.trainer.session.expected_workers import expected_environment
from shardrec.trainer.session.parameter_optimizers import optimizers_of
from shardrec.trainer.tracking.extras import check_trackers
from shardrec.trainer.training.warm_start import check_id_maps, check_whole, model_contents, whole_contents

LOOKED_THROUGH = 128 << 20
"""Bytes of decoded rows, over all splits, that are looked through before a run starts: half a second of a core."""

ALONE = Environment(0, 1, 0, 1, torch.device("cpu"))
NAMED_LABELS = 5  # that an error line names


def inspect_run(config: RunConfig, planned: Mapping[str, RunConfig] | None = None) -> Blueprint:
    """Raises UserError for the first problem of a run file, its data, its model or its plan; returns what it made.

    What is inspected is what runs: training takes over the blueprint, or makes the same one. planned: run folder ->
    configuration of runs that are to be made before this one, which may start from them.
    """
    if config.stages:
        names = ", ".join(str(stage.get("name")) for stage in config.stages)
        raise UserError(f"one run is expected here, the run file has stages ({names}); name a run file without")
    check_trackers(config)
    blueprint = Blueprint(config)
    model, data = blueprint.model, config.data
    _check_told_apart(blueprint)
    without_labels = _inspect_splits(blueprint)
    if data.negatives:
        check_negatives(data.negatives, blueprint.schema, model.features, data.schema_folder)
    check_catalogue(blueprint)
    if config.init_from and not RunFolder(config.run_folder).steps():  # a resumed run has taken it over already
        _inspect_sources(config, blueprint.schema, model, planned or {})
    optimizers_of((name for name, _ in model.named_parameters()), config.optimizer.tower)
    if metric := config.trainer.selection_metric:
        if data.split("validation") is None:
            raise UserError(
                f"trainer: {metric!r} decides what is best, but there are no validation rows; name data.validation"
            )
        if line := without_labels.get("validation"):
            raise UserError(
                f"trainer: {metric!r} decides what is best, but the validation rows have no labels: {line}; name "
                "others as data.validation"
            )
        larger_is_better(model, config, metric)
    if not _workers_plan(config.launch):
        blueprint.plan()
    _look_through(blueprint, [name for name in SPLITS if name not in without_labels])
    return blueprint


def _check_told_apart(blueprint: Blueprint) -> None:
    """Raises UserError where a task that tells items apart has none to do it by, and where another task has them."""
    negatives, retrieves = blueprint.config.data.negatives, blueprint.model.retrieves
    if retrieves and negatives is None:
        raise UserError(
            "model: task: retrieval has nothing to tell rows' items from; set data.negatives, say {shared: 1000} or "
            "{in_batch: true}"
        )
    if negatives is not None and negatives.of_the_batch and not retrieves:
        raise UserError(
            "data.negatives: shared and in_batch are for task: retrieval; set it in `model`, or take per_positive"
        )


def _inspect_splits(blueprint: Blueprint) -> dict[str, str]:
    """Looks at each split's columns.

    Returns the splits that are left out of scoring, since their rows have no labels, and a line that says why. Raises
    UserError for files and columns that cannot be read, and for class weights of labels that never occur.
    """
    left_out: dict[str, str] = {}
    data = blueprint.config.data
    for name in SPLITS:
        if (paths := data.split(name)) is None:
            continue
        if name != "train" and (line := blueprint.missing_labels(paths)):
            left_out[name] = line
            continue
        blueprint.loader(paths, training=name == "train")
        if name == "train" and data.class_weights:
            _check_class_weights(blueprint, paths, data.class_weights)
    return left_out


def _look_through(blueprint: Blueprint, splits: Iterable[str]) -> None:
    """Reads the rows of splits as an evaluation would, of those that fit what is left of the budget.

    Raises UserError for the first row that cannot be scored, and for rows that cannot be read, or too many of them.
    """
    hush_tracing()
    budget: float = LOOKED_THROUGH
    for name in splits:
        if (paths := blueprint.config.data.split(name)) is None:
            continue
        loader, live = blueprint.loader(paths, ALONE, skips_bad=True), 0
        budget -= (size := loader.num_rows * loader.row_bytes)
        if budget < 0:
            budget += size
            continue
        for batch in loader.epoch(0):
            blueprint.model.task.check(batch)
            live += int(batch.live.sum())
        check_few(loader.num_rows - live, loader, ALONE, blueprint.config.data.max_bad_fraction)


def _check_class_weights(blueprint: Blueprint, paths: Paths, weights: Mapping[float, float]) -> None:
    """Raises UserError for weights of labels that no training row has."""
    labels = blueprint.read.labels
    found = labels_in(blueprint.data_set(paths), labels[0], weights) if labels else None
    if found is None:
        return
    if missing := [label for label in weights if float(np.float32(label)) not in found]:
        there = ", ".join(f"{label:g}" for label in sorted(found)[:NAMED_LABELS])
        raise UserError(
            f"data.class_weights: no training row has label {missing[0]:g} (found "
            f"{there}{', ...' if len(found) > NAMED_LABELS else ''}); name labels that there are"
        )


def _workers_plan(launch: LaunchConfig) -> bool:
    """Says whether workers alone make the plan, with memory that only they see: a cluster's, and Ray's GPUs.

    A launcher that asked a GPU for its memory would take some of it.
    """
    if cluster_address(launch):
        return True
    return choose_backend(launch) == "ray" and expected_environment(launch).device.type == "cuda"


def inspect_split(blueprint: Blueprint, paths: Paths, keys: tuple[str, ...] = (), *, labelled: bool = True) -> None:
    """Raises UserError where a finished run cannot score files, or they lack a column of `keys`."""
    blueprint.loader(paths, labelled=labelled, keys=keys)


def _inspect_sources(config: RunConfig, schema: Schema, model: Recommender, planned: Mapping[str, RunConfig]) -> None:
    """Raises UserError for what a run cannot start from: names, shapes, and ids that would mean other rows."""
    earlier_runs, wanted, target = [], [], model_contents(model, "this run")
    for source in config.init_from:
        if source.run is None:
            raise UserError(f"init_from: stage {source.stage!r} in a run without stages; name a run folder by `run`")
        earlier = planned.get(source.run)
        if earlier is None:
            folder = RunFolder.open(source.run)
            folder.choose_step()
            earlier, its_schema = folder.config(), folder.schema()
        else:
            its_schema = earlier.load_schema()
        its_model = build_model(earlier, its_schema)
        contents = model_contents(its_model, source.run)
        if source.is_whole:
            there, here = whole_contents(its_model, earlier.optimizer), whole_contents(model, config.optimizer)
            check_whole(source.run, there, here)
            check_id_maps(source.run, its_model, model)
            source = source.model_copy(update={"tables": {"*": Transfer()}, "parameters": {"*": Transfer()}})
            contents, target = (replace(c, dynamic=frozenset()) for c in (contents, target))  # id maps come along
        wanted.append((source, contents))
        earlier_runs.append((its_schema, earlier.data.schema_folder, its_model))
    for (its_schema, its_folder, its_model), copies in zip(earlier_runs, resolve_copies(wanted, target), strict=True):
        for copy in copies.tables:
            readers_there = features_of(its_model.inputs, copy.source)
            for feature in features_of(model.inputs, copy.target):
                known = its_schema[feature if feature in readers_there else readers_there[0]]
                check_same_rows(known, its_folder, schema[feature], config.data.schema_folder)
