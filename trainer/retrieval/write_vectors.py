"""`shardrec vectors` writes the vectors of items and of users as Parquet, for indexes and databases elsewhere."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.sealed_parquet import write_sealed
from shardrec.sharding.distribution.frozen_rows import RowKind
from shardrec.trainer.catalogue.items import Catalogue
from shardrec.trainer.catalogue.vectors import item_vectors
from shardrec.trainer.checkpoints.restored import on_checkpoint
from shardrec.trainer.config.paths import absolute, absolute_folder
from shardrec.trainer.launch.backends import check_launches_workers
from shardrec.trainer.launch.supervision import supervised
from shardrec.trainer.retrieval.asked_rows import loader_of_users, rows_asked
from shardrec.trainer.retrieval.key_names import KeyNames, item_names, known_user_names
from shardrec.trainer.retrieval.lists import vectors_of
from shardrec.trainer.retrieval.requests import EVERYONE, ROW, Request, check_retrieves
from shardrec.trainer.retrieval.retrieve import PART
from shardrec.trainer.run_folder.atomic import new_folder
from shardrec.trainer.run_folder.command_logs import command_name, own_logs
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.holds import hold_step
from shardrec.trainer.scoring.predict import written
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session

VECTOR = "vector"
ITEMS, USERS = "items", "users"


def write_vectors(
    run_folder: Path,
    out: Path,
    *,
    data: tuple[str, ...] = (),
    users: tuple[str, ...] = EVERYONE,
    step: int | None = None,
    overrides: tuple[str, ...] = (),
    rows: RowKind | None = None,
    raw: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Writes `out/items` and `out/users`, folders of Parquet: an id, and `vector`, a list of D fp32 numbers.

    data: files of users' rows, else the last rows of `users` (`*`: of all). raw: rows of `data` are
    as they were before preparation. Returns `items`, `users`, `dim` and `step`.
    Raises UserError for a model without a shared space, and as `retrieve_rows`; then `out` is left as it was.
    """
    folder = RunFolder.open(run_folder)
    config = folder.config(overrides)
    check_launches_workers(config.launch, "vectors")
    blueprint = Blueprint(config, folder.schema(), rows=rows)
    check_retrieves(blueprint)
    chosen, hold = hold_step(folder, step)
    logs = own_logs(folder, command_name("vectors"), reads=True)
    users = () if data else users
    if not (data or users):
        raise UserError("--users: names nobody; name users, or * for all of them")
    if raw and not data:
        raise UserError("--raw: is about rows of --data, and there are none; leave it out")
    request = Request(raw=raw)
    with (
        hold,
        new_folder(absolute_folder(out)) as temporary,
        logs as logged,
        rows_asked(blueprint, absolute(data), users, temporary, request) as asked,
    ):
        for name in (ITEMS, USERS):
            (temporary / name).mkdir()
        result = supervised(
            vectors_worker, config, logged, quiet=quiet,
            out=str(temporary), asked=asked, request=request, step=chosen, blueprint=blueprint,
        )  # fmt: skip
    assert result is not None
    return result


@on_checkpoint
def vectors_worker(
    session: Session,
    folder: RunFolder,
    *,
    out: str,
    asked: tuple[str, ...],
    request: Request,
    step: int,
) -> dict[str, Any]:
    """Writes one worker's share of users' vectors; the leading one writes the items'."""
    catalogue, environment = Catalogue.of(session).named(), session.environment
    items = vectors_of_items(session, catalogue)
    if environment.leads:
        write_sealed(items, Path(out) / ITEMS / PART)
    loader = loader_of_users(session, asked, request)
    names = known_user_names(session.blueprint, raw=request.raw)

    def tables() -> Generator[pa.Table]:
        for vectors, rows in vectors_of(session, loader):
            yield with_vectors(rows if names is None else rows.drop_columns([ROW]), vectors, names)

    count = written(tables(), f"{out}/{USERS}/part-{environment.rank:05d}.parquet")
    return {
        "items": len(items),
        "users": sum(environment.gather(count)),
        "dim": items.schema.field(VECTOR).type.list_size,
        "step": step,
    }


def vectors_of_items(session: Session, catalogue: Catalogue) -> pa.Table:
    """Returns the id and the `vector` of all items. All ranks call it alike."""
    names = item_names(session.blueprint, catalogue)
    return with_vectors(pa.table({names.column: catalogue.ids}), item_vectors(session, catalogue), names)


def with_vectors(rows: pa.Table, vectors: Tensor, names: KeyNames | None) -> pa.Table:
    """Returns rows with their `vector`, a list of fixed size, and ids as they are called."""
    if names is not None and names.column in rows.column_names:
        called = names.named(rows.column(names.column).combine_chunks())
        rows = rows.set_column(rows.column_names.index(names.column), names.column, called)
    values = np.ascontiguousarray(vectors.cpu().numpy())
    return rows.append_column(VECTOR, pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1]))
