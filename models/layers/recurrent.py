"""Gated recurrent units run over packed sequences, plain or driven by attention.

Forward and backward are written by hand over buffers made once: a step is two products with the rows that are still
going and a few operations on contiguous slices. (Autograd over slices would fill a buffer of all positions with zeros
for each of them.) What does not depend on other steps is computed for groups of steps, which on CPUs are so small that
the products of inputs, the factors of the gradients and the gradients of the gates never leave the cache. A compiled
kernel, where there is one, takes a chunk of rows through all of its steps instead.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from shardrec.models.layers.gru_cells import CellGradients, Cells, Step, positions
from shardrec.models.layers.kernels.library import are_compiled
from shardrec.models.layers.kernels.recurrent import Cell, RecurrenceKernel
from shardrec.models.layers.packing import Packing
from shardrec.models.layers.pieces import pieces

Update = Literal["learned", "scaled", "attention"]
"""What moves the state: the update gate u_t; a_t u_t; or a_t alone."""

_MOST_COLUMNS = 256
"""Of wider cells the kernel's parameters leave a core's second cache, and torch's products are faster."""


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

        States and all they are computed from are at least fp32, under autocast too; then compiled products round their
        factors to bf16.
        """
        assert (attention is None) == (self.update == "learned")
        dtype = torch.promote_types(inputs.dtype, torch.float32)
        operands = (inputs, self.project.weight, self.project.bias, self.recurrent)
        attention = None if attention is None else attention.to(dtype)
        form = _CompiledRecurrence if self._is_compiled(inputs) else _Recurrence
        return form.apply(*(x.to(dtype) for x in operands), attention, packing.counts)

    def _is_compiled(self, inputs: Tensor) -> bool:
        return are_compiled(inputs, self.recurrent) and max(inputs.shape[1], self.recurrent.shape[1]) <= _MOST_COLUMNS

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


def _groups(counts: tuple[int, ...], like: Tensor) -> list[list[Step]]:
    """Groups consecutive steps, as many as are a piece of an array [T, H], or one."""
    most = max((piece.stop - piece.start for piece in pieces(like)), default=0)
    groups: list[list[Step]] = []
    start = before = room = 0
    for row_count in counts:
        if not groups or row_count > room:
            groups.append([])
            room = most
        after = counts[0] + start
        groups[-1].append(Step(*(slice(x, x + row_count) for x in (start, before, after))))
        start, before, room = start + row_count, after, room - row_count
    return groups


def _gates_and_candidate(weight: Tensor, hidden: int) -> tuple[Tensor, Tensor]:
    """Splits a parameter into the rows of r and, where there are any, of u; and those of h~."""
    r, candidate, *u = weight.split(hidden)
    return torch.cat([r, *u]), candidate


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
        position_count, hidden, first = len(inputs), recurrent.shape[1], max(counts, default=0)
        weights, biases, recurrents = (_gates_and_candidate(x, hidden) for x in (weight, bias, recurrent))
        gates = inputs.new_empty(position_count, len(recurrents[0]))
        candidates, of_states = (inputs.new_empty(position_count, hidden) for _ in range(2))  # h~, U^h h_{t-1}
        states = inputs.new_empty(first + position_count, hidden)
        states[:first] = 0
        cells = Cells(gates, candidates, of_states, attention)
        for group in _groups(counts, candidates):
            part = positions(group)
            for w, b, projected in zip(weights, biases, (gates, candidates), strict=True):
                torch.addmm(b, inputs[part], w.T, out=projected[part])
            for step in group:
                now, before = step.positions, states[step.before]
                gates[now].addmm_(before, recurrents[0].T)
                torch.mm(before, recurrents[1].T, out=of_states[now])
                cells.forward(now, before, states[step.after])
        ctx.save_for_backward(inputs, weight, recurrent, attention, gates, candidates, of_states, states)
        ctx.counts = counts
        return states[first:]

    @staticmethod
    @once_differentiable
    @_without_onednn()
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, recurrent, attention, gates, candidates, of_states, states = ctx.saved_tensors
        hidden, groups, gradient = recurrent.shape[1], _groups(ctx.counts, candidates), gradient.contiguous()
        cells = Cells(gates, candidates, of_states, attention)
        most = max((part.stop - part.start for part in map(positions, groups)), default=0)
        scratch, blocks = gradient.new_empty(2, most, hidden), gradient.new_empty(most, len(recurrent))
        later = gradient.new_zeros(max(ctx.counts, default=0), hidden)  # of h_t by way of later steps
        of_inputs, of_attention = torch.empty_like(inputs), None if attention is None else torch.empty_like(attention)
        of_weight, of_bias, of_recurrent = (x.new_zeros(x.shape) for x in (weight, weight[:, 0], recurrent))
        for group in reversed(groups):
            part = positions(group)
            before, of_candidates = scratch[:, : part.stop - part.start]
            of_products = blocks[: len(before)]
            torch.cat([states[step.before] for step in group], out=before)
            of_weights = None if of_attention is None else of_attention[part]
            found = CellGradients(of_products, of_candidates, of_weights)
            cells.backward(group, before, gradient, later, recurrent, found)
            of_recurrent.addmm_(of_products.T, before)
            of_products[:, hidden : 2 * hidden] = of_candidates  # of W^h i_t, which differs by r
            of_weight.addmm_(of_products.T, inputs[part])
            of_bias += of_products.sum(0)
            torch.mm(of_products, weight, out=of_inputs[part])
        return of_inputs, of_weight, of_bias, of_recurrent, of_attention, None


class _CompiledRecurrence(torch.autograd.Function):
    """Computes as `_Recurrence`, by a kernel."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor,
        recurrent: Tensor,
        attention: Tensor | None,
        counts: tuple[int, ...],
    ) -> Tensor:
        ctx.counts = counts
        ctx.by_bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        kernel = RecurrenceKernel(counts, inputs, Cell(weight, bias, recurrent), attention, by_bf16=ctx.by_bf16)
        states, kept = kernel.forward(keep=any(ctx.needs_input_grad))
        if kept is not None:
            ctx.save_for_backward(inputs, weight, bias, recurrent, attention, states, kept)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, bias, recurrent, attention, states, kept = ctx.saved_tensors
        cell = Cell(weight, bias, recurrent)
        kernel = RecurrenceKernel(ctx.counts, inputs, cell, attention, by_bf16=ctx.by_bf16)
        found = kernel.backward(states, kept, gradient)
        return found.inputs, *found.cell, found.attention, None
