"""The catalogue of a model whose users and items share a space: ids and vectors in files of a bundle."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shardrec.data_pipeline.features.id_transforms import Identity, Vocabulary
from shardrec.data_pipeline.features.vocabulary import kept_values
from shardrec.trainer.catalogue.items import Catalogue
from shardrec.trainer.catalogue.vectors import item_vectors
from shardrec.trainer.export.table_files import write_array
from shardrec.trainer.session.session import Session


def write_items(folder: Path, session: Session) -> dict[str, Any]:
    """Writes `items.parquet`, ids in the order of the vectors in `items.npy`; returns what a bundle says of them.

    Ids are raw: where preparation made rows of them by a vocabulary, those of its values. What has none is left out.
    """
    catalogue = Catalogue.of(session.blueprint)
    vectors = item_vectors(session, catalogue).float().cpu().numpy()
    ids = raw_ids(session, catalogue)
    known = ids.is_valid().to_numpy(zero_copy_only=False)
    write_array(folder / "items.npy", vectors[known])
    pq.write_table(pa.table({catalogue.column: ids.filter(pa.array(known))}), folder / "items.parquet")
    return {"item": catalogue.item, "items": int(known.sum()), "dim": vectors.shape[1]}


def raw_ids(session: Session, catalogue: Catalogue) -> pa.Array:
    """Returns the items' ids as raw rows have them, null where a vocabulary has none."""
    ids = catalogue.ids
    declared = session.blueprint.schema[catalogue.item].ids
    if not (isinstance(declared, Identity) and isinstance(declared.prepared, Vocabulary)):
        return ids
    values = kept_values(session.config.data.schema_folder, declared.prepared.path)
    assert values is not None  # the bundle has it already
    places = pc.subtract(ids.cast(pa.int64()), 1)
    inside = pc.and_(pc.greater_equal(places, 0), pc.less(places, len(values)))
    return values.combine_chunks().take(pc.if_else(inside, places, None))
