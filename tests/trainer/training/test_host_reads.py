"""How often the host reads values in one step of every model: on a GPU each read waits for the device.

On CPU those count too that a GPU has not: of rows and weights, which are on the host, and of checks that only a CPU
makes.
"""

from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shardrec.models import MODELS
from shardrec.trainer.benchmarks.gpu_check.sections.every_model import run_files_of_every_model
from shardrec.trainer.benchmarks.gpu_check.sections.host_reads import HostReads
from shardrec.trainer.config.load import load
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.trainer import Trainer

ON_THE_HOST = {"trainer/session/prepared.py": 1}
"""Live rows and their weights, of the batch before it moves."""
OF_THE_CPU = ("sharding/lookup/gradient_guard.py", "trainer/session/tower.py", "models/drn.py")
"""Whether gradients are finite, and whether a target network is due, which a GPU is not waited for."""
EVERYWHERE = {"trainer/training/unread_losses.py": 1}
"""The loss, before anything is updated by it."""


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    """{model: {file: reads}} of a second step: the first one of tables asks what they are."""
    environment = Environment.from_variables("cpu")
    found = {}
    with environment.group(60):
        for name, path in run_files_of_every_model(tmp_path_factory.mktemp("models")).items():
            config = load(path, [f"run={Path(path).with_suffix('')}", "launch.device=cpu"])
            trainer = Trainer(config, RunFolder.create(config, resume=False), environment)
            trainer.session.distributed.module.train()
            first, second = islice(trainer.loader.epoch(0), 2)
            trainer.train_step(first)
            with HostReads() as counted:
                trainer.train_step(second)
            trainer.reporter.close()
            found[name] = counted.by_file()
    return found


@pytest.mark.parametrize("name", MODELS)
def test_reads_of_a_step(name: str, reads: dict[str, dict[str, int]]) -> None:
    of_a_gpu = {file: count for file, count in reads[name].items() if file not in OF_THE_CPU}
    assert of_a_gpu == ON_THE_HOST | EVERYWHERE


class Counts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient * len(gradient.nonzero())


def test_what_is_a_read() -> None:
    values = torch.tensor([1.0, 0.0, 2.0])
    with HostReads() as reads:
        values.tolist(), (values[0].item(), bool(values.any())), values[values > 0], values.unique()
        torch.repeat_interleave(values, torch.tensor([1, 2, 1]))
        Counts.apply(values.requires_grad_()).sum().backward()
    kinds = {what: count for (_, what), count in reads.places.items()}
    once = dict.fromkeys(("tolist", "index by a mask", "_unique2", "repeat_interleave", "nonzero"), 1)
    assert kinds == once | {"_local_scalar_dense": 2}
    with HostReads() as reads:
        (values * 2).sum(), values[torch.tensor([0, 2])], torch.arange(3)
        torch.repeat_interleave(values, torch.tensor([1, 2, 1]), output_size=4)
    assert reads.total == 0
    values.detach().tolist()
    assert reads.total == 0  # it is over
