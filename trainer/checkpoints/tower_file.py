"""A checkpoint's tower file holds the tower's parameters, buffers and optimizer state, by plan-independent names."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.streams import write_new
from shardrec.data_pipeline.stores.location import Location
from shardrec.sharding.checkpoints.unwritten_file import CopyMemory
from shardrec.trainer.checkpoints.manifest import TOWER_FILE, file_entry
from shardrec.trainer.session.session import Session
from shardrec.trainer.session.tower import MODEL

OTHER_MODEL = "another model, or of this one with other settings or features"


@dataclass(frozen=True)
class UnwrittenTower:
    """An unwritten tower is the content of a tower file, and where that goes. is_copied: it may be written later."""

    path: Location
    data: bytes
    is_copied: bool

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], path: Location, memory: CopyMemory | None = None) -> "UnwrittenTower":
        """Takes a tower as it is now. tensors: as `Session.tower_tensors` names them. memory: has to have the room."""
        whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        data = save(whole)  # not `save_file`, whose files nobody else may read
        return cls(path, data, memory is not None and len(data) <= memory.most)

    def written(self) -> dict[str, Any]:
        """Writes the file, on disk or in its store when this returns; returns what the manifest says of it."""
        write_new(self.path, lambda file: file.write(memoryview(self.data)))
        return file_entry(self.data)


def saved_tower(checkpoint: Location, content: Mapping[str, Any]) -> dict[str, Tensor]:
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
    """Returns a saved tower's parameters and buffers, without optimizer state, by the names that its model has."""
    kinds = (f"tower/{MODEL}", f"tower_buffer/{MODEL}")
    return {name.removeprefix(kind): t for kind in kinds for name, t in saved.items() if name.startswith(kind)}


def restore_tower(checkpoint: Location, saved: Mapping[str, Tensor], session: Session) -> None:
    """Fills a session's tower from a saved one, `saved` in `checkpoint`. Raises UserError for another model's."""
    live = session.tower_tensors()
    for name in sorted(set(saved) ^ set(live)):
        side, other = ("the checkpoint", "the model") if name in saved else ("the model", "the checkpoint")
        why = "another optimizer.tower" if name.startswith("tower_optimizer/") else OTHER_MODEL
        raise UserError(f"{checkpoint}: {name} is in {side} but not in {other}; is it a checkpoint of {why}?")
    for name, tensor in live.items():
        if saved[name].shape != tensor.shape:
            raise UserError(
                f"{checkpoint}: {name} is {list(saved[name].shape)}, the model's is {list(tensor.shape)}; "
                f"is it a checkpoint of {OTHER_MODEL}?"
            )
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(saved[name])
