"""A collective is what metrics need of other ranks, injected so that this layer knows no process group."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Collective(Protocol):
    """A collective exchanges tensors between the ranks of a run, which call the same methods in the same order.

    Tensors keep their dtype and device; ranks agree on dtype and on all dimensions but the first.
    """

    @property
    def rank(self) -> int:
        """Returns this rank's number, from 0."""
        ...

    @property
    def world_size(self) -> int:
        """Returns how many ranks there are."""
        ...

    def sum(self, tensor: Tensor) -> Tensor:
        """Returns the elementwise sum over the ranks' tensors, which have one shape. The argument is left as it was."""
        ...

    def concatenate(self, tensor: Tensor) -> Tensor:
        """Returns all ranks' rows, in rank order; the number of rows may differ between ranks and may be 0."""
        ...

    def exchange(self, parts: Sequence[Tensor]) -> Tensor:
        """Sends `parts[r]` to each rank r; returns the rows received from all ranks, in rank order."""
        ...


class Alone:
    """A single process is alone: it gets back what it gives."""

    rank = 0
    world_size = 1

    def sum(self, tensor: Tensor) -> Tensor:
        """Returns the tensor itself."""
        return tensor

    def concatenate(self, tensor: Tensor) -> Tensor:
        """Returns the tensor itself."""
        return tensor

    def exchange(self, parts: Sequence[Tensor]) -> Tensor:
        """Returns the only part, which goes to this process."""
        (part,) = parts
        return part
