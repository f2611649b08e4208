"""Finds what is wrong with a run before anything is started or written: files, columns, model, memory."""

import os
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.loader import Loader
from data_pipeline.parquet import Source
from data_pipeline.schema import Identity, Schema
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
            folder=data.schema_folder,
            global_batch_size=data.global_batch_size,
            lanes=data.lanes if training else None,
            window=data.window,
            memory=data.memory,
            order=data.order if training else "file",
        )
    choose_backend(config.launch)
    if config.init_from and not RunFolder(Path(config.run)).steps():  # a resumed run has taken it over already
        earlier = RunFolder.open(config.init_from)
        earlier.choose_step()
        _check_same_rows(earlier.schema(), schema)
    model = build_model(config, schema)
    if metric := config.trainer.selection_metric:
        if data.split("validation") is None:
            raise UserError(
                f"trainer: {metric!r} decides what is best, but there are no validation rows; name data.validation"
            )
        model.task.metrics().larger_is_better(metric)
    if not (config.launch.address or os.environ.get("RAY_ADDRESS")):
        plan_run(config, model)  # on a cluster the workers do this, with their own memory


def inspect_split(schema: Schema, paths: Paths, folder: Path, keys: tuple[str, ...] = ()) -> None:
    """Raises UserError where files cannot be read under a schema, or lack a column of `keys`."""
    Loader(Source.open(paths), schema, folder=folder, global_batch_size=1, order="file", extra_columns=keys)


def _check_same_rows(earlier: Schema, now: Schema) -> None:
    """Raises UserError for a feature whose ids would mean other rows than in the run that tables are taken from.

    Identities may have more ids than before; hashes and crosses must be as they were, and a row of missing values, the
    last one, keeps a table from growing.
    """
    before = {f.name: f for f in earlier.sparse}
    for feature in now.sparse:
        known = before.get(feature.name)
        if known is None or known.ids == feature.ids:
            continue
        grown = isinstance(known.ids, Identity) and isinstance(feature.ids, Identity)
        if not grown or known.missing == "row" or known.ids.num_rows > feature.ids.num_rows:
            raise UserError(
                f"init_from: the ids of feature {feature.name!r} would mean other rows than before ({known.ids}, now "
                f"{feature.ids}); only `identity` ids without a row for missing values may grow"
            )
