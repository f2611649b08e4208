"""What a row is worth says which one makes room: the least is taken first."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

NEVER = torch.iinfo(torch.int64).max
"""A row that is not to be taken is worth this."""

_BITS = 31
_LARGEST = (1 << _BITS) - 1  # counts are compared up to here
_AGED = 1 << 62


@dataclass(frozen=True)
class Worth:
    """Rows are worth what a policy says of their counts and last uses.

    lfu: by count, of equal ones by last use. lru: by last use, of equal ones by count. age: as lru, but NEVER less
    than `age` steps after the last use. With lfu and an age, rows of that age are worth less than all others. A free
    row is worth less than any other, one of this step's more.
    """

    evict: Literal["lfu", "lru", "age"] = "lfu"
    age: int | None = None

    def of(self, count: Tensor, last_use: Tensor, step: int) -> Tensor:
        """Returns what rows are worth, int64 of their shape, from counts and last uses, which it may overwrite."""
        count.clamp_(max=_LARGEST)
        if self.evict == "lru":
            return last_use.bitwise_left_shift_(_BITS).add_(count)
        named = last_use == step
        if self.age is None:
            return count.bitwise_left_shift_(_BITS).add_(last_use).masked_fill_(named, NEVER)
        is_aged = last_use <= step - self.age
        by_use = (last_use << _BITS).add_(count)
        if self.evict == "age":
            return by_use.masked_fill_(~is_aged, NEVER)
        by_count = count.bitwise_left_shift_(_BITS).add_(last_use).masked_fill_(named, NEVER)
        return torch.where(is_aged, by_use.sub_(_AGED), by_count)
