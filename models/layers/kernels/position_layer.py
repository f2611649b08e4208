"""The kernel of linear layers over positions takes tensors; its structs are those of `position_layer.h`."""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from shardrec.models.kernels.threads import kernel_threads
from shardrec.models.layers.kernels.dice import gradients_of_columns
from shardrec.models.layers.kernels.library import library

_LANES = 16


class _Layer(ctypes.Structure):
    _fields_ = (
        ("offsets", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("rows", "inputs", "outputs")),
        *((name, ctypes.c_void_p) for name in ("weight", "turned", "bias", "values", "vectors", "before")),
        ("bf16", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("mean", "scale", "alpha")),
        ("by_bf16", ctypes.c_int32),
    )


class _Gradient(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("results", "gradient")),
        ("bf16", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("level", "slope")),
    )


class _Gradients(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in ("of_weight", "of_bias", "of_values", "of_vectors", "of_before", "of_dice")
    )


class Pairs(NamedTuple):
    """Pairs are positions' values k [T, D] beside vectors q [B, D] of their rows, fp32: a layer has [k; k * q]."""

    values: Tensor
    vectors: Tensor


class DiceOf(NamedTuple):
    """A layer has Dice of s [T, C], fp32 or bf16; mean, scale and alpha are [C]."""

    s: Tensor
    mean: Tensor
    scale: Tensor
    alpha: Tensor


class ResultGradient(NamedTuple):
    """The gradient of a layer's results [T, out] is gradient + level + slope * results, where level is not None."""

    results: Tensor
    gradient: Tensor
    level: Tensor | None = None
    slope: Tensor | None = None


class LayerGradients(NamedTuple):
    """Gradients of a layer: of weight, of bias, and of `Pairs` both or of `DiceOf` all four, s for given moments."""

    weight: Tensor
    bias: Tensor
    before: tuple[Tensor, ...]


class PositionLayerKernel:
    """The kernel has a layer W x + b over the T positions of B rows; nothing but its results is as long as T.

    offsets: [B + 1]; weight: [out, in]; bias: [out], of `Pairs` [B, out]; all fp32. by_bf16: products may round their
    factors to bf16. Sums are the same for any number of threads.
    """

    def __init__(
        self, offsets: Tensor, weight: Tensor, bias: Tensor, before: Pairs | DiceOf, *, by_bf16: bool = False
    ) -> None:
        self._outputs, self._inputs = weight.shape
        self._bias = bias.contiguous()
        self._pairs = Pairs(*(x.contiguous() for x in before)) if isinstance(before, Pairs) else None
        self._dice = DiceOf(*(x.contiguous() for x in before)) if isinstance(before, DiceOf) else None
        first = before[0]
        self._memory = (
            *(offsets.long().contiguous(), F.pad(weight.T, (0, -self._outputs % _LANES)).contiguous()),
            F.pad(weight, (0, -self._inputs % _LANES)).contiguous(),
        )
        start, *matrices = _places(*self._memory, self._bias)
        s, *dice = _places(*(self._dice or [None] * 4))
        self._layer = _Layer(
            *(start, len(offsets) - 1, self._inputs, self._outputs, *matrices, *_places(*(self._pairs or [None] * 2))),
            *(s, first.dtype == torch.bfloat16, *dice, by_bf16),
        )
        self._positions = len(first)

    def forward(self, dtype: torch.dtype, centre: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Returns the results in fp32 or bf16, and by `centre` [out] the sums of results - centre and of its square."""
        results = torch.empty(self._positions, self._outputs, dtype=dtype)
        sums = None if centre is None else torch.empty(2 * self._outputs)
        library().layer_forward(
            *(ctypes.byref(self._layer), results.data_ptr(), dtype == torch.bfloat16, *_places(centre, sums)),
            kernel_threads(),
        )
        return results, sums

    def backward(self, of_results: ResultGradient) -> LayerGradients:
        """Returns the gradients by that of the results."""
        results, gradient = of_results.results.contiguous(), of_results.gradient.contiguous()
        bf16 = results.dtype == torch.bfloat16
        assert gradient.dtype == results.dtype
        given = _Gradient(*_places(results, gradient), bf16, *_places(of_results.level, of_results.slope))
        of_weight = torch.empty(*(size + -size % _LANES for size in (self._outputs, self._inputs)))
        of_bias, sums = torch.zeros_like(self._bias), torch.zeros(3, self._inputs)
        of_pairs = [torch.empty_like(self._pairs.values), torch.zeros_like(self._pairs.vectors)] if self._pairs else []
        of_dice = [torch.empty_like(self._dice.s), sums] if self._dice else []
        before = [*_places(*of_pairs), None, None] if of_pairs else [None, None, *_places(*of_dice)]
        filled = _Gradients(*_places(of_weight, of_bias), *before)
        library().layer_backward(ctypes.byref(self._layer), ctypes.byref(given), ctypes.byref(filled), kernel_threads())
        found = of_pairs
        if self._dice:
            found = [of_dice[0], *gradients_of_columns(sums, self._dice.scale, self._dice.alpha)]
        return LayerGradients(of_weight[: self._outputs, : self._inputs], of_bias, tuple(found))


def _places(*tensors: Tensor | None) -> list[int | None]:
    return [None if x is None else x.data_ptr() for x in tensors]
