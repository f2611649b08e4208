"""Cells of a GRU compute what follows a step's products, and its gradients."""

from typing import NamedTuple

import torch
from torch import Tensor


class Step(NamedTuple):
    """A step says where its positions are among [T], and its rows' states before and after it among [n_0 + T].

    The first n_0 of those states are 0, the others are all that the recurrence has made.
    """

    positions: slice
    before: slice
    after: slice


def positions(group: list[Step]) -> slice:
    """Returns the positions of consecutive steps."""
    return slice(group[0].positions.start, group[-1].positions.stop)


class CellGradients(NamedTuple):
    """The gradients of a group of steps, n positions, are filled in here.

    products: [n, blocks H], of U h_{t-1}, the blocks being r, h~ and, where there is one, u; candidates: [n, H], of
    W^h i_t; attention: [n] or None
    """

    products: Tensor
    candidates: Tensor
    attention: Tensor | None


class Cells:
    """Cells compute in arrays over all positions.

    gates: [T, H or 2 H], W i + b of r and, where there is one, u; candidates: [T, H], W^h i + b^h; of_states: [T, H],
    U^h h_{t-1}; attention: [T] or None. Gates and candidates become what they are after sigma and tanh.
    """

    def __init__(self, gates: Tensor, candidates: Tensor, of_states: Tensor, attention: Tensor | None) -> None:
        self._gates, self._candidates, self._of_states, self._attention = gates, candidates, of_states, attention

    def forward(self, now: slice, before: Tensor, after: Tensor) -> None:
        """Computes the states [n, H] after a step, whose gates have U h_{t-1} in them."""
        r, *u = self._gates[now].sigmoid_().split(before.shape[1], 1)
        candidate = _tanh_(self._candidates[now].addcmul_(r, self._of_states[now]))
        torch.lerp(before, candidate, self._update(u, now, torch.empty_like(before)), out=after)

    def backward(
        self,
        group: list[Step],
        before: Tensor,
        gradient: Tensor,
        later: Tensor,
        recurrent: Tensor,
        found: CellGradients,
    ) -> None:
        """Fills in the gradients of a group; before: [n, H] its states h_{t-1}, gradient: [T, H] of all states.

        later: [n_0, H], the gradient of states by way of later steps, first of the group's last ones, then of those
        before its first. What dL/dh_t is multiplied by is computed for all steps together.
        """
        part, hidden = positions(group), before.shape[1]
        of_r, of_h, *of_u = found.products.split(hidden, 1)
        candidate, (r, *u) = self._candidates[part], self._gates[part].split(hidden, 1)
        z = self._update(u, part, torch.empty_like(before))
        torch.mul(z, candidate, out=found.candidates)
        torch.addcmul(z, found.candidates, candidate, value=-1, out=found.candidates)
        torch.mul(found.candidates, r, out=of_h)
        torch.mul(of_h, self._of_states[part], out=of_r).addcmul_(of_r, r, value=-1)
        change = candidate - before
        for gate, of_gate in zip(u, of_u, strict=True):
            torch.mul(change, z, out=of_gate).addcmul_(of_gate, gate, value=-1)
        of_state = torch.empty_like(before)
        for step in reversed(group):
            now = slice(step.positions.start - part.start, step.positions.stop - part.start)
            passed, of_state_now, of_products = later[: now.stop - now.start], of_state[now], found.products[now]
            torch.add(gradient[step.positions], passed, out=of_state_now)
            of_products.unflatten(1, (-1, hidden)).mul_(of_state_now.unsqueeze(1))
            torch.addcmul(of_state_now, of_state_now, z[now], value=-1, out=passed)
            passed.addmm_(of_products, recurrent)
        if found.attention is not None:
            for gate in u:
                change *= gate
            torch.sum(change.mul_(of_state), 1, out=found.attention)
        found.candidates.mul_(of_state)

    def _update(self, u: list[Tensor], part: slice, scratch: Tensor) -> Tensor:
        """Returns z of some positions, [n, H]: from the gate, where there is one, and the attention, where there is."""
        if self._attention is None:
            return u[0]
        a = self._attention[part].unsqueeze(1)
        return torch.mul(u[0], a, out=scratch) if u else a.expand(-1, scratch.shape[1])


def _tanh_(x: Tensor) -> Tensor:
    """Takes tanh in place; on CPUs by the logistic function, which torch computes five times faster than tanh."""
    return x.tanh_() if x.device.type != "cpu" else x.mul_(2).sigmoid_().mul_(2).sub_(1)
