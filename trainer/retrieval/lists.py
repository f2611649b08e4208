"""The lists of rows of users are found batch by batch: vectors by the user tower, items by an index."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from shardrec.data_pipeline.loading.loader import Loader
from shardrec.trainer.catalogue.items import Catalogue
from shardrec.trainer.catalogue.vectors import towers_of
from shardrec.trainer.retrieval.index import RECALL_QUERIES, ExactIndex, ItemIndex, recall_line
from shardrec.trainer.retrieval.key_names import KeyNames
from shardrec.trainer.retrieval.requests import RANK, ROW, SCORE
from shardrec.trainer.retrieval.seen import Seen
from shardrec.trainer.session.agreed_batches import AgreedBatches
from shardrec.trainer.session.session import Session


def vectors_of(
    session: Session, loader: Loader, on_batch: Callable[[int], None] = lambda step: None
) -> Iterator[tuple[Tensor, pa.Table]]:
    """Yields the vectors [b, D] fp32 of the live rows of each of this rank's batches, with `row` and the loader's keys.

    loader: as `loader_of_users` makes it. All ranks call it alike, and read to the end. Raises UserError, on all alike,
    for rows of any rank that cannot be read.
    """
    towers = towers_of(session)
    batches = AgreedBatches(session, loader)
    for step, (batch, columns) in enumerate(batches, start=1):
        with session.scoring():
            made = session.forward.vectors(batch.to(session.environment.device), towers.user, towers.user_inputs)
        keys = dict(zip(columns.column_names, columns.columns, strict=True))
        yield made[: int(batch.live.sum())], pa.table({ROW: batch.rows[batch.live].numpy(), **keys})
        on_batch(step)
    batches.raise_error()


class Lists:
    """Lists are made by one index, without what `seen` has of the `user` column's users.

    asked: the first vectors that came by, of which an index's recall is taken. user, item: how ids are called
    """

    def __init__(self, catalogue: Catalogue, index: ItemIndex, item: KeyNames, user: KeyNames | None = None) -> None:
        self.catalogue, self.index, self.user = catalogue, index, user
        self.names = item.named(catalogue.ids)
        self.asked: list[Tensor] = []

    def of(self, vectors: Tensor, rows: pa.Table, n: int, seen: Seen | None = None) -> pa.Table:
        """Returns the lists of rows with these vectors: their columns, `rank`, the item's id, and `score`."""
        if sum(map(len, self.asked)) < RECALL_QUERIES:
            self.asked.append(vectors)
        excluded = None
        if seen is not None and self.user is not None:
            excluded = seen.of(self.user.of_run(rows.column(self.user.column).combine_chunks()))
        if self.user is not None and self.user.column in rows.column_names:
            named = self.user.named(rows.column(self.user.column).combine_chunks())
            rows = rows.set_column(rows.column_names.index(self.user.column), self.user.column, named)
        found = self.index.search(vectors, min(n, len(self.names)), excluded)
        return listed(rows, *found, self.names, self.catalogue.column)

    def recall(self, items: Tensor, n: int) -> str | None:
        """Returns a line about the recall of an approximate index, of the vectors that were asked; None for none."""
        if isinstance(self.index, ExactIndex) or not self.asked:
            return None
        return recall_line(self.index, items, torch.cat(self.asked), min(n, len(items)))


def listed(rows: pa.Table, scores: Tensor, positions: Tensor, names: pa.Array, column: str) -> pa.Table:
    """Returns a row for each item found: what its row of `rows` has, `rank`, the item's name in `column`, `score`."""
    place: Any = positions.cpu().numpy()
    row, at = np.nonzero(place >= 0)
    columns = {name: rows.column(name).take(pa.array(row)) for name in rows.column_names}
    found = {RANK: at + 1, column: names.take(pa.array(place[row, at])), SCORE: scores.cpu().numpy()[row, at]}
    return pa.table(columns | found)
