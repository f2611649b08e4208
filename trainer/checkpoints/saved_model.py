"""A saved model is a checkpoint named on the command line; its run declares the tables that it holds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shardrec.data_pipeline.declared.declaration import named
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.stores.location import Location, StorePath
from shardrec.models.table_reads import declared_tables, features_of
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.checkpoints.id_maps import SavedIdMap, saved_id_maps
from shardrec.sharding.checkpoints.saved_tables import SavedTable, saved_tables
from shardrec.trainer.checkpoints.manifest import read_manifest
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.holds import Hold, hold_step
from shardrec.trainer.run_folder.run_files import CHECKPOINTS
from shardrec.trainer.session.blueprint import build_model


@dataclass(frozen=True)
class SavedModel:
    """A saved model is a complete checkpoint: its manifest's `content`, `tables` by name, `id_maps` by id space.

    No training prunes it while it is open.
    """

    path: Location
    content: Mapping[str, Any]
    tables: Mapping[str, SavedTable]
    id_maps: Mapping[str, SavedIdMap]
    hold: Hold | None = field(default=None, repr=False, compare=False)

    @classmethod
    def open(cls, path: Location, step: int | None = None) -> "SavedModel":
        """Opens the checkpoint in `path`, or that of a run folder: of the step asked for, else the best, else the last.

        Raises UserError where there is none, or its manifest is damaged.
        """
        if (path / "manifest.json").exists() or (path / "tables").is_dir():
            if step is not None:
                raise UserError(f"{path}: a checkpoint, which --step cannot choose from; leave it out, or name the run")
            path = path.resolve()
            hold = Hold(path) if path.parent.name == CHECKPOINTS else None
            return replace(cls.read(path), hold=hold)
        if isinstance(path, StorePath):
            return cls.of(RunFolder.open(path.uri), step)
        if not any((path / name).exists() for name in ("config.yaml", "stages.yaml")):
            raise UserError(f"{path}: neither a run folder (no config.yaml in it) nor a checkpoint (no manifest.json)")
        return cls.of(RunFolder.open(path), step)

    @classmethod
    def of(cls, folder: RunFolder, step: int | None = None, *, newest: bool = False) -> "SavedModel":
        """Opens the checkpoint of the step asked for, else the best, or the `newest`, else the last.

        Raises UserError where there is none, or its manifest is damaged.
        """
        chosen, hold = hold_step(folder, step, newest=newest)
        return replace(cls.read(folder.checkpoint(chosen)), hold=hold)

    @classmethod
    def read(cls, checkpoint: Location) -> "SavedModel":
        """Reads the manifest of a checkpoint's folder. Raises UserError where it is missing or damaged."""
        content = read_manifest(checkpoint)
        id_maps = saved_id_maps(checkpoint, content.get("id_maps", {}))
        return cls(checkpoint, content, saved_tables(checkpoint, content["tables"]), id_maps)

    @property
    def step(self) -> int:
        """Returns how many updates had been made."""
        step: int = self.content["position"]["step"]
        return step

    def table(self, name: str) -> SavedTable:
        """Returns the saved table of a name. Raises UserError, with the nearest known name, where there is none."""
        return named("table", name, self.tables, f"{self.path}: ")

    def id_map(self, table: SavedTable) -> SavedIdMap | None:
        """Returns what gives rows of a table to ids; None for a fixed table, whose ids are rows."""
        return None if table.dynamic is None else self.id_maps[table.dynamic]


@dataclass(frozen=True)
class DeclaredTable:
    """A declared table is one as its run's model declares it; `features` are those whose ids are its rows."""

    table: EmbeddingTable
    features: tuple[str, ...]

    @classmethod
    def of(cls, folder: RunFolder, name: str) -> "DeclaredTable":
        """Returns a table of the run's model. Raises UserError where the run's model has none of this name."""
        return cls.all(folder, [name])[name]

    @classmethod
    def all(cls, folder: RunFolder, names: Iterable[str]) -> dict[str, "DeclaredTable"]:
        """Returns tables of the run's model, by name. Raises UserError where it does not have one of them."""
        config = folder.config()
        model = build_model(config, folder.schema())
        tables = declared_tables(model.inputs, config.optimizer.tables)
        missing = f"{folder.config_file}: its model has another set of tables; "
        return {name: cls(named("table", name, tables, missing), features_of(model.inputs, name)) for name in names}
