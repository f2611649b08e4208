"""The whole emulation, as a context."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from tests.emulated_cuda.device import Driver, emulated_device
from tests.emulated_cuda.groups import Collectives, emulated_groups
from tests.emulated_cuda.kernels import emulated_kernels


@dataclass(frozen=True)
class Emulation:
    """What can be looked at: which GPUs were asked what, and what went over their process groups."""

    driver: Driver
    collectives: Collectives


@contextmanager
def emulated_cuda(index: int = 0, count: int = 1) -> Iterator[Emulation]:
    """Has this thread run on `cuda:index` of `count` emulated GPUs.

    Inside, anything that mixes devices raises `device.DeviceMix`.
    """
    autocast = torch.autocast

    def of_cpu(device_type: str, *arguments: Any, **settings: Any) -> Any:
        return autocast("cpu", *arguments, **settings)  # which the emulated tensors go by

    with (
        emulated_device(index, count) as driver,
        emulated_kernels(),
        patch.object(torch, "autocast", of_cpu),
        emulated_groups() as collectives,
    ):
        yield Emulation(driver, collectives)
