"""Compiled kernels are run by so many threads and by the instructions of a level, as a test asks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch


@contextmanager
def kernels_set_to(library: Callable[[], Any], *, threads: int = 1, level: int | None = None) -> Iterator[None]:
    """Lets torch, and so the kernels of a library, have that many threads, and the kernels those instructions."""
    before, best = torch.get_num_threads(), library().kernel_level(-1)
    torch.set_num_threads(threads)
    if level is not None and library().kernel_level(level) != level:
        pytest.skip(f"this processor has no instructions of level {level}")
    try:
        yield
    finally:
        torch.set_num_threads(before)
        library().kernel_level(best)
