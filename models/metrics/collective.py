"""What metrics need from other ranks, injected so that this layer knows no process group."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Collective(Protocol):
    """Exchanges between the ranks of a run. All ranks call the same methods in the same order.

    Tensors keep their dtype and device; ranks agree on dtype and on all dimensions but the first.
    """

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    def sum(self, tensor: Tensor) -> Tensor:
        """Elementwise sum over the ranks' tensors, which have one shape. The argument is left as it was."""
        ...

    def concatenate(self, tensor: Tensor) -> Tensor:
        """All ranks' rows, in rank order; the number of rows may differ between ranks and may be 0."""
        ...

    def exchange(self, parts: Sequence[Tensor]) -> Tensor:
        """Sends `parts[r]` to rank r; the rows received from all ranks, in rank order. `len(parts) == world_size`."""
        ...


class Alone:
    """The collective of a single process."""

    rank = 0
    world_size = 1

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def concatenate(self, tensor: Tensor) -> Tensor:
        return tensor

    def exchange(self, parts: Sequence[Tensor]) -> Tensor:
        (part,) = parts
        return part
