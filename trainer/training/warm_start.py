"""A run may start from the tables and tower parameters of other runs, named by `init_from`.

Names and shapes are matched twice, on what the models declare before anything starts, and on what the checkpoints
hold when it is copied.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.stores.location import Location
from shardrec.models.base import Recommender
from shardrec.models.table_reads import declared_tables
from shardrec.sharding.checkpoints.copy_columns import SourceColumns, copy_tables
from shardrec.sharding.checkpoints.id_maps import check_alike
from shardrec.sharding.checkpoints.tables import kind_of_ids
from shardrec.sharding.updates.choose import row_update
from shardrec.trainer.checkpoints import checkpoint
from shardrec.trainer.checkpoints.manifest import read_manifest
from shardrec.trainer.checkpoints.tower_file import model_tensors, saved_tower
from shardrec.trainer.checkpoints.unsound_values import UnsoundValuesError, check_sound
from shardrec.trainer.config.init_from import Contents, Copy, InitFrom, resolve_copies
from shardrec.trainer.config.sections import OptimizerConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.holds import Hold, hold_step
from shardrec.trainer.session.parameter_optimizers import kind_of, own_optimizers
from shardrec.trainer.session.session import Session
from shardrec.trainer.session.tower import MODEL


def model_contents(model: Recommender, where: str) -> Contents:
    """Returns what a model will hold: its tables, and its tower's parameters and persistent buffers."""
    tables = {name: (t.num_embeddings, t.embedding_dim) for name, t in model.tables.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return Contents(where, tables, shapes, frozenset(name for name, t in model.tables.items() if t.dynamic))


def check_id_maps(where: str, there: Recommender, here: Recommender) -> None:
    """Raises UserError where the id maps of a run that is to be taken whole do not fit this run's tables."""
    for name in there.tables.keys() & here.tables.keys():
        known, ids = there.tables[name].dynamic, here.tables[name].dynamic
        if (known and known.name) != (ids and ids.name):
            kinds = [kind_of_ids(d.name if d else None) for d in (known, ids)]
            raise UserError(
                f"init_from: table {name!r} is {kinds[0]} in {where}, which is to be taken whole, and {kinds[1]} in "
                "this run; declare it alike, or name `tables` and `parameters` without it"
            )
        if known and ids:
            check_alike(f"init_from: {where}:", ids.name, known.config, ids.config)


def check_whole(where: str, there: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Raises UserError where a run that is to be taken whole differs from this one; both as `whole_contents` says."""
    remedy = "name `tables` and `parameters` to take weights only"
    for what in (*(w for w in here if w not in there), *(w for w in there if w not in here)):
        side, other = ("this run", where) if what in here else (where, "this run")
        raise UserError(f"init_from: {what} is in {side} but not in {other}, which is to be taken whole; {remedy}")
    for what, found in there.items():
        if found != here[what]:
            raise UserError(
                f"init_from: {what} is {found} in {where}, which is to be taken whole, and {here[what]} in this run; "
                f"{remedy}"
            )


def whole_contents(model: Recommender, optimizers: OptimizerConfig) -> dict[str, str]:
    """Returns what a checkpoint will hold beside shapes, all of which a run that takes it whole must have alike."""
    contents = {}
    for name, table in declared_tables(model.inputs, optimizers.tables).items():
        assert table.optimizer is not None
        state = ", ".join(row_update(table).state_shapes(1, 1)) or "no state"
        contents[f"table {name!r}"] = f"{table.dtype} under {table.optimizer.name} ({state})"
    parameters = [name for name, _ in model.named_parameters()]
    own = {name: its for name, its in own_optimizers(parameters, optimizers.tower).items() if its is not None}
    by = {name: f"updated by {kind_of(its)}" for name, its in own.items()}
    contents |= {f"parameter {name!r}": by.get(name, "updated as most are") for name in model.state_dict()}
    if any(True for _ in model.parameters()):
        contents["optimizer.tower"] = kind_of(optimizers.tower)
    return contents


def start_from(sources: Sequence[InitFrom], session: Session) -> None:
    """Fills tables and tower as `init_from` says; what it does not name keeps its fresh values. All ranks call it.

    Raises UserError as `config.init_from.resolve` does, for checkpoints that are missing or damaged, and where training
    could not go on from what they hold.
    """
    environment = session.environment
    opened = [_Opened.of(source, environment) for source in sources]
    if sources[0].is_whole:
        position = checkpoint.restore(opened[0].folder, session, grow=True)
        for id_map in session.distributed.id_maps.values():
            id_map.start_over(position.step)
    else:
        target = model_contents(session.model, "this run")
        copies = resolve_copies([(s, o.contents) for s, o in zip(sources, opened, strict=True)], target)
        for one, wanted in zip(opened, copies, strict=True):
            names = {c.target: SourceColumns(c.source, c.start, c.scale) for c in wanted.tables}
            copy_tables(one.folder, one.entries, session.distributed.tables, names)
            _copy_parameters(session, one.tower, wanted.parameters)
    environment.barrier()  # the leading worker holds the checkpoints for all
    torch.manual_seed(checkpoint.generator_seed(session.config.trainer.seed, 0, environment.rank))
    try:
        check_sound(session)
    except UnsoundValuesError as error:
        raise UserError(f"init_from: {error}; start from another step or run") from None


@dataclass(frozen=True)
class _Opened:
    """A source's checkpoint: the best of a run, else its last. The leading worker's keeps it from being pruned."""

    folder: Location
    entries: list[dict[str, Any]]
    tower: dict[str, Tensor]
    contents: Contents
    hold: Hold | None

    @classmethod
    def of(cls, source: InitFrom, environment: Environment) -> "_Opened":
        assert source.run is not None, "stages are resolved before a run starts"
        folder = RunFolder.open(source.run)
        step, hold = hold_step(folder) if environment.leads else (None, None)
        at = folder.checkpoint(environment.broadcast(step))
        content = read_manifest(at)
        entries = content["tables"]
        tower = model_tensors(saved_tower(at, content))
        tables = {e["table"]: (e["num_embeddings"], e["embedding_dim"]) for e in entries}
        shapes = {name: tuple(tensor.shape) for name, tensor in tower.items()}
        dynamic = frozenset(e["table"] for e in entries if e.get("dynamic"))
        return cls(at, entries, tower, Contents(source.run, tables, shapes, dynamic), hold)


@torch.no_grad()
def _copy_parameters(session: Session, saved: dict[str, Tensor], copies: Sequence[Copy]) -> None:
    """Batch norm's moments and other buffers are copied as they are, whatever the scale."""
    parameters, buffers = session.distributed.tower_parameters(), session.distributed.tower_buffers()
    for copy in copies:
        values = saved[copy.source]
        values = values[..., copy.start : copy.stop] if values.dim() else values
        if (parameter := parameters.get(MODEL + copy.target)) is not None:
            parameter.copy_(values * copy.scale)
        else:
            buffers[MODEL + copy.target].copy_(values)
    session.tower.start_from_parameters()
