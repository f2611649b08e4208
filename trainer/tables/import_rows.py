"""Rows from Parquet are imported into a copy of a run: a new run folder whose one checkpoint differs in one table."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.reading.finding import find_files
from shardrec.sharding.checkpoints.entries import Entry
from shardrec.sharding.checkpoints.id_maps import write_id_maps
from shardrec.sharding.checkpoints.replaced_rows import ReplacedRows
from shardrec.sharding.checkpoints.saved_tables import BLOCK_BYTES, SavedTable
from shardrec.sharding.tables.first_values_by_id import draw_rows
from shardrec.sharding.tables.live import DTYPES
from shardrec.sharding.updates.choose import row_update
from shardrec.trainer.checkpoints.linked_files import link
from shardrec.trainer.checkpoints.manifest import TOWER_FILE, write_manifest
from shardrec.trainer.checkpoints.position import Position
from shardrec.trainer.checkpoints.saved_model import DeclaredTable, SavedModel
from shardrec.trainer.checkpoints.tower_file import saved_tower
from shardrec.trainer.config.load import load, read
from shardrec.trainer.config.paths import absolute_folder
from shardrec.trainer.config.trust import note
from shardrec.trainer.run_folder.atomic import check_out, new_folder, write_atomically
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.run_files import CHECKPOINTS
from shardrec.trainer.tables.export import ID, VECTOR
from shardrec.trainer.tables.ids import DynamicRowFinder, RowFinder, TableIds
from shardrec.trainer.tables.incoming_rows import IncomingRows

_KEPT = ("step", "epoch", "step_in_epoch", "rows", "losses")  # what of a run's position the copy takes over


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

    Their optimizer state is that of a first step; all other rows stay as they are, bit for bit. Ids that have no row of
    a dynamic table get a free one, in all tables of the id space. The best evaluation so far and early stopping are
    forgotten. Returns what was done, in figures. Raises UserError for what is wrong with the data, the checkpoint or
    `out`; then nothing is left behind.
    """
    folder, out = RunFolder.open(run_folder), absolute_folder(out)
    saved = SavedModel.of(folder, step)
    step = saved.step
    table, id_map = saved.table(name), saved.id_map(saved.table(name))
    declared = DeclaredTable.all(folder, _sharing(saved, table))
    for sharing in declared:
        _check_declared(folder, declared[sharing], saved.table(sharing))
    ids = TableIds.of(folder, declared[name].features, table.num_embeddings, id_map=id_map, by_number=by_number)
    check_out(out)
    finder = ids.finder(saved.content["position"]["step"] - 1)  # that of the last update
    incoming = IncomingRows(find_files(data), table, ids.kind, finder, columns)
    checked = incoming.check_ids(skip_unknown=skip_unknown)
    copied = _Copied(saved, declared, name, incoming, finder, folder.config().trainer.seed)
    facts = {"table": name, "rows": checked.rows, "of": table.num_embeddings, "from": folder.address}
    with new_folder(out) as temporary:
        made = RunFolder(temporary)
        _copy_run(folder, made, out.resolve())
        copied.write(temporary / CHECKPOINTS / f"step-{step}")
        made.record("import", step, facts)
    note(read(RunFolder(out).config_file), out)
    done = {"step": step, "ids": ids.kind, "why": ids.why, "new": len(copied.fresh)}
    return facts | done | asdict(checked)


def _sharing(saved: SavedModel, table: SavedTable) -> list[str]:
    """Returns the names of the tables in which an id has the same row: those of one id space, a fixed table itself."""
    return [n for n, t in saved.tables.items() if t is table or (table.dynamic and t.dynamic == table.dynamic)]


def _check_declared(folder: RunFolder, declared: DeclaredTable, saved: SavedTable) -> None:
    """Raises UserError where a run's configuration is of other tables than its checkpoint."""
    table, state = declared.table, sorted(row_update(declared.table).state_shapes(1, 1))
    assert table.optimizer is not None
    dynamic = table.dynamic.name if table.dynamic else None
    wanted = (table.num_embeddings, table.embedding_dim, table.dtype, table.optimizer.name, state, dynamic)
    tensors = sorted([*saved.tensors][1:])
    held = (saved.num_embeddings, saved.embedding_dim, saved.dtype, saved.optimizer, tensors, saved.dynamic)
    if wanted != held:
        where = f"{saved.folder}: table {saved.name!r}"
        raise UserError(f"{where} is {held} there and {wanted} by {folder.config_file}; keep both of one run together")


def _copy_run(folder: RunFolder, made: RunFolder, final: Path) -> None:
    """Copies what of a run folder is not of one training: settings, schema and vocabularies."""
    made.logs.mkdir(parents=True)
    (made.path / CHECKPOINTS).mkdir()
    config = load(folder.config_file).model_copy(update={"run": str(final)})
    write_atomically(made.config_file, config.dump())
    shutil.copyfile(folder.schema_file, made.schema_file)
    schema = folder.schema()
    for path in schema.named_files:
        if (folder.path / path).exists():
            (made.path / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder.path / path, made.path / path)


class _Copied:
    """A copied checkpoint has other rows in one table, and in the tables that share its ids the rows of new ids."""

    def __init__(
        self,
        saved: SavedModel,
        declared: Mapping[str, DeclaredTable],
        name: str,
        incoming: IncomingRows,
        finder: RowFinder | DynamicRowFinder,
        seed: int,
    ) -> None:
        self._saved, self._declared, self._name, self._incoming, self._seed = saved, declared, name, incoming, seed
        self._id_map = finder.id_map if isinstance(finder, DynamicRowFinder) else None
        self.fresh = finder.fresh if isinstance(finder, DynamicRowFinder) else torch.empty((0, 2), dtype=torch.int64)

    def write(self, made: Path) -> None:
        """Makes the folder `made`. What stays as it is becomes hard links, where these can be made."""
        saved, changed = self._saved, [self._name]
        if len(self.fresh):
            changed = list(self._declared)
        (made / "tables").mkdir(parents=True)
        for name, table in saved.tables.items():
            for file in table.file_sizes() if name not in changed else ():
                link(saved.path / file, made / file)
        saved_tower(saved.path, saved.content)
        link(saved.path / TOWER_FILE, made / TOWER_FILE)
        entries = {name: iter(self._replaced(name, made)) for name in changed}
        content = dict(saved.content) | {
            "tables": [next(entries[e["table"]]) if e["table"] in entries else e for e in saved.content["tables"]],
            "id_maps": self._id_maps(made),
            "position": asdict(Position(**{k: saved.content["position"][k] for k in _KEPT})),
        }
        write_manifest(made / "manifest.json", content)

    def _replaced(self, name: str, made: Path) -> list[Entry]:
        """Copies a table with its new rows; returns the entries of the copy."""
        table = self._declared[name].table
        update, replaced = row_update(table), ReplacedRows(self._saved.tables[name], made)
        if name == self._name:
            for rows, vectors in self._incoming.blocks():
                replaced.write(rows, {"weight": vectors, **update.fresh_state(vectors)})
            return replaced.finish()
        for part in self.fresh.split(max(1, BLOCK_BYTES // (4 * table.embedding_dim))):
            weight = draw_rows(table, self._seed, part[:, 1])
            replaced.write(part[:, 0].numpy(), {"weight": weight.to(DTYPES[table.dtype]), **update.fresh_state(weight)})
        return replaced.finish()

    def _id_maps(self, made: Path) -> dict[str, Any]:
        """Writes the id map that has new ids, links the others; returns what the manifest says of them."""
        saved = self._saved
        changed = {self._id_map.name: self._id_map} if self._id_map is not None and len(self.fresh) else {}
        for name, id_map in saved.id_maps.items():
            for part in id_map.parts if name not in changed else ():
                for file in part.file_sizes():
                    link(saved.path / file, made / file)
        return saved.content.get("id_maps", {}) | write_id_maps(made, changed)
