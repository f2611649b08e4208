"""DIN's activation unit says how much each past event matters for the item in question."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from shardrec.models.layers.cancelled import keep_at_zero
from shardrec.models.layers.jagged_sum import segment_sum
from shardrec.models.layers.kernels.position_layer import Pairs
from shardrec.models.layers.mlp import MLP, MLPConfig
from shardrec.models.layers.pieces import pieces
from shardrec.models.layers.position_layers import are_dice_layers, are_over_positions, over_positions

Interaction = Literal["difference_product", "outer_product"]


class ActivationUnit(nn.Module):
    """The unit a(k, q) is an MLP over [k; q; k - q; k * q], or over [k; q; k q^T] (Zhou et al., KDD 2018, section 4.3).

    k is an event's vector, q the target's of the same row. The MLP is `mlp`, as it stands; its first product is
    computed in parts: W [k; q; k - q; k * q] = (W1 + W3) k + W4 (k * q) + (W2 - W3) q, the last once a row and not once
    a position, and nothing is laid side by side for all positions at once.
    Batch norm and Dice take their moments over the positions of all rows and ranks.
    """

    def __init__(self, width: int, config: MLPConfig, interaction: Interaction = "difference_product") -> None:
        super().__init__()
        self.outer = interaction == "outer_product"
        columns = (2 + width) * width if self.outer else 4 * width
        self.mlp = MLP(columns, config, padded=False)

    def forward(self, events: Tensor, target: Tensor, row: Tensor, offsets: Tensor) -> Tensor:
        """Scores positions: [T, E] events, [B, E] targets, [T] the row of each event, [B + 1] offsets -> [T]."""
        of_event, of_target, rest, bias = self._first(events.shape[1])
        of_row, weight = F.linear(target, of_target, bias), torch.cat([of_event, rest], 1)
        following = list(self.mlp.layers)[1:]
        pairs = Pairs(events, target)
        if not self.outer and are_over_positions(pairs, of_row, weight):
            together = following if are_dice_layers(following) else []
            hidden = over_positions(pairs, of_row, weight, offsets, together)
            following = following[len(together) :]
        else:
            hidden = _EventLayer.apply(events, target, of_row, weight, row, offsets, self.outer)
        for layer in following:
            hidden = layer(hidden)
        return hidden.squeeze(1)

    def padded(self, events: Tensor, target: Tensor) -> Tensor:
        """Scores padded positions: [B, L, E] events, [B, E] targets -> [B, L], anything at padding.

        The first product is linear in the event: W_q k with a matrix of the row's target, W_q = W1 + W3 + W4 diag(q).
        """
        width = events.shape[2]
        of_event, of_target, rest, bias = self._first(width)
        if self.outer:
            of_pair = torch.matmul(rest.unflatten(1, (width, width)), target.T).permute(2, 1, 0)  # [B, E, H]
        else:
            of_pair = target.unsqueeze(2) * rest.T
        of_row = F.linear(target, of_target, bias)
        hidden = torch.baddbmm(of_row.unsqueeze(1), events, of_event.T + of_pair).flatten(0, 1)
        for layer in list(self.mlp.layers)[1:]:
            hidden = layer(hidden)
        return hidden.view(events.shape[:2])

    def _first(self, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the first product's columns for k, for q and for k * q or k q^T, and its bias."""
        first = self.mlp.layers[0]
        assert isinstance(first, nn.Linear)
        of_event, of_target, rest = first.weight.split([width, width, first.in_features - 2 * width], 1)
        if not self.outer:
            of_difference, rest = rest.chunk(2, 1)
            of_event, of_target = of_event + of_difference, of_target - of_difference
        return of_event, of_target, rest, first.bias


class ProjectedUnit(nn.Module):
    """The unit a(h, q), q = PReLU(W v + b), weighs vectors h of another width than the target's v.

    So does the code of DIEN's authors, where h are a GRU's states; the paper (Zhou et al., AAAI 2019) has h W v. Scores
    are for a softmax over each row's positions, which takes the last layer's bias away: that is kept at 0.
    """

    def __init__(self, target_width: int, width: int, config: MLPConfig, interaction: Interaction) -> None:
        super().__init__()
        self.project = nn.Linear(target_width, width)
        self.activation = nn.PReLU(width, init=0.1)
        self.unit = ActivationUnit(width, config, interaction)
        last = self.unit.mlp.layers[-1]
        assert isinstance(last, nn.Linear)
        keep_at_zero(last.bias)

    def forward(self, states: Tensor, target: Tensor, row: Tensor, offsets: Tensor) -> Tensor:
        """Scores positions: [T, H] states, [B, E] targets, [T] the row of each state, [B + 1] offsets -> [T]."""
        query = self.activation(self.project(target)).to(states.dtype)
        return self.unit(states, query, row, offsets)

    def padded(self, states: Tensor, target: Tensor) -> Tensor:
        """Scores padded positions: [B, L, H] states, [B, E] targets -> [B, L]."""
        return self.unit.padded(states, self.activation(self.project(target)))


class _EventLayer(torch.autograd.Function):
    """y_t = W [k_t; x_t] + of_row_b, x_t = k_t * q_b or k_t q_b^T, b the row of t; in the precision of `of_row`."""

    @staticmethod
    def forward(
        ctx: Any,
        events: Tensor,
        target: Tensor,
        of_row: Tensor,
        weight: Tensor,
        row: Tensor,
        offsets: Tensor,
        outer: bool,
    ) -> Tensor:
        ctx.save_for_backward(events, target, weight, row, offsets)
        ctx.outer = outer
        transposed = weight.to(of_row.dtype).T
        result = of_row.new_empty(len(events), of_row.shape[1])
        for piece in pieces(events, max(weight.shape)):
            inputs = _inputs(events[piece], target.index_select(0, row[piece]), outer).to(of_row.dtype)
            torch.index_select(of_row, 0, row[piece], out=result[piece])
            result[piece].addmm_(inputs, transposed)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        events, target, weight, row, offsets = ctx.saved_tensors
        of_events, of_target, of_weight = _gradients(events, target, weight, row, offsets, gradient, ctx.outer)
        return of_events, of_target, segment_sum(gradient, offsets), of_weight, None, None, None


def _gradients(
    events: Tensor, target: Tensor, weight: Tensor, row: Tensor, offsets: Tensor, gradient: Tensor, outer: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of events, targets and weight by that of their products."""
    width, dtype = events.shape[1], gradient.dtype
    of_events, of_targets = torch.empty_like(events), torch.empty_like(events)
    of_weight, cast = torch.zeros_like(weight), weight.to(dtype)
    for piece in pieces(events, max(weight.shape)):
        k, q = events[piece], target.index_select(0, row[piece])
        of_weight += gradient[piece].T @ _inputs(k, q, outer).to(dtype)
        of_k, of_x = (gradient[piece] @ cast).to(events.dtype).split([width, weight.shape[1] - width], 1)
        if outer:
            of_x = of_x.unflatten(1, (width, width))
            torch.add(of_k, torch.bmm(of_x, q.unsqueeze(2)).squeeze(2), out=of_events[piece])
            torch.bmm(k.unsqueeze(1), of_x, out=of_targets[piece].unsqueeze(1))
        else:
            torch.addcmul(of_k, of_x, q, out=of_events[piece])
            torch.mul(of_x, k, out=of_targets[piece])
    return of_events, segment_sum(of_targets, offsets).to(target.dtype), of_weight


def _inputs(k: Tensor, q: Tensor, outer: bool) -> Tensor:
    """Returns [k; k * q] or [k; k q^T], the matrix row by row."""
    interaction = (k.unsqueeze(2) * q.unsqueeze(1)).flatten(1) if outer else k * q
    return torch.cat([k, interaction], 1)
