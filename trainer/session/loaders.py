"""A run's files become batches here: the one place where a run file's `data` turns into a `Loader`.

Inspection makes the same loaders as training does, so that what is too large, too small or missing is found before
anything starts.
"""

from collections.abc import Mapping, Sequence

from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.loading.loader import Drawn, Loader
from shardrec.data_pipeline.reading.index import DataSet
from shardrec.data_pipeline.sampling.settings import NegativeSampling
from shardrec.data_pipeline.sampling.shared import SharedNegatives
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import Environment


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
) -> Loader:
    """Makes a worker's batches of some files: in the run's order for training, else in file order.

    schema: what is read. keys: columns handed out beside batches. absent: features that are not read outside of
    training; they keep their keys but have no ids, so that lookups and exchanges are as in training, and dense ones
    are 0. id_order: keys of the ids. negatives: what training draws; settings alone are enough to check a run. item_of:
    sequences that training leaves the row's own item out of. Outside of training rows are told from the items that a
    batch shares, where what they are drawn from is given.

    Raises UserError as `Loader` does.
    """
    data = config.data
    batch_size = data.global_batch_size if training else data.evaluation_batch_size or data.global_batch_size
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
        prefetch=data.prefetch,
        readers=data.readers if training else 0,
        class_weights=data.class_weights if training else None,
        extra_columns=tuple(keys),
        absent=() if training else tuple(absent),
        id_order=id_order,
        negatives=negatives if training or isinstance(negatives, SharedNegatives) else None,
        item_of=item_of if training else None,
    )
