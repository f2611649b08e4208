"""Memory that a finished run has freed is given back, so that the next one in this process may plan with it.

Tables hang in cycles; glibc and torch keep what was freed for the process's own next request.
"""

import ctypes
import gc

import torch

from shardrec.trainer.launch.environment import Environment


def give_back_freed_memory() -> None:
    """Frees what only cycles hold, and gives freed memory of the host and of GPUs back to the system."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's
        trim(0)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def watch_device_memory(environment: Environment) -> None:
    """Begins anew to look for the peak that `peak_device_memory` tells."""
    if environment.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(environment.device)


def peak_device_memory(environment: Environment) -> dict[str, int]:
    """Returns `peak_device_memory_bytes`, the most that torch held of any worker's GPU; {} on CPU.

    All workers call it alike.
    """
    if environment.device.type != "cuda":
        return {}
    held = torch.cuda.max_memory_reserved(environment.device)
    return {"peak_device_memory_bytes": max(environment.gather(held))}
