"""Files of one data set may differ in what is not read, and in types that are read alike."""

from collections.abc import Iterable, Sequence

import pyarrow as pa

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import column_type, is_list, is_null, plain_type
from shardrec.data_pipeline.features.hashing import is_string

Schemas = Sequence[tuple[pa.Schema, str]]
"""Arrow schemas, each with the path of the first file that has it."""


def check_read_alike(columns: Iterable[str], schemas: Schemas) -> None:
    """Raises UserError for a column of strings in one file and of other values in another: 7 and "7" are two ids.

    Widths, offsets, dictionaries and whether null is allowed make no difference to what is read; that each type can be
    read at all is for the columns' readers to say.
    """
    for column in columns:
        first: tuple[bool, pa.DataType, str] | None = None
        for schema, path in schemas:
            kind = column_type(schema, path, column, "the schema")
            inner = plain_type(kind.value_type if is_list(kind) else kind)
            if is_null(inner):
                continue
            first = first or (is_string(inner), kind, path)
            if is_string(inner) != first[0]:
                raise _differ(column, (kind, path), first[1:], "ids of integers and of strings differ")


def carried_schema(columns: Sequence[str], schemas: Schemas) -> pa.Schema:
    """Returns the types in which columns are handed on unread: those of the files, or one that holds all of theirs.

    Raises UserError for a column that is missing, or whose types no other holds.
    """
    return pa.schema([pa.field(column, _common(column, schemas)) for column in columns])


def _common(column: str, schemas: Schemas) -> pa.DataType:
    path = schemas[0][1]
    common = kind = column_type(schemas[0][0], path, column, "the command")
    for schema, other in schemas[1:]:
        found = column_type(schema, other, column, "the command")
        if found == common:
            continue
        both = [pa.schema([(column, _plain(x))]) for x in (common, found)]
        try:
            common = pa.unify_schemas(both, promote_options="permissive").field(0).type
        except pa.ArrowException:
            raise _differ(column, (found, other), (kind, path), "the command needs one type for it") from None
    return common


def _plain(kind: pa.DataType) -> pa.DataType:
    """Returns a type without its dictionary or view, which do not unite with others."""
    kind = plain_type(kind)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary_view(kind) else kind


def _differ(column: str, this: tuple[pa.DataType, str], first: tuple[pa.DataType, str], why: str) -> UserError:
    return UserError(
        f"{this[1]}: column {column!r} is {this[0]}, but {first[0]} in {first[1]}, and {why}; write one of them again"
    )
