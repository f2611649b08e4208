"""Finds what is wrong with a run before anything is started or written: files, columns, model, memory."""

import os
from pathlib import Path

from data_pipeline.loader import Loader
from data_pipeline.parquet import Source
from data_pipeline.schema import Schema
from trainer.config import SPLITS, Paths, RunConfig
from trainer.launch import choose_backend
from trainer.run_folder import RunFolder
from trainer.session import build_model, plan_run


def inspect_run(config: RunConfig) -> None:
    """Raises UserError for the first problem of a run file, its data, its model or its plan."""
    schema = config.load_schema()
    data = config.data
    for name in SPLITS:
        paths = data.split(name)
        if paths is None:
            continue
        training = name == "train"
        Loader(
            Source.open(paths),
            schema,
            folder=data.schema_file.parent,
            global_batch_size=data.global_batch_size,
            lanes=data.lanes if training else None,
            order=data.order if training else "file",
        )
    choose_backend(config.launch)
    if config.init_from:
        RunFolder.open(config.init_from).choose_step()
    model = build_model(config, schema)
    if metric := config.trainer.selection_metric:
        model.task.metrics().larger_is_better(metric)
    if not (config.launch.address or os.environ.get("RAY_ADDRESS")):
        plan_run(config, model)  # on a cluster the workers do this, with their own memory


def inspect_split(schema: Schema, paths: Paths, folder: Path, keys: tuple[str, ...] = ()) -> None:
    """Raises UserError where files cannot be read under a schema, or lack a column of `keys`."""
    Loader(Source.open(paths), schema, folder=folder, global_batch_size=1, order="file", extra_columns=keys)
