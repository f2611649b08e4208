"""A checkpoint holds tables, tower, optimizers, generators and the place in the data; it is complete or absent.

Every rank streams its shards of the tables into `.step-N.tmp/`; when all are on disk, rank 0 adds the tower and, last,
`manifest.json` (which carries a checksum of itself and of every file), and renames the folder to `step-N`.
"""

import base64
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from safetensors.torch import save as serialized
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.file_errors import about
from shardrec.data_pipeline.files.owned_files import remove_files, remove_if_empty, remove_made
from shardrec.data_pipeline.files.whole_files import sync
from shardrec.sharding.checkpoints.frozen import read_frozen_tables
from shardrec.sharding.checkpoints.id_maps import merged_id_maps, read_id_maps, write_id_maps
from shardrec.sharding.checkpoints.tables import read_tables, write_tables
from shardrec.trainer.checkpoints.manifest import (
    FORMAT,
    MANIFEST,
    TOWER_FILE,
    file_entry,
    file_names,
    read_manifest,
    write_manifest,
)
from shardrec.trainer.checkpoints.position import Position
from shardrec.trainer.checkpoints.set_aside import moved_aside
from shardrec.trainer.checkpoints.unsound_values import UnsoundValuesError, unsound_entries, unsound_tower
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.holds import held_steps
from shardrec.trainer.session.session import Session
from shardrec.trainer.session.tower import MODEL


def save(folder: RunFolder, session: Session, position: Position, order: Mapping[str, Any]) -> None:
    """Writes `checkpoints/step-N`. A complete `step-N` is not written again. All workers call it alike.

    order: what decides which rows make which batch (`Loader.order_state`). Raises UnsoundValuesError, on all workers
    and with nothing left behind, where training could not go on from what would be saved.
    """
    environment, distributed = session.environment, session.distributed
    final = folder.checkpoint(position.step)
    if environment.broadcast((final / MANIFEST).exists()):
        return
    temporary = folder.checkpoints / f".step-{position.step}.tmp"
    if environment.leads:
        remove_unfinished(folder)
        temporary.mkdir(parents=True)
    environment.barrier()
    entries = environment.gather(write_tables(temporary, distributed.tables))
    id_maps = environment.gather(write_id_maps(temporary, distributed.id_maps))
    generators = environment.gather(_generator_state(environment.device))
    of_tower = environment.broadcast(unsound_tower(session) if environment.leads else None)
    if unsound := unsound_entries(entry for of_rank in entries for entry in of_rank) | of_tower:
        if environment.leads:
            remove_made(temporary)
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
            "tower": _write_tower(temporary / TOWER_FILE, session),
            "generators": [base64.b64encode(state).decode() for state in generators],
        }
        write_manifest(temporary / MANIFEST, content)
        sync(temporary)
        if final.exists():  # without a manifest, as a copy that was broken off leaves it
            moved_aside(final)
        temporary.rename(final)
        sync(folder.checkpoints)
    environment.barrier()


def restore(checkpoint: Path, session: Session, *, grow: bool = False) -> Position:
    """Fills a session's tables, tower and optimizers from any world size and plan; returns the position.

    All workers call it alike. `grow`: tables may have more rows than the checkpoint's; the others keep their fresh
    values. Raises UserError where the checkpoint is damaged, or another model's.
    """
    position = fill(checkpoint, session, grow=grow)
    session.environment.barrier()  # some read far larger tables, for whom a step's collectives would not wait
    return position


def fill(checkpoint: Path, session: Session, *, grow: bool = False) -> Position:
    """Does one worker's part of `restore`, and waits for nobody."""
    content = read_manifest(checkpoint)
    environment, distributed = session.environment, session.distributed
    if any(live.table.frozen for live in distributed.tables.values()):
        read_frozen_tables(checkpoint, content["tables"], distributed.tables)
    else:
        read_tables(checkpoint, content["tables"], distributed.tables, grow=grow)
    read_id_maps(checkpoint, content.get("id_maps", {}), distributed.id_maps, leads=environment.leads)
    _read_tower(checkpoint, saved_tower(checkpoint, content), session)
    position = Position(**content["position"])
    if (content["world_size"], content["device"]) == (environment.world_size, environment.device.type):
        _set_generator_state(environment.device, base64.b64decode(content["generators"][environment.rank]))
    else:
        torch.manual_seed(generator_seed(session.config.trainer.seed, position.step, environment.rank))
    return position


def generator_seed(seed: int, step: int, rank: int) -> int:
    """Returns the seed of a rank's own generator (dropout) at a step."""
    return zlib.crc32(f"generator {seed} {step} {rank}".encode())


def prune(folder: RunFolder, keep: int, *spared: int | None) -> None:
    """Deletes all but the last `keep` checkpoints, those of steps to be spared, and those that somebody reads."""
    spared = (*spared, *held_steps(folder))
    for step in folder.steps()[:-keep]:
        if step not in spared:
            doomed = folder.checkpoints / f".step-{step}.old"
            folder.checkpoint(step).rename(doomed)  # a half-deleted folder must not look complete
            if step in held_steps(folder):  # a reader came at the same moment, and waits for it
                doomed.rename(folder.checkpoint(step))
            else:
                _remove(doomed, folder.checkpoint(step))


def set_aside(folder: RunFolder, steps: Iterable[int], *, remove: bool = False) -> None:
    """Renames checkpoints to `step-N.diverged`, so that no run goes on from them; `remove`: deletes them."""
    for step in steps:
        place = folder.checkpoint(step)
        if remove:
            _remove(place, place)
            continue
        moved_aside(place, "diverged")


def remove_unfinished(folder: RunFolder) -> None:
    """Deletes what a killed run left half-written or half-deleted."""
    for path in folder.checkpoints.iterdir():
        match = re.fullmatch(r"\.step-(\d+)\.(tmp|old)", path.name)
        if match is None or path.is_symlink():
            continue
        if match[2] == "tmp":
            remove_made(path)
        else:
            _remove(path, folder.checkpoint(int(match[1])))


def _remove(doomed: Path, place: Path) -> None:
    """Deletes the files that a manifest names; what else lies among them goes back to where it was."""
    with suppress(UserError):
        remove_files(doomed, file_names(read_manifest(doomed)))
        remove_files(doomed, [MANIFEST])
    remove_if_empty(doomed)
    if doomed.exists() and not place.exists():
        doomed.rename(place)


# ---------------------------------------------------------------- the tower


def _write_tower(path: Path, session: Session) -> dict[str, Any]:
    tensors = {k: t.detach().cpu().contiguous().clone() for k, t in session.tower_tensors().items()}
    data = serialized(tensors)  # not `save_file`, whose files nobody else may read
    with about(path), path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return file_entry(path)


def saved_tower(checkpoint: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns a checkpoint's tower with buffers and optimizer, by plan-independent names; `content`: its manifest's.

    Raises UserError for a file that is missing or damaged.
    """
    path, entry = checkpoint / TOWER_FILE, content["tower"]
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: missing; the checkpoint is damaged") from None
    if len(data) != entry["bytes"] or zlib.crc32(data) != entry["crc32"]:
        raise UserError(f"{path}: damaged (size or checksum differ from the manifest's); delete {path.parent}")
    try:
        return load(data)
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error}); use another checkpoint") from None


def model_tensors(saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A saved tower's parameters and buffers by the names that its model gives them, without optimizer state."""
    kinds = (f"tower/{MODEL}", f"tower_buffer/{MODEL}")
    return {name.removeprefix(kind): t for kind in kinds for name, t in saved.items() if name.startswith(kind)}


def _read_tower(checkpoint: Path, saved: Mapping[str, Tensor], session: Session) -> None:
    live = session.tower_tensors()
    for name in sorted(set(saved) ^ set(live)):
        side, other = ("the checkpoint", "the model") if name in saved else ("the model", "the checkpoint")
        why = "another optimizer.tower.name" if name.startswith("tower_optimizer/") else "another model"
        raise UserError(f"{checkpoint}: {name} is in {side} but not in {other}; is it a checkpoint of {why}?")
    for name, tensor in live.items():
        if saved[name].shape != tensor.shape:
            raise UserError(
                f"{checkpoint}: {name} is {list(saved[name].shape)}, the model's is {list(tensor.shape)}; "
                "is it a checkpoint of another model?"
            )
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(saved[name])


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
