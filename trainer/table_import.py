"""Rows from Parquet into a copy of a run: a new run folder with one checkpoint, in which one table differs."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.files import find_files
from sharding.optimizers import row_update
from sharding.replaced_rows import ReplacedRows, fresh_state
from sharding.row_rules import RowUpdate
from sharding.saved_tables import SavedTable
from trainer.checkpoint import TOWER_FILE, Position, saved_tower, write_manifest
from trainer.config import load
from trainer.incoming_rows import IncomingRows
from trainer.run_folder import RunFolder, write_atomically
from trainer.saved_model import DeclaredTable, SavedModel
from trainer.table_export import ID, VECTOR, check_out
from trainer.table_ids import TableIds


def import_table(
    run_folder: Path,
    name: str,
    data: Sequence[str],
    out: Path,
    step: int | None = None,
    *,
    by_number: bool = False,
    skip_unknown: bool = False,
    columns: tuple[str, str] = (ID, VECTOR),
) -> dict[str, Any]:
    """Makes the run folder `out`: a checkpoint of `run_folder` in which the rows that `data` name have its vectors.

    Their optimizer state is that of a first step; all other rows stay as they are, bit for bit. The best evaluation so
    far and early stopping are forgotten. Returns what was done, in figures. Raises UserError for what is wrong with the
    data, the checkpoint or `out`; then nothing is left behind.
    """
    folder = RunFolder.open(run_folder)
    step = folder.choose_step(step)
    saved = SavedModel.read(folder.checkpoint(step))
    table, declared = saved.table(name), DeclaredTable.of(folder, name)
    update = row_update(declared.table)
    _check_declared(folder, declared, table, update)
    ids = TableIds.of(folder, declared.features, table.num_embeddings, by_number=by_number)
    check_out(out)
    incoming = IncomingRows(find_files(data), table, ids, columns)
    found = incoming.check_ids(skip_unknown=skip_unknown)
    temporary = RunFolder(out.resolve().parent / f".{out.name}.{os.getpid()}.tmp")
    try:
        _copy_run(folder, temporary, out.resolve())
        _copy_checkpoint(saved, temporary.checkpoint(step), table, incoming, update)
        facts = {"table": name, "rows": found.rows, "of": table.num_embeddings, "from": str(folder.path)}
        temporary.record("import", step, facts)
        if out.exists():
            out.rmdir()
        temporary.path.rename(out)
    finally:
        shutil.rmtree(temporary.path, ignore_errors=True)
    return facts | {"step": step, "ids": ids.kind, "why": ids.why, **asdict(found)}


def _check_declared(folder: RunFolder, declared: DeclaredTable, saved: SavedTable, update: RowUpdate) -> None:
    """Raises UserError where a run's configuration is of other tables than its checkpoint."""
    table, state = declared.table, sorted(update.state_shapes(1, 1))
    assert table.optimizer is not None
    wanted = (table.num_embeddings, table.embedding_dim, table.dtype, table.optimizer.name, state)
    found = (saved.num_embeddings, saved.embedding_dim, saved.dtype, saved.optimizer, sorted([*saved.tensors][1:]))
    if wanted != found:
        where = f"{saved.folder}: table {saved.name!r}"
        raise UserError(f"{where} is {found} there and {wanted} by {folder.config_file}; keep both of one run together")


def _copy_run(folder: RunFolder, made: RunFolder, final: Path) -> None:
    """All of a run folder that is not of one training: settings, schema and vocabularies."""
    made.logs.mkdir(parents=True)
    made.checkpoints.mkdir()
    config = load(folder.config_file).model_copy(update={"run": str(final)})
    write_atomically(made.config_file, config.dump())
    shutil.copyfile(folder.schema_file, made.schema_file)
    schema = folder.schema()
    for path in dict.fromkeys((*schema.vocabularies, *schema.raw().vocabularies)):
        if (folder.path / path).exists():
            (made.path / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder.path / path, made.path / path)


def _copy_checkpoint(
    saved: SavedModel, made: Path, table: SavedTable, incoming: IncomingRows, update: RowUpdate
) -> None:
    """Writes `saved` with other rows in one table; what stays as it is becomes hard links, where these can be made."""
    (made / "tables").mkdir(parents=True)
    for name, other in saved.tables.items():
        for file in other.file_sizes() if name != table.name else ():
            _link(saved.path / file, made / file)
    saved_tower(saved.path, saved.content)
    _link(saved.path / TOWER_FILE, made / TOWER_FILE)
    replaced = ReplacedRows(table, made)
    for rows, vectors in incoming.blocks():
        replaced.write(rows, {"weight": vectors, **fresh_state(update, vectors)})
    of_table = iter(replaced.finish())
    entries = [next(of_table) if e["table"] == table.name else e for e in saved.content["tables"]]
    kept = {k: saved.content["position"][k] for k in ("step", "epoch", "step_in_epoch", "rows", "losses")}
    position = asdict(Position(**kept))
    write_manifest(made / "manifest.json", {**saved.content, "tables": entries, "position": position})
    for folder in (made / "tables", made):
        _sync(folder)


def _link(source: Path, target: Path) -> None:
    """A second name of the same file, which nothing ever writes again; a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
