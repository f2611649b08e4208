"""What memory there is."""

import psutil
import pytest
import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.sharding.planning.topology import CPU_RESERVE, CUDA_RESERVE, Topology, available_memory
from tests.emulated_cuda.device import MEMORY
from tests.emulated_cuda.emulated import emulated_cuda

CPU = torch.device("cpu")


def test_memory_is_shared_by_local_ranks_less_a_reserve() -> None:
    there = available_memory()
    assert 0 < there <= psutil.virtual_memory().total
    one, four = Topology.here(1, 1, CPU, reserve=0), Topology.here(4, 4, CPU, reserve=0)
    assert one.memory_per_rank == pytest.approx(4 * four.memory_per_rank, rel=0.2)
    assert one.memory_per_rank == pytest.approx(Topology.here(1, 1, CPU).memory_per_rank + CPU_RESERVE, rel=0.2)
    assert Topology.here(1, 1, CPU, reserve=1 << 50).memory_per_rank == 0


def test_no_gpu() -> None:
    with pytest.raises(UserError, match=r"device is cuda, but torch finds no GPU here; set launch\.device to cpu"):
        Topology.here(1, 1, torch.device("cuda"))


def test_a_rank_asks_its_own_gpu_alone() -> None:
    """Before its GPU is the current one, too: whoever asks another opens a context there, and plans with its memory."""
    with emulated_cuda(index=1, count=2) as emulation:
        there = Topology.here(2, 2, torch.device("cuda", 1))
    assert emulation.driver.asked == {1}
    assert (there.device, there.memory_per_rank) == ("cuda", MEMORY - CUDA_RESERVE)


def test_memory_that_torch_keeps_for_later_is_free() -> None:
    with emulated_cuda() as emulation:
        emulation.driver.reserved, emulation.driver.allocated = 60 << 30, 3 << 30
        there = Topology.here(1, 1, torch.device("cuda", 0))
    assert there.memory_per_rank == MEMORY - (3 << 30) - CUDA_RESERVE
