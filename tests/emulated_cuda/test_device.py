"""The emulated GPU computes what the CPU does, and refuses what a GPU refuses."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.emulated_cuda.device import DeviceMix, DeviceTensor
from tests.emulated_cuda.emulated import emulated_cuda

pytestmark = pytest.mark.usefixtures("emulated")


@pytest.fixture
def emulated() -> Iterator[None]:
    with emulated_cuda():
        yield


def device(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device="cuda")


def test_tensors_say_where_they_are() -> None:
    made = device(1, 2)
    assert torch.cuda.is_available() and made.is_cuda and made.device == torch.device("cuda", 0)
    assert made.cpu().device == torch.device("cpu") and type(made.cpu()) is Tensor
    assert torch.zeros_like(made).is_cuda and not torch.zeros_like(made, device="cpu").is_cuda
    assert torch.nn.Linear(2, 1).to("cuda").weight.is_cuda


def test_gradients_are_those_of_the_cpu() -> None:
    weight = device(1, 2).requires_grad_()
    (weight.square() * device(3, 4)).sum().backward()
    assert weight.grad is not None and weight.grad.is_cuda
    assert weight.grad.tolist() == [6, 16]


def test_gradients_cross_over() -> None:
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    weight.to("cuda").square().sum().cpu().backward()
    assert weight.grad is not None and not weight.grad.is_cuda
    assert weight.grad.tolist() == [2, 4]


MIXES: dict[str, Callable[[], Any]] = {
    "sum": lambda: device(1, 2) + torch.ones(2),
    "in place": lambda: torch.ones(2).add_(device(1, 2)),
    "cat": lambda: torch.cat([device(1), torch.ones(1)]),
    "product": lambda: torch.ones(2, 2) @ device(1, 2),
    "rows of a CPU table": lambda: torch.ones(2)[torch.tensor([0, 1], device="cuda")],
    "selected rows": lambda: device(1, 2).index_select(0, torch.tensor([0])),
}


@pytest.mark.parametrize("mix", MIXES)
def test_mixes_are_refused(mix: str) -> None:
    with pytest.raises(DeviceMix, match="same device"):
        MIXES[mix]()


class WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.ones(len(gradient))


def test_mixes_are_refused_in_backward() -> None:
    output = WrongBackward.apply(device(1, 2).requires_grad_()).sum()
    with pytest.raises(DeviceMix):
        output.backward()


def test_what_a_gpu_takes_together_passes() -> None:
    assert (device(1, 2) * torch.tensor(2.0)).tolist() == [2, 4]
    assert device(1, 2)[torch.tensor([1])].tolist() == [2]
    assert device(1, 2).copy_(torch.tensor([5.0, 6.0])).tolist() == [5, 6]


def test_numpy_takes_no_tensor_of_a_gpu() -> None:
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        device(1).numpy()


def test_groups_take_tensors_of_their_device() -> None:
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    try:
        summed = device(1, 2)
        dist.all_reduce(summed)
        assert isinstance(summed, DeviceTensor)
        with pytest.raises(DeviceMix, match="NCCL got a tensor of the CPU"):
            dist.all_reduce(torch.ones(2))
        host = dist.new_group(backend="gloo")
        dist.all_reduce(torch.ones(2), group=host)
        with pytest.raises(DeviceMix, match="gloo got a tensor of the GPU"):
            dist.all_reduce(device(1, 2), group=host)
    finally:
        dist.destroy_process_group()
