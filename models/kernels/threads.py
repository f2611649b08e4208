"""Compiled kernels have as many threads as torch, unless torch's own operations are held to one.

Kernels add numbers in one order whatever their number of threads; torch's operations do not.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_own: int | None = None


def kernel_threads() -> int:
    """Returns how many threads a kernel is to have."""
    return _own or torch.get_num_threads()


@contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """Holds torch's own operations to one thread, and leaves kernels those that torch has."""
    global _own
    before, threads = _own, torch.get_num_threads()
    _own = kernel_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _own = before
        torch.set_num_threads(threads)
