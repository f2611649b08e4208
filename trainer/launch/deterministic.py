"""A run that is to be the same bit for bit has only operations that add numbers in one order."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.models.kernels.threads import torch_on_one_thread

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""A variable of cuBLAS, whose products have one order where it names buffers of a fixed size."""

_REFUSED = re.compile(r"(\S+) does not have a deterministic implementation")


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Has a device compute to the same bits in every run while this lasts, on a CPU with any number of threads.

    On a CPU torch's own operations have one thread, and compiled kernels all of them. Raises UserError for an operation
    that has no such form.
    """
    if device.type == "cpu":
        with torch_on_one_thread():
            yield
        return
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        refused = _REFUSED.search(str(error))
        if refused is None:
            raise
        line = f"trainer.deterministic: {refused[1]} has no form on {device.type} that adds in one order"
        raise UserError(f"{line}; leave it out, or choose a model or metric without it") from error
    finally:
        torch.use_deterministic_algorithms(before)
