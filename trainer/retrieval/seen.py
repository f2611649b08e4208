"""Seen items are those that a user has had already, in training rows or in files, and is not to be shown again."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from shardrec.trainer.catalogue.items import Catalogue, positives
from shardrec.trainer.catalogue.top_n import Excluded
from shardrec.trainer.config.sections import Paths
from shardrec.trainer.retrieval.user_rows import joined, tables_of
from shardrec.trainer.session.blueprint import Blueprint

TRAIN = "train"


@dataclass(frozen=True)
class Seen:
    """Seen items are, of U users, positions in the catalogue.

    users: [U] ids, each once. offsets: [U + 1] int64; positions: [offsets[-1]] int64, each once a user
    """

    users: pa.Array
    offsets: NDArray[np.int64]
    positions: NDArray[np.int64]

    @classmethod
    def read(
        cls, blueprint: Blueprint, catalogue: Catalogue, user: str, paths: Paths, wanted: pa.Array | None = None
    ) -> "Seen":
        """Reads rows of `user` and item. Where they have labels, those of a first label of 0 or less do not count.

        wanted: users that matter, None: all. Takes 12 bytes a row of theirs. Raises UserError for columns that are
        missing.
        """
        column, users, items = catalogue.column, [], []
        value_set = catalogue.ids
        for rows in joined(_rows(blueprint, (user, column), paths)):
            if wanted is not None:
                rows = rows.filter(pc.is_in(rows.column(user), value_set=wanted.cast(rows.schema.field(user).type)))
            places = pc.index_in(rows.column(column).cast(value_set.type), value_set=value_set)
            there = pc.and_(places.is_valid(), rows.column(user).is_valid())
            users.append(rows.column(user).filter(there).combine_chunks())
            items.append(places.filter(there).to_numpy())
        return cls._of(pa.chunked_array(users).combine_chunks(), np.concatenate(items).astype(np.int64), len(catalogue))

    @classmethod
    def _of(cls, users: pa.Array, items: NDArray[np.int64], count: int) -> "Seen":
        encoded = users.dictionary_encode()
        code = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        owner, positions = np.divmod(np.unique(code * count + items), count)
        lengths = np.bincount(owner, minlength=len(encoded.dictionary))
        return cls(encoded.dictionary, np.concatenate([[0], lengths.cumsum()]), positions)

    def of(self, users: pa.Array) -> Excluded:
        """Returns the seen items of [B] users, as `top_n` takes them; of a user that is not known there are none."""
        code = pc.index_in(users.cast(self.users.type), value_set=self.users).fill_null(-1)
        places = code.to_numpy(zero_copy_only=False)
        starts = np.where(places >= 0, self.offsets[places], 0)
        lengths = np.where(places >= 0, self.offsets[places + 1] - starts, 0)
        ends = np.concatenate([[0], lengths.cumsum()])
        at = np.repeat(starts - ends[:-1], lengths) + np.arange(ends[-1])
        return Excluded(torch.from_numpy(ends), torch.from_numpy(self.positions[at]))


def _rows(blueprint: Blueprint, columns: tuple[str, ...], paths: Paths) -> Iterator[pa.Table]:
    """Yields the rows that count."""
    data_set, folder = blueprint.data_set(paths), blueprint.config.data.schema_folder
    label = blueprint.schema.labels[0] if blueprint.schema.labels else None
    labelled = label is not None and all(
        set(label.columns) <= set(schema.names) for schema, _ in data_set.index.schemas
    )
    if not labelled:
        yield from tables_of(data_set, columns, folder, blueprint.schema)
        return
    for rows, positive in positives(data_set, blueprint.schema, columns, folder):
        yield rows.filter(pa.array(positive))
