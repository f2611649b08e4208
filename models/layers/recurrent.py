"""Gated recurrent units run over packed sequences, plain or driven by attention.

Forward and backward are written by hand over buffers made once: a step is two products with the rows that are still
going and a few operations on contiguous slices. (Autograd over slices would fill a buffer of all positions with zeros
for each of them.) What does not depend on other steps is computed for groups of steps, which on CPUs are so small that
the products of inputs, the factors of the gradients and the gradients of the gates never leave the cache.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from shardrec.models.layers.packing import Packing
from shardrec.models.layers.pieces import pieces

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
        """Packed [T, I] (and [T], where the update takes it) -> packed states [T, H].

        States and all they are computed from are at least fp32, under autocast too.
        """
        assert (attention is None) == (self.update == "learned")
        dtype = torch.promote_types(inputs.dtype, torch.float32)
        operands = (inputs, self.project.weight, self.project.bias, self.recurrent)
        attention = None if attention is None else attention.to(dtype)
        return _Recurrence.apply(*(x.to(dtype) for x in operands), attention, packing.counts)

    def padded(self, inputs: Tensor, live: Tensor, attention: Tensor | None = None) -> Tensor:
        """Padded [B, L, I] (and [B, L]), live [B, L] bool -> states [B, L, H]; padding keeps the state before it.

        In an exported program the steps are a loop, whose L is that of the batch.
        """
        hidden = self.recurrent.shape[1]
        weights, biases, recurrents = (
            _gates_and_candidate(x, hidden) for x in (self.project.weight, self.project.bias, self.recurrent)
        )
        gates, candidates = (F.linear(inputs, w, b).transpose(0, 1) for w, b in zip(weights, biases, strict=True))
        moves = live.to(inputs.dtype) if attention is None else attention * live

        def step(before: Tensor, now: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            of_gates, of_candidate, z = now
            r, *u = torch.sigmoid(torch.addmm(of_gates, before, recurrents[0].T)).split(hidden, 1)
            for gate in u:
                z = z * gate
            candidate = torch.tanh(torch.addcmul(of_candidate, r, torch.mm(before, recurrents[1].T)))
            after = torch.lerp(before, candidate, z)
            return after, after.clone()

        start = inputs.new_zeros(inputs.shape[0], hidden)
        return scan(step, start, (gates, candidates, moves.T.unsqueeze(2)))[1].transpose(0, 1)


class _Step(NamedTuple):
    """A step says where its positions are among [T], and its rows' states before and after it among [n_0 + T].

    The first n_0 of those states are 0, the others are all that the recurrence has made.
    """

    positions: slice
    before: slice
    after: slice


def _groups(counts: tuple[int, ...], like: Tensor) -> list[list[_Step]]:
    """Groups consecutive steps, as many as are a piece of an array [T, H], or one."""
    most = max((piece.stop - piece.start for piece in pieces(like)), default=0)
    groups: list[list[_Step]] = []
    start = before = room = 0
    for row_count in counts:
        if not groups or row_count > room:
            groups.append([])
            room = most
        after = counts[0] + start
        groups[-1].append(_Step(*(slice(x, x + row_count) for x in (start, before, after))))
        start, before, room = start + row_count, after, room - row_count
    return groups


def _positions(group: list[_Step]) -> slice:
    return slice(group[0].positions.start, group[-1].positions.stop)


def _gates_and_candidate(weight: Tensor, hidden: int) -> tuple[Tensor, Tensor]:
    """Splits a parameter into the rows of r and, where there are any, of u; and those of h~."""
    r, candidate, *u = weight.split(hidden)
    return torch.cat([r, *u]), candidate


def _update(u: list[Tensor], attention: Tensor | None, part: slice, scratch: Tensor) -> Tensor:
    """Returns z of some positions, [n, H]: from the gate, where there is one, and the attention, where there is."""
    if attention is None:
        return u[0]
    a = attention[part].unsqueeze(1)
    return torch.mul(u[0], a, out=scratch[: len(a)]) if u else a.expand(-1, scratch.shape[1])


def _tanh_(x: Tensor) -> Tensor:
    """Takes tanh in place; on CPUs by the logistic function, which torch computes five times faster than tanh."""
    return x.tanh_() if x.device.type != "cpu" else x.mul_(2).sigmoid_().mul_(2).sub_(1)


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Keeps oneDNN out: where fp32 products may be less precise, it compiles code for each shape that it meets.

    Here every step of every batch has a shape of its own, and compiling takes several times as long as the product.
    """
    onednn: Any = torch.backends.mkldnn
    before = onednn.enabled
    onednn.enabled = False
    try:
        yield
    finally:
        onednn.enabled = before


class _Recurrence(torch.autograd.Function):
    """Computes the states of a GRU. Blocks of the parameters' rows: r, h~, and but for AGRU u."""

    @staticmethod
    @_without_onednn()
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor,
        recurrent: Tensor,
        attention: Tensor | None,
        counts: tuple[int, ...],
    ) -> Tensor:
        positions, hidden, first = len(inputs), recurrent.shape[1], max(counts, default=0)
        weights, biases, recurrents = (_gates_and_candidate(x, hidden) for x in (weight, bias, recurrent))
        gates = inputs.new_empty(positions, len(recurrents[0]))
        candidates, of_states = (inputs.new_empty(positions, hidden) for _ in range(2))  # h~, U^h h_{t-1}
        states = inputs.new_empty(first + positions, hidden)
        states[:first] = 0
        scratch = inputs.new_empty(first, hidden)
        for group in _groups(counts, candidates):
            part = _positions(group)
            for w, b, projected in zip(weights, biases, (gates, candidates), strict=True):
                torch.addmm(b, inputs[part], w.T, out=projected[part])
            for step in group:
                now, before = step.positions, states[step.before]
                r, *u = gates[now].addmm_(before, recurrents[0].T).sigmoid_().split(hidden, 1)
                of_state = torch.mm(before, recurrents[1].T, out=of_states[now])
                candidate = _tanh_(candidates[now].addcmul_(r, of_state))
                torch.lerp(before, candidate, _update(u, attention, now, scratch), out=states[step.after])
        ctx.save_for_backward(inputs, weight, recurrent, attention, gates, candidates, of_states, states)
        ctx.counts = counts
        return states[first:]

    @staticmethod
    @once_differentiable
    @_without_onednn()
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """`factors` is what dL/dh_t is multiplied by for the gradient of U h_{t-1}, then that gradient."""
        inputs, weight, recurrent, attention, gates, candidates, of_states, states = ctx.saved_tensors
        hidden, groups = recurrent.shape[1], _groups(ctx.counts, candidates)
        most = max((part.stop - part.start for part in map(_positions, groups)), default=0)
        scratch, blocks = gradient.new_empty(5, most, hidden), gradient.new_empty(most, len(recurrent))
        later = gradient.new_zeros(max(ctx.counts, default=0), hidden)  # of h_t by way of later steps
        of_inputs, of_attention = torch.empty_like(inputs), None if attention is None else torch.empty_like(attention)
        of_weight, of_bias, of_recurrent = (x.new_zeros(x.shape) for x in (weight, weight[:, 0], recurrent))
        for group in reversed(groups):
            part = _positions(group)
            before, update, of_candidate, change, of_state = scratch[:, : part.stop - part.start]
            factors = blocks[: len(before)]
            of_r, of_h, *of_u = factors.split(hidden, 1)
            candidate, (r, *u) = candidates[part], gates[part].split(hidden, 1)
            torch.cat([states[step.before] for step in group], out=before)
            z = _update(u, attention, part, update)
            torch.mul(z, candidate, out=of_candidate)
            torch.addcmul(z, of_candidate, candidate, value=-1, out=of_candidate)
            torch.mul(of_candidate, r, out=of_h)
            torch.mul(of_h, of_states[part], out=of_r).addcmul_(of_r, r, value=-1)
            torch.sub(candidate, before, out=change)
            for gate, of_gate in zip(u, of_u, strict=True):
                torch.mul(change, z, out=of_gate).addcmul_(of_gate, gate, value=-1)
            for step in reversed(group):
                now = slice(step.positions.start - part.start, step.positions.stop - part.start)
                passed, of_state_now = later[: now.stop - now.start], of_state[now]
                torch.add(gradient[step.positions], passed, out=of_state_now)
                factors[now].unflatten(1, (-1, hidden)).mul_(of_state_now.unsqueeze(1))
                torch.addcmul(of_state_now, of_state_now, z[now], value=-1, out=passed)
                passed.addmm_(factors[now], recurrent)
            if of_attention is not None:
                for gate in u:
                    change *= gate
                torch.sum(change.mul_(of_state), 1, out=of_attention[part])
            of_recurrent.addmm_(factors.T, before)
            torch.mul(of_state, of_candidate, out=of_h)  # of W^h i_t, which differs by r
            of_weight.addmm_(factors.T, inputs[part])
            of_bias += factors.sum(0)
            torch.mm(factors, weight, out=of_inputs[part])
        return of_inputs, of_weight, of_bias, of_recurrent, of_attention, None
