"""Vectors of items and of users are made by a model's towers, on all ranks together."""

from collections.abc import Iterable

from torch import Tensor

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.reading.collate import Layout
from shardrec.data_pipeline.reading.parquet import Chunk
from shardrec.models.base import input_features
from shardrec.models.shared_space import Towers
from shardrec.sharding.tables.collective import ProcessGroupCollective
from shardrec.trainer.catalogue.items import Catalogue
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session

BLOCK_ROWS = 16_384
"""Items whose vectors are made at once, on all ranks together."""


def towers_of(source: Session | Blueprint) -> Towers:
    """Returns a model's towers. Raises UserError where its users and items share no space."""
    model = source.model
    if (towers := model.towers()) is None:
        raise UserError(
            f"model {source.config.model['name']} has no vectors by which items could be retrieved: "
            f"{model.no_shared_space}"
        )
    return towers


def item_vectors(session: Session, catalogue: Catalogue) -> Tensor:
    """Returns [N, D] fp32 on the rank's device: the vectors of all items. All ranks call it alike, and have all of it.

    Raises UserError where users and items share no space.
    """
    towers, collective = towers_of(session), ProcessGroupCollective()
    vectors: Tensor | None = None
    with session.scoring():
        for new in (False, True):
            bounds = (catalogue.trained, len(catalogue)) if new else (0, catalogue.trained)
            layout = _item_layout(session, catalogue, towers, new=new)
            for start in range(*bounds, BLOCK_ROWS):
                stop = min(start + BLOCK_ROWS, bounds[1])
                batch, live = share_of_items(session, catalogue, layout, start, stop)
                made = session.forward.vectors(batch, towers.item, towers.item_inputs)[:live]
                if vectors is None:
                    vectors = made.new_empty(len(catalogue), made.shape[1])
                vectors[start:stop] = collective.concatenate(made)
    assert vectors is not None
    return vectors


def item_side(source: Session | Blueprint) -> tuple[str, ...]:
    """Returns the features that the user tower does not read, which rows of users need not have."""
    return _others(source, towers_of(source).user_inputs)


def user_layout(session: Session) -> Layout:
    """Returns how rows are read of which only the user tower reads anything."""
    return layout_without(session, item_side(session))


def layout_without(session: Session, absent: Iterable[str]) -> Layout:
    """Returns how rows are read without some features, as the session's lookup wants them."""
    lookup = session.distributed.lookup
    return Layout(
        session.blueprint.read.unlabelled(),
        session.config.data.schema_folder,
        id_order=lookup.id_names + lookup.weighted_id_names,
        absent=tuple(absent),
    )


def _others(source: Session | Blueprint, names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the features that are read, but not by the inputs of these names."""
    read = source.blueprint.read if isinstance(source, Session) else source.read
    of_side = {feature for name in names for feature in input_features(source.model.inputs[name])}
    return tuple(f.name for f in read.features if f.name not in of_side)


def _item_layout(session: Session, catalogue: Catalogue, towers: Towers, *, new: bool) -> Layout:
    """Returns how items' rows are read: without the users' features, and for new items without what reads their id."""
    by_id = [f.name for f in session.blueprint.read.features if catalogue.column in f.columns] if new else []
    return layout_without(session, (*_others(session, towers.item_inputs), *by_id))


def share_of_items(session: Session, catalogue: Catalogue, layout: Layout, start: int, stop: int) -> tuple[Batch, int]:
    """Returns this rank's part of some items, as large a batch as every other rank's, and how many of them are live."""
    environment = session.environment
    size = -(-(stop - start) // environment.world_size)
    first = min(start + environment.rank * size, stop)
    live = min(size, stop - first)
    parts = []
    if live:
        (rows,) = catalogue.rows.slice(first, live).to_batches()
        parts = [layout.block(Chunk(rows, "the catalogue", first, first))]
    return layout.collate(parts, size).to(environment.device), live
