"""A layer in its compiled form, in fp32 or bf16, beside its torch form in float64, which is tested against loops."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from shardrec.models.kernels.sources import compiler
from shardrec.models.layers.kernels.library import library
from tests.kernel_settings import kernels_set_to

FORMS: list[dict[str, int]] = [{"threads": 2}, {"threads": 3}, {"threads": 4}]


def is_compiled() -> None:
    """Skips where there is no compiler."""
    if compiler() is None:
        pytest.skip("no C++ compiler here")
    assert library() is not None


set_to = partial(kernels_set_to, library)


def computed(layer: nn.Module, call: Callable[..., Tensor], inputs: Sequence[Tensor], gradient: Tensor) -> list[Tensor]:
    """Returns what call(layer, *inputs) returns, the inputs' and the parameters' gradients, and the layer's buffers.

    A copy of the layer is called, so that its buffers stay as they are.
    """
    layer, inputs = deepcopy(layer), [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
    result = call(layer, *inputs)
    result.backward(gradient.to(result.dtype))
    of_inputs = [x.grad for x in inputs if x.grad is not None]
    of_parameters = [p.grad for p in layer.parameters() if p.grad is not None]
    return [result.detach(), *of_inputs, *of_parameters, *layer.buffers()]


def assert_near(found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> None:
    """Asserts that arrays are equal to a share of their largest number, and to so much of each number."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        atol = tolerance * max(1.0, other.abs().max().item() if other.numel() else 0.0)
        torch.testing.assert_close(one.double(), other.double(), rtol=tolerance, atol=atol)
