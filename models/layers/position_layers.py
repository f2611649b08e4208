"""Layers over positions, with Dice between them, go from pairs to scores in a pass each, where kernels are compiled."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from shardrec.models.layers.activations import Dice
from shardrec.models.layers.kernels.library import are_compiled
from shardrec.models.layers.kernels.position_layer import DiceOf, Pairs, PositionLayerKernel, ResultGradient
from shardrec.models.layers.moments import Standardise, gradient_of_sums


def are_over_positions(pairs: Pairs, of_row: Tensor, weight: Tensor) -> bool:
    """Says whether kernels compute what `over_positions` is given."""
    return are_compiled(*pairs, of_row, weight) and all(x.dtype == torch.float32 for x in (*pairs, weight))


def are_dice_layers(layers: Sequence[nn.Module]) -> bool:
    """Says whether the layers are Dice, linear, Dice, linear and so on, over positions that all count."""
    dice, linear = layers[::2], layers[1::2]
    return (
        len(dice) == len(linear) > 0
        and all(isinstance(layer, Dice) and not layer.moments.padded for layer in dice)
        and all(isinstance(layer, nn.Linear) and layer.bias is not None for layer in linear)
    )


def over_positions(
    pairs: Pairs, of_row: Tensor, weight: Tensor, offsets: Tensor, layers: Sequence[nn.Module]
) -> Tensor:
    """Returns what `layers` make of W [k; k * q] + of_row: [B, C] -> [T, columns out] fp32.

    pairs: [T, E] and [B, E]; weight: W [C, 2 E]; offsets: [B + 1]; layers: none, or as `are_dice_layers`. What goes
    into layers is in the precision of `of_row`, and so is what is returned where there are none.
    """
    parameters = [x for layer in layers for x in ([layer.alpha] if isinstance(layer, Dice) else layer.parameters())]
    moments = [layer.moments for layer in layers if isinstance(layer, Dice)]
    return _PositionLayers.apply(*pairs, of_row, weight, offsets, moments, *parameters)


class _PositionLayers(torch.autograd.Function):
    """Computes the layers; of what lies between only each layer's results are kept, in the precision of `of_row`."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        vectors: Tensor,
        of_row: Tensor,
        weight: Tensor,
        offsets: Tensor,
        moments: Sequence[Standardise],
        *parameters: Tensor,
    ) -> Tensor:
        pairs, by_bf16 = Pairs(values, vectors), of_row.dtype == torch.bfloat16
        kernel = PositionLayerKernel(offsets, weight, of_row.float(), pairs, by_bf16=by_bf16)
        ctx.moments, results, centres = [], [], []
        for of, alpha, following, bias in zip(moments, *(parameters[i::3] for i in range(3)), strict=True):
            centres.append(of.running_mean.clone())
            s, totals = kernel.forward(of_row.dtype, centres[-1] if of.training else None)
            if totals is not None:
                totals.requires_grad_()
            with torch.enable_grad():
                mean, scale = of.of_totals(totals, len(s), None)
            ctx.moments.append((totals, mean, scale))
            results.append(s)
            before = DiceOf(s, mean.detach(), scale.detach(), alpha)
            kernel = PositionLayerKernel(
                offsets, following, bias, before, by_bf16=by_bf16 and following is not parameters[-2]
            )
        ctx.save_for_backward(values, vectors, of_row, weight, offsets, *parameters, *results, *centres)
        return kernel.forward(torch.float32 if results else of_row.dtype, None)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, vectors, of_row, weight, offsets, *kept = ctx.saved_tensors
        count, is_bf16 = len(ctx.moments), of_row.dtype == torch.bfloat16
        parameters, results, centres = kept[: 3 * count], kept[3 * count : -count], kept[-count:]
        of_parameters: list[Tensor] = []
        given = ResultGradient(gradient, gradient)
        for i in reversed(range(count)):
            totals, mean, scale = ctx.moments[i]
            alpha, following, bias = parameters[3 * i : 3 * i + 3]
            before = DiceOf(results[i], mean.detach(), scale.detach(), alpha)
            kernel = PositionLayerKernel(offsets, following, bias, before, by_bf16=is_bf16 and i < count - 1)
            found = kernel.backward(given)
            of_s, of_mean, of_scale, of_alpha = found.before
            of_parameters[:0] = (of_alpha, found.weight, found.bias)
            given = ResultGradient(results[i], of_s)
            if totals is not None:
                (of_totals,) = torch.autograd.grad((mean, scale), totals, (of_mean, of_scale), retain_graph=True)
                given = ResultGradient(results[i], of_s, *gradient_of_sums(of_totals, centres[i]))
        kernel = PositionLayerKernel(offsets, weight, of_row.float(), Pairs(values, vectors), by_bf16=is_bf16)
        first = kernel.backward(given)
        return *first.before, first.bias.to(of_row.dtype), first.weight, None, None, *of_parameters
