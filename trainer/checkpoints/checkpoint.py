"""A checkpoint holds tables, tower, optimizers, generators and the place in the data; it is complete or absent.

Every rank streams its shards of the tables into `.step-N.tmp/`; when all are on disk, rank 0 adds the tower and, last,
`manifest.json` (which carries a checksum of itself and of every file), and renames the folder to `step-N`. In a store,
which renames nothing, they write to `step-N` itself: it is a checkpoint once the manifest is there.
"""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.streams import remove_tree
from shardrec.data_pipeline.stores.location import Location
from shardrec.sharding.checkpoints.frozen import read_frozen_tables
from shardrec.sharding.checkpoints.id_maps import merged_id_maps, read_id_maps, write_id_maps
from shardrec.sharding.checkpoints.tables import read_tables, write_tables
from shardrec.trainer.checkpoints.manifest import FORMAT, MANIFEST, TOWER_FILE, read_manifest, write_manifest
from shardrec.trainer.checkpoints.position import Position
from shardrec.trainer.checkpoints.removal import remove_unfinished
from shardrec.trainer.checkpoints.tower_file import restore_tower, saved_tower, write_tower
from shardrec.trainer.checkpoints.unfinished import begun, finished
from shardrec.trainer.checkpoints.unsound_values import UnsoundValuesError, unsound_entries, unsound_tower
from shardrec.trainer.launch.agreement import raise_alike
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.session.session import Session


def save(folder: RunFolder, session: Session, position: Position, order: Mapping[str, Any]) -> None:
    """Writes `checkpoints/step-N`. A complete `step-N` is not written again. All workers call it alike.

    order: what decides which rows make which batch (`Loader.order_state`). Raises UnsoundValuesError, on all workers
    and with nothing left behind, where training could not go on from what would be saved.
    """
    environment, distributed = session.environment, session.distributed
    final = folder.checkpoint(position.step)
    if environment.broadcast((final / MANIFEST).exists()):
        return
    temporary = begun(folder, position.step)
    if environment.leads:
        remove_unfinished(folder)
        temporary.mkdir(parents=True)
    environment.barrier()
    entries = environment.gather(write_tables(temporary, distributed.tables))
    id_maps = environment.gather(write_id_maps(temporary, distributed.id_maps))
    generators = environment.gather(_generator_state(environment.device))
    of_tower = environment.broadcast(unsound_tower(session.tower_tensors()) if environment.leads else None)
    if unsound := unsound_entries(entry for of_rank in entries for entry in of_rank) | of_tower:
        if environment.leads:
            remove_tree(temporary)
        environment.barrier()
        raise UnsoundValuesError(unsound)
    if environment.leads:
        content = {
            "format": FORMAT,
            "world_size": environment.world_size,
            "device": environment.device.type,
            "position": asdict(position),
            "order": dict(order),
            "tables": [entry for of_rank in entries for entry in of_rank],
            "id_maps": merged_id_maps(id_maps),
            "tower": write_tower(temporary / TOWER_FILE, session.tower_tensors()),
            "generators": [base64.b64encode(state).decode() for state in generators],
        }
        folder.check_owned()
        write_manifest(temporary / MANIFEST, content)
        finished(temporary, final)
    environment.barrier()


def restore(checkpoint: Location, session: Session, *, grow: bool = False) -> Position:
    """Fills a session's tables, tower and optimizers from any world size and plan; returns the position.

    All workers call it alike. `grow`: tables may have more rows than the checkpoint's; the others keep their fresh
    values. Raises UserError, on all workers alike, where some worker finds the checkpoint damaged, or another model's.
    """
    position, error = None, None
    try:
        position = _restore_share(checkpoint, session, grow=grow)
    except UserError as found:
        error = found
    raise_alike(session.environment, error)  # some read far larger tables, for whom a step's collectives would not wait
    assert position is not None
    return position


def _restore_share(checkpoint: Location, session: Session, *, grow: bool) -> Position:
    """Restores what one worker has of the session; waits for nobody."""
    content = read_manifest(checkpoint)
    environment, distributed = session.environment, session.distributed
    if any(live.table.frozen for live in distributed.tables.values()):
        read_frozen_tables(checkpoint, content["tables"], distributed.tables)
    else:
        read_tables(checkpoint, content["tables"], distributed.tables, grow=grow)
    read_id_maps(checkpoint, content.get("id_maps", {}), distributed.id_maps, leads=environment.leads)
    restore_tower(checkpoint, saved_tower(checkpoint, content), session)
    position = Position(**content["position"])
    if (content["world_size"], content["device"]) == (environment.world_size, environment.device.type):
        _set_generator_state(environment.device, base64.b64decode(content["generators"][environment.rank]))
    else:
        torch.manual_seed(generator_seed(session.config.trainer.seed, position.step, environment.rank))
    return position


def generator_seed(seed: int, step: int, rank: int) -> int:
    """Returns the seed of a rank's own generator (dropout) at a step."""
    return zlib.crc32(f"generator {seed} {step} {rank}".encode())


def _generator_state(device: torch.device) -> bytes:
    state = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
    return state.numpy().tobytes()


def _set_generator_state(device: torch.device, state: bytes) -> None:
    tensor = torch.frombuffer(bytearray(state), dtype=torch.uint8) if state else torch.empty(0, dtype=torch.uint8)
    try:
        if device.type == "cuda":
            torch.cuda.set_rng_state(tensor, device)
        else:
            torch.set_rng_state(tensor)
    except RuntimeError as error:
        raise UserError(f"the checkpoint's generator cannot be taken up: {error}; use another checkpoint") from None
