"""The library is loaded once; the files beside this one call its functions, each with the structs of one header."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor

from shardrec.models.layers.kernels.build import TOWERS

_by_torch: ContextVar[bool] = ContextVar("by_torch", default=False)


@cache
def library() -> Any:
    """Returns the loaded library, or None where there is none."""
    pointer, flag = ctypes.c_void_p, ctypes.c_int32
    functions: dict[str, list[Any]] = {
        "column_sums": [pointer] * 3,
        "dice": [pointer] * 3,
        "dice_sums": [pointer] * 5,
        "dice_moments": [pointer] * 4,
        "recurrence_forward": [pointer],
        "recurrence_backward": [pointer] * 3,
        "attention_forward": [pointer] * 3,
        "attention_backward": [pointer] * 6,
        "rows_forward": [pointer] * 3,
        "rows_backward": [pointer] * 7,
        "fm_forward": [*[pointer] * 4, flag],
        "fm_backward": [*[pointer] * 3, flag, pointer],
        "jagged_sums": [pointer, pointer],
        "jagged_gradients": [pointer] * 4,
        "layer_forward": [pointer, pointer, flag, pointer, pointer],
        "layer_backward": [pointer] * 3,
        "logit_forward": [pointer, pointer, ctypes.c_float, pointer],
        "logit_backward": [pointer] * 5,
    }
    threads = ctypes.c_int32
    return TOWERS.load({name: [*arguments, threads] for name, arguments in functions.items()})


def are_compiled(*tensors: Tensor) -> bool:
    """Says whether kernels compute of these: fp32 and bf16 on a CPU, outside of what is being exported or compiled."""
    return (
        all(x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) for x in tensors)
        and not (_by_torch.get() or torch.compiler.is_compiling())
        and library() is not None
    )


@contextmanager
def torch_alone() -> Iterator[None]:
    """Lets layers be computed by torch operations while this lasts, which others can record."""
    token = _by_torch.set(True)
    try:
        yield
    finally:
        _by_torch.reset(token)


def tower_form(device: torch.device) -> str:
    """Says by what towers are computed on a device: `compiled` kernels where there are some, else `torch` alone."""
    return "compiled" if device.type == "cpu" and library() is not None else "torch"
