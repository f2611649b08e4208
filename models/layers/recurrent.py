"""Gated recurrent units over packed sequences, plain and driven by attention.

Inputs are projected for all positions in one product. A step is one product with the rows that are still going and a
few operations on contiguous slices; backward is written by hand over buffers made once, with all that does not depend
on later steps computed for all positions beforehand and the weights' gradient in one product afterwards. (Autograd over
slices would fill a buffer of all positions with zeros for each of them.)
"""

from itertools import accumulate, pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.layers.packing import Packing
from models.layers.pieces import pieces

Update = Literal["learned", "scaled", "attention"]
"""What moves the state: the update gate u_t; a_t u_t; or a_t alone."""


class GRU(nn.Module):
    """h_t = (1 - z_t) * h_{t-1} + z_t * h~_t, h~_t = tanh(W^h i_t + r_t * U^h h_{t-1} + b^h), h_0 = 0.

    u_t = sigma(W^u i_t + U^u h_{t-1} + b^u), r_t = sigma(W^r i_t + U^r h_{t-1} + b^r); the update z_t is u_t (GRU),
    a_t u_t (AUGRU) or a_t (AGRU, which has no u). Zhou et al., AAAI 2019, eqs. 2-5 and 14-16. torch's GRU has the
    opposite u and a second bias. `recurrent` holds the rows of U^r, then of U^h, then of U^u; `project` those of W.
    """

    def __init__(self, width: int, hidden: int, update: Update = "learned") -> None:
        super().__init__()
        gates = 2 if update == "attention" else 3
        self.update = update
        self.project = nn.Linear(width, gates * hidden)
        self.recurrent = nn.Parameter(torch.empty(gates * hidden, hidden))
        bound = hidden**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, inputs: Tensor, packing: Packing, attention: Tensor | None = None) -> Tensor:
        """Packed [T, I] (and [T], where the update takes it) -> packed states [T, H], at least fp32."""
        assert (attention is None) == (self.update == "learned")
        projected = self.project(inputs)
        projected = projected.to(torch.promote_types(projected.dtype, torch.float32))
        attention = None if attention is None else attention.to(projected.dtype)
        return _Recurrence.apply(projected, self.recurrent, attention, packing.counts, packing.previous)


def _update(u: list[Tensor], attention: Tensor | None, part: slice) -> Tensor:
    """z of some positions, [n, H] or [n, 1]: from the gate, where there is one, and the attention, where there is."""
    if attention is None:
        return u[0]
    a = attention[part].unsqueeze(1)
    return u[0] * a if u else a


def _slices(counts: tuple[int, ...]) -> list[slice]:
    return [slice(a, b) for a, b in pairwise(accumulate(counts, initial=0))]


def _tanh_(x: Tensor) -> Tensor:
    """In place. On CPUs by the logistic function, which torch computes five times faster than tanh."""
    return x.tanh_() if x.device.type != "cpu" else x.mul_(2).sigmoid_().mul_(2).sub_(1)


class _Recurrence(torch.autograd.Function):
    """The states of a GRU whose inputs are projected. Blocks of columns: [r, h~, u], AGRU's without u."""

    @staticmethod
    def forward(
        ctx: Any,
        projected: Tensor,
        recurrent: Tensor,
        attention: Tensor | None,
        counts: tuple[int, ...],
        previous: Tensor,
    ) -> Tensor:
        positions, hidden = len(projected), recurrent.shape[1]
        gates, transposed = projected.clone(), recurrent.to(projected.dtype).T
        states = projected.new_empty(positions, hidden)
        of_state = projected.new_zeros(positions, hidden)  # U^h h_{t-1}
        scratch = projected.new_empty(max(counts, default=0), projected.shape[1])
        before = None
        for step in _slices(counts):
            r, candidate, *u = gates[step].split(hidden, 1)
            if before is not None:
                product = torch.mm(before[: len(r)], transposed, out=scratch[: len(r)])
                r += product[:, :hidden]
                for gate in u:
                    gate += product[:, 2 * hidden :]
                of_state[step] = product[:, hidden : 2 * hidden]
            r.sigmoid_()
            if before is not None:
                candidate.addcmul_(r, of_state[step])
            _tanh_(candidate)
            update = _update([gate.sigmoid_() for gate in u], attention, step)
            state = states[step]
            if before is None:
                torch.mul(candidate, update, out=state)
            else:
                torch.lerp(before[: len(r)], candidate, update.expand_as(candidate), out=state)
            before = state
        ctx.save_for_backward(recurrent, attention, gates, states, of_state, previous)
        ctx.counts = counts
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        recurrent, attention, gates, states, of_state, previous = ctx.saved_tensors
        counts, hidden = ctx.counts, recurrent.shape[1]
        first = counts[0] if counts else 0
        before = torch.cat([states.new_zeros(first, hidden), states.index_select(0, previous)])
        factors = _local_gradients(gates, attention, before, of_state, hidden)
        of_states, weight = gradient.clone(memory_format=torch.contiguous_format), recurrent.to(states.dtype)
        of_gates = torch.empty_like(gates)
        scratch = gradient.new_empty(first, hidden)
        later = None
        for step in reversed(_slices(counts)):
            of_state_now = of_states[step]
            if later is not None:
                of_state_now[: len(later)] += later
            blocks = of_gates[step].unflatten(1, (-1, hidden))
            torch.mul(factors.of_recurrent[step].unflatten(1, (-1, hidden)), of_state_now.unsqueeze(1), out=blocks)
            later = torch.mm(of_gates[step], weight, out=scratch[: len(of_state_now)])
            later.addcmul_(of_state_now, factors.kept[step])
        of_attention = None
        if attention is not None:
            of_attention = (of_states * factors.of_attention).sum(1)
        of_recurrent = of_gates[first:].T @ before[first:]
        torch.mul(of_states, factors.of_candidate, out=of_gates[:, hidden : 2 * hidden])
        return of_gates, of_recurrent.to(recurrent.dtype), of_attention, None, None


class _Factors:
    """What dL/dh_t is multiplied by, for all positions. [T, H] each but `of_recurrent`, [T, columns of the gates].

    of_recurrent: for the gradient of U h_{t-1}, in the blocks of the gates; of_candidate: of W^h i_t, which differs
    from its block by r; kept: of h_{t-1} directly, 1 - z; of_attention: of a_t, before the sum over columns.
    """

    def __init__(self, gates: Tensor, hidden: int, with_attention: bool) -> None:
        self.of_recurrent = torch.empty_like(gates)
        self.of_candidate, self.kept = (gates.new_empty(len(gates), hidden) for _ in range(2))
        self.of_attention = gates.new_empty(len(gates), hidden if with_attention else 0)


def _local_gradients(
    gates: Tensor, attention: Tensor | None, before: Tensor, of_state: Tensor, hidden: int
) -> _Factors:
    factors = _Factors(gates, hidden, attention is not None)
    for piece in pieces(gates):
        r, candidate, *u = gates[piece].split(hidden, 1)
        update = _update(u, attention, piece)
        blocks = factors.of_recurrent[piece].split(hidden, 1)
        of_candidate = torch.mul(update, 1 - candidate.square(), out=factors.of_candidate[piece])
        torch.mul(of_candidate, r, out=blocks[1])
        torch.mul(blocks[1], of_state[piece], out=blocks[0])
        blocks[0].mul_(1 - r)
        torch.sub(1, update.expand_as(candidate), out=factors.kept[piece])
        change = candidate - before[piece]
        for gate in u:
            torch.mul(change, update, out=blocks[2])
            blocks[2].mul_(1 - gate)
        if attention is not None:
            torch.mul(change, u[0] if u else 1, out=factors.of_attention[piece])
    return factors
