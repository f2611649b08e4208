"""What memory there is."""

import psutil
import pytest
import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.sharding.planning.topology import CPU_RESERVE, Topology, available_memory


def test_memory_is_shared_by_local_ranks_less_a_reserve() -> None:
    there = available_memory()
    assert 0 < there <= psutil.virtual_memory().total
    one, four = Topology.here(1, 1, "cpu", reserve=0), Topology.here(4, 4, "cpu", reserve=0)
    assert one.memory_per_rank == pytest.approx(4 * four.memory_per_rank, rel=0.2)
    assert one.memory_per_rank == pytest.approx(Topology.here(1, 1, "cpu").memory_per_rank + CPU_RESERVE, rel=0.2)
    assert Topology.here(1, 1, "cpu", reserve=1 << 50).memory_per_rank == 0


def test_no_gpu() -> None:
    with pytest.raises(UserError, match=r"device is cuda, but torch finds no GPU here; set launch\.device to cpu"):
        Topology.here(1, 1, "cuda")
