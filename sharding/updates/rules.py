"""Rows change by a gradient as a `RowUpdate` says, one for each optimizer, in torch operations on any device.

A rule is applied to the distinct rows that a global batch names, gathered, changed and written back, so that it costs
by the batch and leaves all other rows as they are, bit for bit; or to a whole table in place. Momentum, RMSProp and
Adam are thereby lazy: the state of a row moves in the steps that name it. FTRL-Proximal is in `ftrl.py`. Any rule may
have DIN's mini-batch-aware L2 beside it, by counts from `sample_counts.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from shardrec.sharding.tables.rounding import StochasticRounding

SAMPLES = "samples"
"""State of tables with `by_frequency`: in how many training samples a row occurs."""

_CHUNK = {"cpu": 1 << 18, "cuda": 1 << 20}
"""Weights in work at once, on GPU of whole tables only: so few that no second table is allocated, and that on CPU what
is computed of them stays near its cache (Adam on rows of 64 columns: 15 % faster than all at once)."""


@dataclass(frozen=True, kw_only=True)
class RowUpdate(ABC):
    """A row update is one table's rule. g is the gradient of a row summed over the global batch, plus `weight_decay` w.

    every_row: each step updates all rows, those with g = weight_decay w that the batch does not name.
    by_frequency: weight_decay is not in g; beside the rule's change, and of the same w, w -= lr weight_decay w / n for
    the rows in the batch, n being how many training samples a row occurs in, 1 for one that was counted in none.
    Mini-batch-aware L2 (Zhou et al., "Deep Interest Network", KDD 2018, section 5.1).
    of_summed_loss: g is of the loss summed over the batch's rows, not of its mean.
    holds_weights: weights follow from state, so that state has to follow from weights that come from elsewhere.
    """

    of_summed_loss: ClassVar[bool] = False
    holds_weights: ClassVar[bool] = False

    learning_rate: float
    weight_decay: float = 0.0
    every_row: bool = False
    by_frequency: bool = False

    def rule_shapes(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        """Returns what of `state_shapes` the rule itself keeps."""
        return {}

    def state_shapes(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of the state of weights [rows, columns], fp32 each: one number a weight or one a row."""
        counts: dict[str, tuple[int, ...]] = {SAMPLES: (rows,)} if self.by_frequency else {}
        return self.rule_shapes(rows, columns) | counts

    @abstractmethod
    def change(self, row: Tensor, state: Mapping[str, Tensor], g: Tensor, learning_rate: float) -> None:
        """Changes rows [n, columns] fp32 and their state by g [n, columns], in place."""

    def state(self, weight: Tensor) -> dict[str, Tensor]:
        """Returns fresh state for `weight` [rows, columns]."""
        shapes = self.state_shapes(weight.shape[0], weight.shape[1])
        return {name: torch.zeros(shape, device=weight.device) for name, shape in shapes.items()}

    def warm_start(self, weight: Tensor, state: Mapping[str, Tensor]) -> None:
        """Sets the state in place to what goes with weights that come from elsewhere: that of a first step."""
        for tensor in state.values():
            tensor.zero_()

    def fresh_state(self, weight: Tensor) -> dict[str, Tensor]:
        """Returns the state of rows [n, columns] that were never updated: drawn ones, or from elsewhere.

        In how many training samples a row occurs is left out: that belongs to the data, whatever the row holds.
        """
        state = self.state(weight)
        self.warm_start(weight, state)
        return {name: tensor for name, tensor in state.items() if name != SAMPLES}

    @torch.no_grad()
    def apply(
        self,
        weight: Tensor,
        state: Mapping[str, Tensor],
        rows: Tensor | None,
        gradient: Tensor,
        factor: float = 1.0,
        loss_weight: float = 1.0,
        rounding: StochasticRounding | None = None,
    ) -> None:
        """Updates distinct `rows` [n] of `weight` (None: all) by `gradient` [n, columns] fp32, of a mean loss.

        `factor` scales the learning rate; `loss_weight` is what the mean divided by. Weights of less precision are
        computed in fp32 and rounded, to nearest without `rounding`.
        """
        device = weight.device.type
        step = max(1, _CHUNK[device] // max(1, weight.shape[1]))
        if rows is not None and device != "cpu":
            step = max(1, len(rows))
        for start in range(0, len(gradient), step):
            part = slice(start, start + step)
            if rows is not None:
                self._apply(weight, state, rows[part], gradient[part], factor, loss_weight, rounding)
                continue
            state_here = {name: tensor[part] for name, tensor in state.items()}
            rounding_here = None if rounding is None else replace(rounding, row=rounding.row + start)
            self._apply(weight[part], state_here, None, gradient[part], factor, loss_weight, rounding_here)

    def _apply(
        self,
        weight: Tensor,
        state: Mapping[str, Tensor],
        rows: Tensor | None,
        gradient: Tensor,
        factor: float,
        loss_weight: float,
        rounding: StochasticRounding | None,
    ) -> None:
        row, learning_rate = _take(weight, rows).float(), self.learning_rate * factor
        row_state = {name: _take(tensor, rows) for name, tensor in state.items() if name != SAMPLES}
        if self.of_summed_loss:
            gradient = gradient * loss_weight
        if self.by_frequency:  # first, since no rule with it reads w
            share = _take(state[SAMPLES], rows).clamp(min=1).reciprocal_().unsqueeze(1)
            row.addcmul_(row, share, value=-learning_rate * self.weight_decay)
        elif self.weight_decay:
            gradient = gradient.add(row, alpha=self.weight_decay)
        self.change(row, row_state, gradient, learning_rate)
        for name, tensor in row_state.items():
            _put(state[name], rows, tensor)
        if rounding is not None and weight.dtype == torch.float16:
            row = rounding.round(row, torch.arange(len(row), device=row.device) if rows is None else rows)
        _put(weight, rows, row)


def _take(tensor: Tensor, rows: Tensor | None) -> Tensor:
    """Returns rows of a tensor; all of them are the tensor itself."""
    if rows is None:
        return tensor
    if tensor.dim() == 2 and tensor.shape[1] == 1:  # a flat gather is twice as fast
        return tensor.view(-1).index_select(0, rows).unsqueeze(1)
    return tensor.index_select(0, rows)


def _put(tensor: Tensor, rows: Tensor | None, values: Tensor) -> None:
    if values is tensor:
        return
    values = values.to(tensor.dtype)
    if rows is None:
        tensor.copy_(values)
    elif tensor.dim() == 2 and tensor.shape[1] == 1:
        tensor.view(-1).index_copy_(0, rows, values.view(-1))
    else:
        tensor.index_copy_(0, rows, values)


@dataclass(frozen=True, kw_only=True)
class Sgd(RowUpdate):
    """w -= lr g; with momentum mu: u = mu u + g, w -= lr u (Polyak 1964, as torch.optim.SGD)."""

    momentum: float = 0.0

    def rule_shapes(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        """Returns the shape of the momentum, if there is any."""
        return {"momentum": (rows, columns)} if self.momentum else {}

    def change(self, row: Tensor, state: Mapping[str, Tensor], g: Tensor, learning_rate: float) -> None:
        """Subtracts lr times the gradient, or times the moving sum of gradients."""
        step = state["momentum"].mul_(self.momentum).add_(g) if self.momentum else g
        row.sub_(step, alpha=learning_rate)


@dataclass(frozen=True, kw_only=True)
class AdaGrad(RowUpdate):
    """n += g^2, w -= lr g / (sqrt(n) + eps) (Duchi et al., JMLR 2011)."""

    eps: float

    def rule_shapes(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        """Returns the shape of n: one a weight."""
        return {"accumulator": (rows, columns)}

    def change(self, row: Tensor, state: Mapping[str, Tensor], g: Tensor, learning_rate: float) -> None:
        """Adds g^2 to n and takes a step by g / (sqrt(n) + eps)."""
        n = state["accumulator"].addcmul_(g, g)
        row.addcdiv_(g, n.sqrt().add_(self.eps), value=-learning_rate)


@dataclass(frozen=True, kw_only=True)
class RowwiseAdaGrad(RowUpdate):
    """n += mean(g^2) over a row's columns, w -= lr g / (sqrt(n) + eps): one n a row.

    The mean runs over the columns as stored, as FBGEMM's does; see `choose.py` for padded ones.
    """

    eps: float

    def rule_shapes(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        """Returns the shape of n: one a row."""
        return {"accumulator": (rows,)}

    def change(self, row: Tensor, state: Mapping[str, Tensor], g: Tensor, learning_rate: float) -> None:
        """Adds the mean of g^2 over columns to n and takes a step by g / (sqrt(n) + eps)."""
        n = state["accumulator"].add_(g.square().mean(1))
        row.addcdiv_(g, n.sqrt().add_(self.eps).unsqueeze(1), value=-learning_rate)


@dataclass(frozen=True, kw_only=True)
class RmsProp(RowUpdate):
    """n = rho n + (1 - rho) g^2, w -= lr g / (sqrt(n) + eps) (Tieleman and Hinton 2012, as torch.optim.RMSprop)."""

    eps: float
    smoothing: float

    def rule_shapes(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        """Returns the shape of n: one a weight."""
        return {"mean_square": (rows, columns)}

    def change(self, row: Tensor, state: Mapping[str, Tensor], g: Tensor, learning_rate: float) -> None:
        """Moves n towards g^2 and takes a step by g / (sqrt(n) + eps)."""
        n = state["mean_square"].mul_(self.smoothing).addcmul_(g, g, value=1 - self.smoothing)
        row.addcdiv_(g, n.sqrt().add_(self.eps), value=-learning_rate)


@dataclass(frozen=True, kw_only=True)
class Adam(RowUpdate):
    """m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, w -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps).

    Kingma and Ba, ICLR 2015, algorithm 1, with t the number of steps that updated the *row*, one number a row: the
    first step of a rare row is then as long as that of a frequent one, and t goes wherever the row goes.
    """

    eps: float
    betas: tuple[float, float]

    def rule_shapes(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of m and v, one a weight, and of t, one a row."""
        return {"mean": (rows, columns), "mean_square": (rows, columns), "steps": (rows,)}

    def change(self, row: Tensor, state: Mapping[str, Tensor], g: Tensor, learning_rate: float) -> None:
        """Counts the row's step, moves m and v towards g and g^2, and takes the step that they give."""
        b1, b2 = self.betas
        steps = state["steps"].add_(1).double()  # 1 - b^t of fp32 would keep four digits
        m = state["mean"].lerp_(g, 1 - b1)
        v = state["mean_square"].mul_(b2).addcmul_(g, g, value=1 - b2)
        of_mean, of_square = ((1 - b**steps).float().unsqueeze(1) for b in (b1, b2))
        row.addcdiv_(m / of_mean, (v / of_square).sqrt_().add_(self.eps), value=-learning_rate)
