"""An unwritten file is one that a checkpoint lacks yet: it is written from live memory, or later from a copy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shardrec.data_pipeline.files.streams import settle
from shardrec.data_pipeline.stores.location import Location
from shardrec.sharding.checkpoints.entries import Entry, file_metadata
from shardrec.sharding.checkpoints.shard_files import write_file
from shardrec.sharding.tables.magnitudes import unsound_values

_ALIGNMENT = 64  # bytes, at which copies of any dtype may begin


@dataclass(frozen=True)
class UnwrittenFile:
    """An unwritten file knows its place, what its manifest entry says but for the tensors, and these.

    unsound: how many values of each tensor are, where they were counted as it was copied; None: writing counts them.
    """

    path: Location
    entry: Entry
    tensors: Mapping[str, Tensor]
    unsound: Mapping[str, int] | None = None

    @property
    def is_copied(self) -> bool:
        """Says whether the tensors are copies, which no step changes."""
        return self.unsound is not None

    @property
    def copy_bytes(self) -> int:
        """Returns the memory that copies of the tensors take."""
        return sum(_aligned(tensor) for tensor in self.tensors.values())

    def copied(self, memory: Tensor) -> "UnwrittenFile":
        """Returns the file with its tensors copied to bytes of the host's memory, and their values looked at."""
        copies, at = {}, 0
        for name, tensor in self.tensors.items():
            size = tensor.numel() * tensor.element_size()
            copies[name] = memory[at : at + size].view(tensor.dtype).view(tensor.shape)
            copies[name].copy_(tensor)
            at += _aligned(tensor)
        return replace(self, tensors=copies, unsound=unsound_values(copies))

    def written(self) -> Entry:
        """Writes the file; returns its whole manifest entry. Raises FileExistsError where a local file is there."""
        self.path.parent.mkdir(exist_ok=True)
        counts = not self.is_copied
        tensors = write_file(self.path, self.tensors, file_metadata(self.entry), counts_unsound=counts)
        return {**self.entry, "tensors": tensors}


def _aligned(tensor: Tensor) -> int:
    return -(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT


def write_files(files: Sequence[UnwrittenFile]) -> list[Entry]:
    """Writes files, which are on disk when this returns; returns their manifest entries."""
    entries = [file.written() for file in files]
    for folder in {file.path.parent for file in files}:
        settle(folder)
    return entries


class CopyMemory:
    """Copy memory holds what is written later; it has a bound, and is taken once for all checkpoints of a run.

    Memory that is new to a process costs several times what the copy does.
    """

    def __init__(self, most: int) -> None:
        self.most, self._memory = most, torch.empty(0, dtype=torch.uint8)

    @property
    def size(self) -> int:
        """Returns the bytes that it takes up."""
        return self._memory.nbytes

    def copied(self, files: Sequence[UnwrittenFile], beside: int = 0) -> list[UnwrittenFile]:
        """Returns files with those copied that find room, the largest first. Earlier copies are overwritten.

        beside: bytes of the bound that something else takes up.
        """
        places: dict[int, int] = {}
        end = 0
        for number in sorted(range(len(files)), key=lambda n: files[n].copy_bytes, reverse=True):
            if end + files[number].copy_bytes <= self.most - beside:
                places[number] = end
                end += files[number].copy_bytes
        if end > self.size:
            self._memory = torch.empty(0, dtype=torch.uint8)  # lets go of the smaller one first
            self._memory = torch.empty(end, dtype=torch.uint8)
        return [
            file.copied(self._memory[places[number] :]) if number in places else file
            for number, file in enumerate(files)
        ]
