"""A frozen copy of a module is a network that no optimizer moves: a target network."""

from collections.abc import Iterator
from copy import deepcopy
from typing import TypeVar

from torch import Tensor, nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def frozen_copy(module: AnyModule) -> AnyModule:
    """Returns a copy whose parameters are persistent buffers, so that they are saved and moved but never trained."""
    copy = deepcopy(module)
    for inner in copy.modules():
        for name, parameter in list(inner.named_parameters(recurse=False)):
            delattr(inner, name)
            inner.register_buffer(name, parameter.detach().clone())
    return copy


def twins(copy: nn.Module, module: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields each tensor of a module's frozen copy, with the module's own parameter or buffer of that name."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, tensor in copy.named_buffers():
        yield tensor, own[name].detach()
