"""Seen items are those that a user has had already, in training rows or in files, and is not to be shown again."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from shardrec.data_pipeline.features.hashing import is_string
from shardrec.data_pipeline.reading.blocks import offsets_of
from shardrec.trainer.catalogue.items import Catalogue, column_type, positives, user_feature
from shardrec.trainer.catalogue.top_n import Excluded
from shardrec.trainer.config.sections import Paths
from shardrec.trainer.retrieval.key_names import KeyNames, item_names, user_names
from shardrec.trainer.retrieval.requests import Request
from shardrec.trainer.retrieval.user_rows import columns_in, joined, tables_of
from shardrec.trainer.session.blueprint import Blueprint


@dataclass(frozen=True)
class Seen:
    """Seen items are, of U users, positions in the catalogue.

    users: [U] `comparable` ids, each once, integers ascending. offsets: [U + 1] int64; positions: [offsets[-1]] int64,
        each once a user
    """

    users: pa.Array
    offsets: NDArray[np.int64]
    positions: NDArray[np.int64]

    @classmethod
    def read(
        cls,
        blueprint: Blueprint,
        catalogue: Catalogue,
        user: KeyNames,
        item: KeyNames,
        paths: Paths,
        wanted: pa.Array | None = None,
    ) -> "Seen":
        """Reads rows of users and items. Where they have labels, those of a first label of 0 or less do not count.

        wanted: `comparable` ids of users that matter, None: all. Takes 16 bytes a row of theirs. Raises UserError for
        columns that are missing, or of another type than the run's.
        """
        declared = (user_feature(blueprint.config, blueprint.schema), catalogue.item)
        kinds = [column_type(blueprint, blueprint.schema[name].columns[0]) for name in declared]
        files, users, items = paths if isinstance(paths, str) else ", ".join(paths), [], []
        for rows in joined(_rows(blueprint, (user.column, item.column), paths)):
            of_users, of_items = (
                names.in_files(rows.column(names.column).combine_chunks(), kind, files)
                for names, kind in zip((user, item), kinds, strict=True)
            )
            there = of_users.is_valid() if wanted is None else pc.is_in(of_users, value_set=wanted)
            positions = catalogue.positions(of_items)
            there = there.to_numpy(zero_copy_only=False) & (positions >= 0)
            users.append(of_users.filter(pa.array(there)))
            items.append(positions[there])
        return cls._of(pa.chunked_array(users).combine_chunks(), np.concatenate(items), len(catalogue))

    @classmethod
    def _of(cls, users: pa.Array, items: NDArray[np.int64], count: int) -> "Seen":
        if is_string(users.type):
            encoded = users.dictionary_encode()
            known, code = encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        else:
            each, code = np.unique(users.to_numpy(zero_copy_only=False).astype(np.int64), return_inverse=True)
            known = pa.array(each)
        owner, positions = np.divmod(np.unique(code * count + items), count)
        return cls(known, offsets_of(np.bincount(owner, minlength=len(known))), positions)

    def of(self, users: pa.Array) -> Excluded:
        """Returns the seen items of [B] users by `comparable` ids, as `top_n` takes them; of an unknown one none."""
        places = self._places(users)
        starts = np.where(places >= 0, self.offsets[places], 0)
        lengths = np.where(places >= 0, self.offsets[places + 1] - starts, 0)
        ends = offsets_of(lengths)
        at = np.repeat(starts - ends[:-1], lengths) + np.arange(ends[-1])
        return Excluded(torch.from_numpy(ends), torch.from_numpy(self.positions[at]))

    def _places(self, users: pa.Array) -> NDArray[np.int64]:
        """Returns the place of each user, -1 of others. Integers need no hash table of all users for each batch."""
        if is_string(users.type):
            found = pc.index_in(users, value_set=self.users, skip_nulls=True).fill_null(-1)
            return found.to_numpy(zero_copy_only=False).astype(np.int64)
        known, wanted = self.users.to_numpy(), users.fill_null(0).to_numpy()
        places = np.searchsorted(known, wanted)
        there = np.append(known, 0)[places] == wanted
        there &= (places < len(known)) & users.is_valid().to_numpy(zero_copy_only=False)
        return np.where(there, places, -1)


def read_seen(blueprint: Blueprint, catalogue: Catalogue, request: Request, wanted: pa.Array | None) -> Seen:
    """Reads what users have seen, in the training rows or in files, as a request says."""
    if not (files := request.seen_files):
        paths = blueprint.config.data.split("train")
        assert paths is not None
        return Seen.read(blueprint, catalogue, user_names(blueprint), item_names(blueprint, catalogue), paths, wanted)
    there, raw = columns_in(blueprint, files), request.raw_seen
    user = _named_as(there, user_names(blueprint, raw=raw), user_names(blueprint))
    item = _named_as(there, item_names(blueprint, catalogue, raw=raw), item_names(blueprint, catalogue))
    return Seen.read(blueprint, catalogue, user, item, files, wanted)


def _named_as(there: Collection[str], names: KeyNames, in_run: KeyNames) -> KeyNames:
    """Returns names with the column that files have: raw rows' own or, as in lists, that of the run's rows."""
    return replace(names, column=in_run.column) if names.column not in there and in_run.column in there else names


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
