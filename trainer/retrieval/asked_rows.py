"""The rows asked about are files of users' rows, or the last rows that the run has of users."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.sealed_parquet import write_sealed
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.trainer.catalogue.items import column_type, item_feature
from shardrec.trainer.catalogue.vectors import item_side
from shardrec.trainer.retrieval.key_names import known_user_names, user_names
from shardrec.trainer.retrieval.requests import EVERYONE, Request, check_names
from shardrec.trainer.retrieval.user_rows import columns_in, last_rows
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session

USERS_FILE = "users-asked.parquet"


def user_columns(blueprint: Blueprint, *, raw: bool = False) -> tuple[str, ...]:
    """Returns the columns that the user tower's features are read from, of the run's rows or of raw ones."""
    read = blueprint.read.raw() if raw else blueprint.read
    unread = (*blueprint.model.unread_features(labelled=False), *item_side(blueprint))
    features = read.without(unread).unlabelled().features
    return tuple(dict.fromkeys(column for f in features for column in f.columns))


def keys_of(blueprint: Blueprint, request: Request, columns: Collection[str]) -> tuple[str, ...]:
    """Returns the columns of users' rows that lists keep: those asked for, else the user's; and what `seen` goes by.

    columns: those that the rows have.
    """
    keys = request.keys
    if not keys and (names := known_user_names(blueprint, raw=request.raw)) is not None and names.column in columns:
        keys = (names.column,)
    if request.seen:
        keys = tuple(dict.fromkeys((*keys, user_names(blueprint, raw=request.raw).column)))
    item = item_feature(blueprint.config, blueprint.schema)
    check_names(keys, blueprint.schema[item].columns[0])
    return keys


def loader_of_users(source: Blueprint | Session, paths: tuple[str, ...], request: Request) -> Loader:
    """Makes batches of users' rows, beside which come the columns that lists keep. All workers call it alike.

    Raises UserError for what cannot be read; where it is that preparation has made numbers of what rows have, it says
    so.
    """
    blueprint = source.blueprint if isinstance(source, Session) else source
    if isinstance(source, Session):
        blueprint.share_footers(paths, source.environment)
    keys = keys_of(blueprint, request, columns_in(blueprint, paths))
    try:
        return source.loader(paths, labelled=False, keys=keys, absent=item_side(blueprint), raw=request.raw)
    except UserError as error:
        if request.raw or _readable(blueprint, paths, raw=False) or not _readable(blueprint, paths, raw=True):
            raise
        raise UserError(f"{error}; rows as they were before preparation are read by --raw") from None


def _readable(blueprint: Blueprint, paths: tuple[str, ...], *, raw: bool) -> bool:
    """Tells whether files have what the user tower reads."""
    try:
        blueprint.loader(paths, labelled=False, absent=item_side(blueprint), raw=raw)
    except UserError:
        return False
    return True


def rows_of_users(blueprint: Blueprint, users: Sequence[object], request: Request) -> pa.Table:
    """Returns the last row of each of some users (`*`: of all), with what the user tower reads and lists keep.

    Raises UserError for a user that has none.
    """
    names = user_names(blueprint)
    keys = keys_of(blueprint, request, (names.column,))
    columns = tuple(dict.fromkeys((*user_columns(blueprint), *keys)))
    wanted = None
    if tuple(users) != EVERYONE:
        wanted = names.ids(users, column_type(blueprint, names.column), "--users")
    return last_rows(blueprint, names.column, columns, wanted)


@contextmanager
def rows_asked(
    blueprint: Blueprint, data: tuple[str, ...], users: tuple[str, ...], scratch: Path, request: Request
) -> Iterator[tuple[str, ...]]:
    """Yields the files of users' rows: those given, or one in `scratch` of the last rows of users, for that long.

    Raises UserError for users that have none, and for files that cannot be read.
    """
    if not users:
        if data:
            loader_of_users(blueprint, data, request)
        yield data
        return
    file = scratch / USERS_FILE
    write_sealed(rows_of_users(blueprint, users, request), file)
    yield (str(file),)
    file.unlink()
