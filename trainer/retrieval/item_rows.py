"""Items' table rows are vectors that items of any model have: alike ones mean to it items that are alike."""

import torch
from torch import Tensor
from torch.nn import functional as F

from shardrec.data_pipeline.errors import UserError
from shardrec.models.inputs import PooledEmbeddings
from shardrec.sharding.tables.collective import ProcessGroupCollective
from shardrec.trainer.catalogue.items import Catalogue
from shardrec.trainer.catalogue.vectors import BLOCK_ROWS, item_vectors, layout_without, share_of_items
from shardrec.trainer.session.session import Session


def unit_vectors(session: Session, catalogue: Catalogue) -> Tensor:
    """Returns vectors of length 1 whose dot products are the cosines of items: [N, D], on the rank's device.

    They are of the item tower's vectors; of a model without towers, of the table rows of the items' ids side by side,
    and then for the first `catalogue.trained` items alone. All ranks call it alike.
    Raises UserError for a model that looks ids of items up in no table.
    """
    if session.model.towers() is None:
        return F.normalize(_table_rows(session, catalogue))
    return F.normalize(item_vectors(session, catalogue))


def _table_rows(session: Session, catalogue: Catalogue) -> Tensor:
    others = (f.name for f in session.blueprint.read.features if f.name != catalogue.item)
    layout, collective, parts = layout_without(session, others), ProcessGroupCollective(), []
    with session.scoring():
        for start in range(0, catalogue.trained, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, catalogue.trained)
            batch, live = share_of_items(session, catalogue, layout, start, stop)
            inputs = session.forward.lookup(batch)
            parts.append(collective.concatenate(_of_feature(session, inputs, catalogue.item)[:live]))
    return torch.cat(parts)


def _of_feature(session: Session, inputs: dict[str, Tensor], feature: str) -> Tensor:
    """Returns [B, D]: what all pooled inputs have of one feature, side by side."""
    found = []
    for name, declared in session.model.inputs.items():
        if not isinstance(declared, PooledEmbeddings) or feature not in declared.tables or name not in inputs:
            continue
        place = list(declared.tables).index(feature)
        if declared.concat:
            dims = [table.embedding_dim for table in declared.tables.values()]
            found.append(inputs[name].split(dims, dim=1)[place])
        else:
            found.append(inputs[name][:, place])
    if not found:
        raise UserError(
            f"model {session.config.model['name']} looks {feature!r} up in no table of its own, by whose rows items "
            "would be alike"
        )
    return torch.cat(found, dim=1).float()
