"""The last row of a user, among training rows and then validation rows, has the user's features for a next list."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.reading.index import DataSet
from shardrec.data_pipeline.sampling.catalogue import READ_ROWS
from shardrec.trainer.catalogue.items import positives
from shardrec.trainer.session.blueprint import Blueprint

SPLITS = ("train", "validation")

JOINED_ROWS = 1 << 20
"""Rows whose ids are looked up at once: each look-up makes a hash table of all that they are looked up in."""


def last_rows(blueprint: Blueprint, user: str, columns: tuple[str, ...], wanted: pa.Array | None = None) -> pa.Table:
    """Returns one row a user: the last one in the order of files, validation after training, in some `columns`.

    user: the column of users; wanted: those to find, in this order; None: all, in the order of their first rows. Memory
    grows with the users. Raises UserError for columns that are missing, and for users of whom there is no row.
    """
    parts: list[pa.Table] = []
    rows = limit = 0
    for table in joined(_tables(blueprint, tuple(dict.fromkeys((user, *columns))))):
        if wanted is not None:
            table = table.filter(pc.is_in(table.column(user), value_set=wanted.cast(table.schema.field(user).type)))
        parts.append(_lasts(table, user))
        rows += len(parts[-1])
        if rows > limit:
            parts = [_lasts(pa.concat_tables(parts, promote_options="default"), user)]
            rows = len(parts[0])
            limit = 2 * max(rows, READ_ROWS)
    found = _lasts(pa.concat_tables(parts, promote_options="default"), user)
    if wanted is None:
        return found
    places = pc.index_in(wanted.cast(found.schema.field(user).type), value_set=found.column(user).combine_chunks())
    if places.null_count:
        missing = wanted.filter(places.is_null()).to_pylist()
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(
            f"--users: there is no training or validation row of {user} {missing[0]!r}{more}; give a row of each by "
            "--data"
        )
    return found.take(places)


def columns_in(blueprint: Blueprint, paths: tuple[str, ...]) -> set[str]:
    """Returns the columns that all of some files have. Raises UserError for files that cannot be read."""
    return set.intersection(*(set(schema.names) for schema, _ in blueprint.data_set(paths).index.schemas))


def tables_of(data_set: DataSet, columns: tuple[str, ...], folder: str, schema: Schema) -> Iterator[pa.Table]:
    """Yields all rows of files, in some columns, in order. Raises UserError for columns that are missing."""
    for rows, _ in positives(data_set, schema.model_copy(update={"labels": ()}), columns, folder):
        yield rows


def joined(tables: Iterator[pa.Table], rows: int = JOINED_ROWS) -> Iterator[pa.Table]:
    """Yields tables put together to so many rows, or a little more; fewer where the next one has other types."""
    parts: list[pa.Table] = []
    for table in tables:
        if parts and not table.schema.equals(parts[0].schema):
            yield pa.concat_tables(parts)
            parts = []
        parts.append(table)
        if sum(map(len, parts)) >= rows:
            yield pa.concat_tables(parts)
            parts = []
    if parts:
        yield pa.concat_tables(parts)


def _tables(blueprint: Blueprint, columns: tuple[str, ...]) -> Iterator[pa.Table]:
    data = blueprint.config.data
    for split in SPLITS:
        if (paths := data.split(split)) is not None:
            yield from tables_of(blueprint.data_set(paths), columns, data.schema_folder, blueprint.schema)


def _lasts(rows: pa.Table, user: str) -> pa.Table:
    """Returns the last row of each user, in the order of their first rows; a row without user is nobody's."""
    places = pa.table({"user": rows.column(user), "place": np.arange(len(rows))})
    places = places.filter(places.column("user").is_valid())
    grouped = places.group_by("user").aggregate([("place", "min"), ("place", "max")]).sort_by("place_min")
    return rows.take(grouped.column("place_max")).combine_chunks()


def users_in(blueprint: Blueprint, paths: tuple[str, ...], column: str) -> pa.Array:
    """Returns the distinct users of some files' rows."""
    tables = tables_of(blueprint.data_set(paths), (column,), blueprint.config.data.schema_folder, blueprint.schema)
    return pa.chunked_array([table.column(column).unique() for table in tables]).unique().drop_null()
