"""Models' `Collective` (`models/metrics/collective.py`) is made of a process group here, of gloo or NCCL."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class ProcessGroupCollective:
    """The ranks of a process group exchange tensors; None is the default group.

    Tensors keep their dtype and device; bool travels as uint8. NCCL needs them on the rank's GPU.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = group if group is not None else dist.group.WORLD
        self._rank = dist.get_rank(self._group)
        self._world_size = dist.get_world_size(self._group)

    @property
    def rank(self) -> int:
        """Returns this rank's number in the group."""
        return self._rank

    @property
    def world_size(self) -> int:
        """Returns how many ranks the group has."""
        return self._world_size

    def sum(self, tensor: Tensor) -> Tensor:
        """Returns the elementwise sum of the ranks' tensors, which have one shape. The argument is left as it was."""
        total = tensor.clone()
        dist.all_reduce(total, group=self._group)
        return total

    def concatenate(self, tensor: Tensor) -> Tensor:
        """Returns all ranks' rows, in rank order; their number may differ between ranks and may be 0."""
        return self.exchange([tensor] * self._world_size)

    def exchange(self, parts: Sequence[Tensor]) -> Tensor:
        """Sends `parts[r]` to rank r; returns the rows received from all ranks, in rank order."""
        assert len(parts) == self._world_size
        first = parts[0]
        sent = torch.tensor([len(p) for p in parts], device=first.device)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self._group)
        sizes = received.tolist()
        packed = torch.cat(list(parts)).contiguous()
        wire = torch.uint8 if packed.dtype == torch.bool else packed.dtype
        result = torch.empty((sum(sizes), *first.shape[1:]), dtype=wire, device=first.device)
        dist.all_to_all_single(result, packed.to(wire), sizes, sent.tolist(), group=self._group)
        return result.to(first.dtype)
