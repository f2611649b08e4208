"""Items like an item are those whose vectors point most nearly where its vector does."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.catalogue.items import Catalogue
from shardrec.trainer.catalogue.top_n import Excluded
from shardrec.trainer.retrieval.index import ExactIndex, ItemIndex, recall_line
from shardrec.trainer.retrieval.key_names import KeyNames
from shardrec.trainer.retrieval.lists import listed
from shardrec.trainer.retrieval.requests import SIMILAR


def similar_items(
    catalogue: Catalogue, vectors: Tensor, index: ItemIndex, names: KeyNames, asked: Sequence[object], n: int
) -> tuple[pa.Table, str | None]:
    """Returns, of each item asked for, the n items of the largest cosines: its id, `rank`, `similar`, `score`.

    vectors: of length 1, of the first items of the catalogue; index: of these. Beside the table a line about the recall
    of an approximate index, or None. Raises UserError for an id that the catalogue lacks.
    """
    ids = catalogue.ids
    wanted = names.ids(asked, ids.type, "--similar")
    places = pc.index_in(wanted, value_set=ids)
    known = pc.less(places, len(vectors)).fill_null(False)
    if not pc.all(known).as_py() and len(wanted):
        missing = names.named(wanted.filter(pc.invert(known)))[0].as_py()
        why = "is in no training row" if places.null_count == 0 else "is not in the catalogue"
        raise UserError(f"--similar: item {missing!r} {why}; name items of the training rows or of data.catalogue")
    at = torch.tensor(places.to_pylist(), dtype=torch.int64)
    queries = vectors[at.to(vectors.device)]
    itself = Excluded(torch.arange(len(at) + 1), at)
    called = names.named(ids)
    rows = pa.table({catalogue.column: called.take(places)})
    n = min(n, len(vectors))
    found = listed(rows, *index.search(queries, n, itself), called, SIMILAR)
    return found, None if isinstance(index, ExactIndex) else recall_line(index, vectors, queries, n)
