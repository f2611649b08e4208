"""A run's files become batches here: the one place where a run file's `data` turns into a `Loader`.

Inspection makes the same loaders as training does, so that what is too large, too small or missing is found before
anything starts.
"""

from collections.abc import Callable, Mapping, Sequence

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.loading.footprint import BATCH_WIDTH
from shardrec.data_pipeline.loading.loader import Drawn, Loader
from shardrec.data_pipeline.reading.index import DataSet
from shardrec.data_pipeline.sampling.settings import NegativeSampling
from shardrec.data_pipeline.sampling.shared import SharedNegatives
from shardrec.trainer.config.sections import DataConfig, RunConfig
from shardrec.trainer.launch.cores import worker_threads
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.session.pipeline import pipeline

ROWS_AT_ONCE = 8192
"""Rows of a batch that a worker scores, at least: a lookup's and an exchange's fixed costs are small beside so many."""

MEMORY_SHARE = 4
"""Batches larger than those of training may take 1/4 of `data.memory`: decoding is faster where it has the rest."""


def loader_for(
    config: RunConfig,
    schema: Schema,
    data_set: DataSet,
    environment: Environment,
    *,
    training: bool = False,
    labelled: bool = True,
    keys: Sequence[str] = (),
    absent: Sequence[str] = (),
    id_order: Sequence[str] | None = None,
    negatives: Drawn | NegativeSampling | None = None,
    item_of: Mapping[str, str] | None = None,
    skips_bad: bool = False,
) -> Loader:
    """Makes a worker's batches of some files: in the run's order for training, else in file order.

    schema: what is read. keys: columns handed out beside batches. absent: features that are not read outside of
    training; they keep their keys but have no ids, so that lookups and exchanges are as in training, and dense ones
    are 0. id_order: keys of the ids. negatives: what training draws; settings alone are enough to check a run. item_of:
    sequences that training leaves the row's own item out of. Outside of training rows are told from the items that a
    batch shares, where what they are drawn from is given, and batches are as large as the run file says, else as
    `_large` does. skips_bad: rows that cannot be read are left out, where the run file allows it, as in training.

    Raises UserError as `Loader` does.
    """
    data = config.data
    at_once = pipeline(config, environment).ahead if training else batches_at_once(config, environment)
    told_apart = isinstance(negatives, SharedNegatives)

    def loader(batch_size: int) -> Loader:
        return Loader(
            data_set,
            schema if labelled else schema.unlabelled(),
            folder=data.schema_folder,
            global_batch_size=batch_size,
            seed=config.trainer.seed,
            lanes=data.lanes if training else None,
            window=data.window,
            memory=data.memory,
            order=data.order if training else "file",
            rank=environment.rank,
            world_size=environment.world_size,
            prefetch=max(min(1, data.prefetch), data.prefetch - at_once),
            in_use=1 + at_once,
            readers=data.readers if training else 0,
            class_weights=data.class_weights if training else None,
            extra_columns=tuple(keys),
            absent=() if training else tuple(absent),
            id_order=id_order,
            negatives=negatives if training or told_apart else None,
            item_of=item_of if training else None,
            skips_bad=data.max_bad_fraction > 0 and (training or skips_bad),
        )

    if training or told_apart:  # from how many items follows from the batch, and so does the loss
        return loader(data.global_batch_size if training else data.evaluation_batch_size or data.global_batch_size)
    return loader(data.evaluation_batch_size) if data.evaluation_batch_size else _large(loader, data, environment)


def _large(loader: Callable[[int], Loader], data: DataConfig, environment: Environment) -> Loader:
    """Returns the loader of `ROWS_AT_ONCE` rows of each worker, or of a batch of training where that has more.

    They are fewer where more do not fit into the memory's share. All workers decide alike.
    """
    of_training = loader(data.global_batch_size)
    fitting = int(data.memory / MEMORY_SHARE / (BATCH_WIDTH * of_training.row_bytes * (data.prefetch + 1)))
    rows = min(ROWS_AT_ONCE, fitting) * environment.world_size
    try:
        return loader(rows) if rows > data.global_batch_size else of_training
    except UserError:  # lanes, which take the same whatever a batch has, leave less than the share
        return of_training


def batches_at_once(config: RunConfig, environment: Environment) -> int:
    """Returns how many batches a worker scores at once, beside the one that it looks up: one a thread on CPU.

    They are taken from those that `data.prefetch` allows, of which one is left to be made ahead.
    """
    threads = worker_threads(config.launch, environment.local_world_size) if environment.device.type == "cpu" else 1
    return max(1, min(threads, config.data.prefetch - 1))
