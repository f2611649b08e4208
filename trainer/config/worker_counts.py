"""`launch.workers` is a number of workers, or the fewest and the most that a run may have as its cluster changes."""

from typing import Annotated, Any

from pydantic import WrapValidator
from pydantic_core import PydanticKnownError

MOST = 65_536


def _checked(value: Any, _: Any) -> int | tuple[int, int]:
    """Returns a number, or two in order. Raises what pydantic takes for an error, in one line for either form."""
    if isinstance(value, list | tuple):
        whole = all(isinstance(count, int) and not isinstance(count, bool) for count in value)
        if not whole or len(value) != 2 or not 1 <= value[0] <= value[1] <= MOST:
            raise ValueError("expected a number, or the fewest and the most, say [2, 8]")
        return value[0], value[1]
    if isinstance(value, bool):
        return int(value)  # as pydantic does; where users write it, it is refused
    if not isinstance(value, int):
        raise PydanticKnownError("int_type")
    if value < 1:
        raise PydanticKnownError("greater_than", {"gt": 0})
    if value > MOST:
        raise PydanticKnownError("less_than_equal", {"le": MOST})
    return value


WorkerCounts = Annotated[int | tuple[int, int], WrapValidator(_checked)]
"""Says how many workers a run has: so many, or between two numbers, as many as there is room for."""
