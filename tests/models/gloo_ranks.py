"""Two real gloo ranks, started once for all cases."""

import os
import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

WORLD_SIZE = 2


class GlooCollective:
    """`models.collective.Collective` over the default process group."""

    @property
    def rank(self) -> int:
        return dist.get_rank()

    @property
    def world_size(self) -> int:
        return dist.get_world_size()

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def concatenate(self, tensor: Tensor) -> Tensor:
        return self.exchange([tensor] * self.world_size)

    def exchange(self, parts: Sequence[Tensor]) -> Tensor:
        sizes = torch.tensor([len(part) for part in parts])
        received = torch.empty_like(sizes)
        dist.all_to_all_single(received, sizes)
        rows = parts[0].new_empty((int(received.sum()), *parts[0].shape[1:]))
        dist.all_to_all_single(rows, torch.cat(list(parts)), received.tolist(), sizes.tolist())
        return rows


Cases = dict[str, tuple[Callable[[Any, GlooCollective], Any], Any]]


def _rank(rank: int, folder: Path, cases: Cases) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=WORLD_SIZE)
    results = {name: function(case, GlooCollective()) for name, (function, case) in cases.items()}
    (folder / f"results-{rank}").write_bytes(pickle.dumps(results))
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # a gloo thread that outlives Python's shutdown may abort the process


def on_two_ranks(folder: Path, cases: Cases) -> list[dict[str, Any]]:
    """What `function(case, collective)` returned for every (function, case), by rank. Functions must be importable."""
    context = mp.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(rank, folder, cases)) for rank in range(WORLD_SIZE)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(240)
    assert [process.exitcode for process in ranks] == [0, 0]
    return [pickle.loads((folder / f"results-{rank}").read_bytes()) for rank in range(WORLD_SIZE)]
