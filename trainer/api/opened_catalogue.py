"""An opened catalogue finds items in this process, for rows of users and for items, with one model."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.api.rows import Data, Rows
from shardrec.trainer.catalogue.items import Catalogue
from shardrec.trainer.catalogue.vectors import item_vectors
from shardrec.trainer.retrieval.asked_rows import keys_of, loader_of_users, rows_of_users, user_columns
from shardrec.trainer.retrieval.index import ItemIndex, Kind, build_index
from shardrec.trainer.retrieval.index_settings import IndexSettings
from shardrec.trainer.retrieval.item_rows import unit_vectors
from shardrec.trainer.retrieval.key_names import item_names, known_user_names
from shardrec.trainer.retrieval.lists import Lists, vectors_of
from shardrec.trainer.retrieval.requests import ROW, Request
from shardrec.trainer.retrieval.seen import read_seen
from shardrec.trainer.retrieval.similar import similar_items
from shardrec.trainer.retrieval.write_vectors import vectors_of_items, with_vectors
from shardrec.trainer.session.session import Session

Names = str | Path | Iterable[object]
"""One word or path, or several of what it may be."""


class OpenedCatalogue:
    """An opened catalogue keeps the items, their vectors and the last index, once they were needed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._blueprint = session.blueprint
        self._built: tuple[object, ItemIndex] | None = None

    def lists(self, data: Data | None, users: Sequence[object], request: Request) -> tuple[pa.Table, str | None]:
        """Returns the lists of rows of users, or of the last rows of `users`; and a line about an index's recall."""
        rows = Rows.of(rows_of_users(self._blueprint, users, request) if users else data)
        seen = read_seen(self._blueprint, self._catalogue, request, None) if request.seen else None
        index = self._index(self._items, request)
        known = known_user_names(self._blueprint, raw=request.raw)
        lists = Lists(self._catalogue, index, item_names(self._blueprint, self._catalogue), known)
        found = [lists.of(vectors, of, request.n, seen) for vectors, of in self._user_vectors(rows, request)]
        return pa.concat_tables(found), lists.recall(self._items, request.n)

    def similar(self, ids: Sequence[object], request: Request) -> tuple[pa.Table, str | None]:
        """Returns the items like each of `ids`, and a line about an index's recall."""
        vectors = self._unit_vectors
        index = self._index(vectors, request)
        return similar_items(
            self._catalogue, vectors, index, item_names(self._blueprint, self._catalogue), ids, request.n
        )

    def vectors(self, data: Data | None, request: Request) -> pa.Table:
        """Returns ids and vectors of all items, or of rows of users."""
        if data is None:
            return vectors_of_items(self._session, self._catalogue)
        names, found = known_user_names(self._blueprint, raw=request.raw), self._user_vectors(Rows.of(data), request)
        return pa.concat_tables([with_vectors(rows, vectors, names) for vectors, rows in found]).drop_columns([ROW])

    @cached_property
    def _catalogue(self) -> Catalogue:
        return Catalogue.of(self._session).named()

    @cached_property
    def _items(self) -> Tensor:
        return item_vectors(self._session, self._catalogue)

    @cached_property
    def _unit_vectors(self) -> Tensor:
        return unit_vectors(self._session, self._catalogue)

    def _index(self, vectors: Tensor, request: Request) -> ItemIndex:
        """Returns an index of vectors; the last one is kept, since a graph takes far longer to build than to search."""
        wanted = (vectors.data_ptr(), request.kind, request.settings)
        if self._built is None or self._built[0] != wanted:
            self._built = (wanted, build_index(vectors, request.kind, request.settings))
        return self._built[1]

    def _user_vectors(self, rows: Rows, request: Request) -> Iterator[tuple[Tensor, pa.Table]]:
        """Yields vectors of users' rows, with `row` and what lists keep of them."""
        with rows.files(() if rows.columns is None else self._needed(rows.columns, request)) as paths:
            yield from vectors_of(self._session, loader_of_users(self._session, paths, request))

    def _needed(self, there: Sequence[str], request: Request) -> tuple[str, ...]:
        """Returns the columns of rows in memory that are read; where some lack, those that raw rows would have too."""
        read = user_columns(self._blueprint, raw=request.raw)
        if not set(read) <= set(there):  # who reads them says what lacks, and whether they are raw rows
            read = tuple(c for c in (*read, *user_columns(self._blueprint, raw=True)) if c in there) or read
        return (*read, *keys_of(self._blueprint, request, there))


def request_of(
    n: int,
    index: Kind,
    settings: Mapping[str, int] | None,
    *,
    seen: Names = (),
    keys: Names = (),
    raw: bool = False,
) -> Request:
    """Returns what a caller asks for. Raises UserError for what cannot be."""
    of_seen, of_keys = (tuple(map(str, several(*given))) for given in (("seen", seen), ("keys", keys)))
    words = tuple(f"{name}={number}" for name, number in (settings or {}).items())
    return Request(n, of_seen, index, IndexSettings.parse(words), of_keys, raw, raw)


def several(name: str, given: Names) -> tuple[Any, ...]:
    """Returns what may be one word or path, or several values. Raises UserError for anything else."""
    if isinstance(given, str | Path):
        return (given,)
    if isinstance(given, Mapping | pa.Table) or not isinstance(given, Iterable):
        raise UserError(f"{name}: found a value of type {type(given).__name__}, expected a list")
    return tuple(given)
