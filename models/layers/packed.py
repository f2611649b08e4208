"""MLPs that only score compute each layer, ReLU included, as one oneDNN operator on weights laid out once.

A product of fresh weights lays them out anew for every batch, and casts them under autocast. oneDNN's operators are
those that TorchInductor compiles inference to; where there are none, or they refuse, layers stay as they are.
"""

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from shardrec.models.layers.mlp import MLP

Layer = Callable[[Tensor], Tensor]


@contextmanager
def packed(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Lets the MLPs of a module compute with packed weights while this lasts, in which no weight may change.

    dtype: what their layers, all but the logit, compute in. They are in evaluation mode, without gradients, on CPU.
    """
    mlps = [mlp for mlp in module.modules() if isinstance(mlp, MLP)] if _is_supported(dtype) else []
    for mlp in mlps:
        mlp.packed = _layers(mlp, dtype)
    try:
        yield
    finally:
        for mlp in mlps:
            mlp.packed = None


def _layers(mlp: MLP, dtype: torch.dtype) -> list[Layer]:
    """Returns what an MLP's layers do in evaluation."""
    layers: list[Layer] = []
    of_mlp = [layer for layer in mlp.layers if not isinstance(layer, nn.Dropout)]
    for layer, follower in zip(of_mlp, [*of_mlp[1:], None], strict=True):
        if type(layer) is nn.Linear:
            attribute = "relu" if isinstance(follower, nn.ReLU) else "none"
            layers.append(_Product(layer.weight, layer.bias, dtype, attribute))
        elif not (isinstance(layer, nn.ReLU) and layers and isinstance(layers[-1], _Product)):
            layers.append(layer)
    return layers


class _Product:
    """A packed product is a linear layer and what follows it."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, attribute: str) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype))
        self._bias = None if bias is None else bias.detach().to(dtype)
        self.dtype, self._attribute = dtype, attribute

    def __call__(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            x.to(self.dtype), self._weight, self._bias, self._attribute, [], ""
        )
        return result


def _is_supported(dtype: torch.dtype) -> bool:
    """Tells whether this machine's oneDNN has the operators, by asking it."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    try:
        with torch.no_grad():
            zeros = torch.zeros(32, 32)  # whatever is drawn here would change what training draws
            _Product(zeros, None, dtype, "relu")(zeros)
    except (AttributeError, RuntimeError):
        return False
    return True
