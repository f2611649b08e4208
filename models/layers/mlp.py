"""A multi-layer perceptron is the deep part of most towers."""

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from shardrec.models.layers.activations import Activation, activation, input_width
from shardrec.models.layers.cancelled import keep_at_zero
from shardrec.models.layers.logit import Logit
from shardrec.models.layers.moments import BatchNorm

Width = Annotated[int, Field(gt=0, lt=2**31)]
"""A width is a layer's number of units."""


class MLPConfig(BaseModel):
    """A run file sets this of an MLP, each of whose hidden layers is: linear, batch norm, activation, dropout."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    hidden: tuple[Width, ...] = Field(default=(400, 400, 400), max_length=1000)
    activation: Activation = "relu"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    batch_norm: bool = False


class MLP(nn.Module):
    """An MLP has hidden layers as `config` says, then one linear layer (`Logit`) to `out` columns.

    out=None leaves that one off, so that `width`, the columns that come out, is the last hidden size. padded: as in
    `Standardise`. Batch norm leaves the linear layer before it no bias: that is kept at 0.
    packed: what is computed instead of `layers` by who only scores (`packed.py`).
    """

    def __init__(self, width: int, config: MLPConfig, out: int | None = 1, *, padded: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size in config.hidden:
            inner = input_width(config.activation, size)
            linear = nn.Linear(width, inner)
            layers.append(linear)
            if config.batch_norm:
                keep_at_zero(linear.bias)
                layers.append(BatchNorm(inner, padded=padded))
            layers.append(activation(config.activation, size, padded=padded))
            if config.dropout:
                layers.append(nn.Dropout(config.dropout))
            width = size
        if config.activation == "identity" and not config.dropout:
            for norm in [layer for layer in layers if isinstance(layer, BatchNorm)][:-1]:
                keep_at_zero(norm.bias)  # the next one's
        if out is not None:
            layers.append(Logit(width, out))
            width = out
        self.layers = nn.Sequential(*layers)
        self.width = width
        self.packed: list[Callable[[Tensor], Tensor]] | None = None

    @property
    def takes_away_shifts(self) -> bool:
        """Says whether a constant that is added to all rows of the input changes nothing in training."""
        return len(self.layers) > 1 and isinstance(self.layers[1], BatchNorm)

    def forward(self, *parts: Tensor) -> Tensor:
        """[n, columns in] -> [n, width]; of several parts [n, ...] the columns come side by side."""
        x = parts[0] if len(parts) == 1 else self._side_by_side(parts)
        if self.packed is None:
            return self.layers(x)
        for layer in self.packed:
            x = layer(x)
        return x

    def _side_by_side(self, parts: tuple[Tensor, ...]) -> Tensor:
        """Returns [n, columns in], for packed layers in one pass and in the first one's precision."""
        if self.packed is None:
            return torch.cat([part.flatten(1) for part in parts], 1)
        dtype = getattr(self.packed[0], "dtype", parts[0].dtype)
        widths = [part.shape[1:].numel() for part in parts]
        x = parts[0].new_empty(len(parts[0]), sum(widths), dtype=dtype)
        for part, columns in zip(parts, x.split(widths, 1), strict=True):
            columns.unflatten(1, part.shape[1:]).copy_(part)
        return x
