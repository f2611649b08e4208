"""The catalogue of a model whose users and items share a space: ids and vectors in files of a bundle."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shardrec.trainer.catalogue.items import Catalogue
from shardrec.trainer.catalogue.vectors import item_vectors
from shardrec.trainer.export.table_files import write_array
from shardrec.trainer.session.session import Session


def write_items(folder: Path, session: Session) -> dict[str, Any]:
    """Writes `items.parquet`, ids in the order of the vectors in `items.npy`; returns what a bundle says of them.

    Ids are raw: where preparation made rows of them by a vocabulary, those of its values. Items that have none are left
    out: `unnamed` says how many.
    """
    whole = Catalogue.of(session.blueprint)
    known = whole.names.is_valid().to_numpy(zero_copy_only=False)
    catalogue = whole.where(known)
    vectors = item_vectors(session, catalogue).float().cpu().numpy()
    write_array(folder / "items.npy", vectors)
    pq.write_table(pa.table({catalogue.column: catalogue.names}), folder / "items.parquet")
    unnamed = {"trained": int((~known[: whole.trained]).sum()), "new": int((~known[whole.trained :]).sum())}
    return {"item": catalogue.item, "items": len(catalogue), "dim": vectors.shape[1], "unnamed": unnamed}
