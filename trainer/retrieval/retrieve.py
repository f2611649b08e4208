"""`shardrec retrieve` makes lists of items for users, or of items like an item, out of a whole catalogue."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pyarrow as pa

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.sealed_parquet import write_sealed
from shardrec.sharding.distribution.frozen_rows import RowKind
from shardrec.trainer.catalogue.items import Catalogue
from shardrec.trainer.catalogue.vectors import item_vectors
from shardrec.trainer.checkpoints.restored import on_checkpoint
from shardrec.trainer.config.paths import absolute, absolute_folder
from shardrec.trainer.launch.agreement import made_once
from shardrec.trainer.launch.backends import check_launches_workers
from shardrec.trainer.launch.supervision import supervised
from shardrec.trainer.retrieval.asked_rows import loader_of_users, rows_asked
from shardrec.trainer.retrieval.index import build_index
from shardrec.trainer.retrieval.item_rows import unit_vectors
from shardrec.trainer.retrieval.key_names import item_names, known_user_names, user_names
from shardrec.trainer.retrieval.lists import Lists, vectors_of
from shardrec.trainer.retrieval.requests import Request, check_retrieves
from shardrec.trainer.retrieval.seen import Seen, read_seen
from shardrec.trainer.retrieval.similar import similar_items
from shardrec.trainer.retrieval.user_rows import users_in
from shardrec.trainer.run_folder.atomic import new_folder
from shardrec.trainer.run_folder.command_logs import command_name, own_logs
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.holds import hold_step
from shardrec.trainer.run_folder.progress import ProgressFile
from shardrec.trainer.scoring.predict import written
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session

PART = "part-00000.parquet"


def retrieve_rows(
    run_folder: Path,
    out: Path,
    request: Request,
    *,
    data: tuple[str, ...] = (),
    users: tuple[str, ...] = (),
    similar: tuple[str, ...] = (),
    step: int | None = None,
    overrides: tuple[str, ...] = (),
    rows: RowKind | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Writes lists into `out`, a new folder of Parquet files: one row an item of a list.

    One of: data, files of rows of users' features; users, ids whose last rows are taken (`*`: all); similar, ids of
    items. Returns `rows` (of lists), `queries`, `items`, `step`, `index` and `recall`, a line or None.

    Raises UserError for a model without a shared space, unknown ids and rows that cannot be read; then `out` is left as
    it was.
    """
    folder = RunFolder.open(run_folder)
    config = folder.config(overrides)
    check_launches_workers(config.launch, "retrieve")
    if sum(map(bool, (data, users, similar))) != 1:
        raise UserError("retrieve: name one of --data ROWS, --users IDS and --similar IDS")
    blueprint = Blueprint(config, folder.schema(), rows=rows)
    if similar and request.seen:
        raise UserError("--seen: leaves out what a user has seen, and --similar asks for no user; leave it out")
    if similar and request.keys:
        raise UserError("--keys: are columns of users' rows, and --similar asks for no user; leave it out")
    request = request.of(data=bool(data))
    if request.seen_files:
        blueprint.data_set(request.seen_files)
    if not similar:
        check_retrieves(blueprint)
    chosen, hold = hold_step(folder, step)
    logs = own_logs(folder, command_name("retrieve"), reads=True)
    with hold, new_folder(absolute_folder(out)) as temporary, logs as logged:
        with rows_asked(blueprint, absolute(data), users, temporary, request) as given:
            result = supervised(
                similar_worker if similar else retrieve_worker, config, logged, quiet=quiet,
                out=str(temporary), asked=similar or given, request=request, step=chosen,
                blueprint=blueprint,
            )  # fmt: skip
        assert result is not None
    return result


@on_checkpoint
def retrieve_worker(
    session: Session,
    folder: RunFolder,
    *,
    out: str,
    asked: tuple[str, ...],
    request: Request,
    step: int,
) -> dict[str, Any]:
    """Finds the lists of one worker's share of users' rows, streamed into a file of its own."""
    environment = session.environment
    progress = ProgressFile(folder.logs, enabled=environment.leads)
    catalogue = Catalogue.of(session).named()
    items = item_vectors(session, catalogue)
    loader = loader_of_users(session, asked, request)
    seen = None
    if request.seen:
        users = user_names(session.blueprint, raw=request.raw)

        def read() -> Seen:
            wanted = users.of_run(users_in(session.blueprint, asked, users.column)).drop_null()
            return read_seen(session.blueprint, catalogue, request, wanted)

        seen = made_once(environment, read)
    index = build_index(items, request.kind, request.settings)
    known = known_user_names(session.blueprint, raw=request.raw)
    lists = Lists(catalogue, index, item_names(session.blueprint, catalogue), known)
    on_batch = progress.counter("retrieving", loader.steps_per_epoch)

    def tables() -> Generator[pa.Table]:
        for vectors, rows in vectors_of(session, loader, on_batch):
            yield lists.of(vectors, rows, request.n, seen)

    count = written(tables(), f"{out}/part-{environment.rank:05d}.parquet")
    return {
        "rows": sum(environment.gather(count)),
        "queries": loader.num_rows,
        "items": len(catalogue),
        "step": step,
        "index": index.name,
        "recall": lists.recall(items, request.n),
    }


@on_checkpoint
def similar_worker(
    session: Session,
    folder: RunFolder,
    *,
    out: str,
    asked: tuple[str, ...],
    request: Request,
    step: int,
) -> dict[str, Any]:
    """Finds the items like each of those asked for; the leading worker writes them."""
    catalogue = Catalogue.of(session).named()
    vectors = unit_vectors(session, catalogue)
    index = build_index(vectors, request.kind, request.settings)
    found, line = similar_items(catalogue, vectors, index, item_names(session.blueprint, catalogue), asked, request.n)
    if session.environment.leads:
        write_sealed(found, Path(out) / PART)
    return {
        "rows": len(found),
        "queries": len(asked),
        "items": len(vectors),
        "step": step,
        "index": index.name,
        "recall": line,
    }
