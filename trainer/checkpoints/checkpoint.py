"""A checkpoint holds tables, tower, optimizers, generators and the place in the data; any plan takes it up."""

import base64
import zlib

import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.stores.location import Location
from shardrec.sharding.checkpoints.frozen import read_frozen_tables
from shardrec.sharding.checkpoints.id_maps import read_id_maps
from shardrec.sharding.checkpoints.tables import read_tables
from shardrec.trainer.checkpoints.manifest import read_manifest
from shardrec.trainer.checkpoints.position import Position
from shardrec.trainer.checkpoints.tower_file import restore_tower, saved_tower
from shardrec.trainer.launch.agreement import raise_alike
from shardrec.trainer.session.session import Session


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


def generator_state(device: torch.device) -> bytes:
    """Returns the state of this rank's own generator."""
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
