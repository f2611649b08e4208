"""Tests run on the CPU, whatever machine they run on."""

import subprocess
import sys

import torch

from tests.emulated_cuda.emulated import emulated_cuda

COUNTED = "import torch; print(torch.cuda.is_available(), torch.cuda.device_count())"


def test_no_gpu_is_seen() -> None:
    """Neither here nor in a process that a test starts."""
    assert (torch.cuda.is_available(), torch.cuda.device_count()) == (False, 0)
    counted = subprocess.run([sys.executable, "-c", COUNTED], capture_output=True, text=True, check=True)
    assert counted.stdout.split() == ["False", "0"]


def test_the_emulated_gpu_goes_as_it_came() -> None:
    with emulated_cuda():
        assert torch.cuda.is_available()
        assert torch.zeros(1, device="cuda").is_cuda
    assert not torch.cuda.is_available()
    assert not torch.zeros(1).is_cuda
