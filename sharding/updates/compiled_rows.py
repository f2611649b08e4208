"""Tables in a CPU's memory are looked up and updated by the compiled kernel, by the same rules."""

from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from shardrec.sharding.kernels.library import KINDS, RowKernel, Rule, TableMemory, library
from shardrec.sharding.updates.ftrl import Ftrl
from shardrec.sharding.updates.rules import SAMPLES, AdaGrad, Adam, RmsProp, RowUpdate, RowwiseAdaGrad, Sgd

MOST_ROWS = 1 << 32
"""The kernel sorts rows by 32 bits, of fewer rows than these."""

_CORRECTIONS = 1 << 16
"""Steps of a row whose bias corrections are listed; with the betas that are in use, none differs from 1 after these."""


def compiled_rows(
    weights: Sequence[Tensor],
    states: Sequence[Mapping[str, Tensor]],
    updates: Sequence[RowUpdate],
    feature_tables: Sequence[int],
) -> RowKernel | None:
    """Returns the kernel of tables, None where torch operations serve them: on GPUs, and where nothing is compiled."""
    if any(w.device.type != "cpu" or len(w) >= MOST_ROWS for w in weights) or library() is None:
        return None
    return RowKernel([_memory(*of) for of in zip(weights, states, updates, strict=True)], feature_tables)


def _memory(weight: Tensor, state: Mapping[str, Tensor], update: RowUpdate) -> TableMemory:
    rule = Rule(
        learning_rate=update.learning_rate,
        weight_decay=update.weight_decay,
        by_frequency=update.by_frequency,
        of_summed_loss=update.of_summed_loss,
    )
    names: tuple[str, ...]
    keep: tuple[Tensor, ...] = ()
    match update:
        case Sgd():
            rule.kind, rule.a, names = KINDS.index("sgd"), update.momentum, ("momentum",)
        case AdaGrad():
            rule.kind, rule.eps, names = KINDS.index("adagrad"), update.eps, ("accumulator",)
        case RowwiseAdaGrad():
            rule.kind, rule.eps, names = KINDS.index("rowwise_adagrad"), update.eps, ("accumulator",)
        case RmsProp():
            rule.kind, rule.eps, names = KINDS.index("rmsprop"), update.eps, ("mean_square",)
            rule.a, rule.b = update.smoothing, 1 - update.smoothing
        case Adam():
            rule.kind, rule.eps, (b1, b2) = KINDS.index("adam"), update.eps, update.betas
            rule.a, rule.b, rule.c, names = 1 - b1, b2, 1 - b2, ("mean", "mean_square")
            keep = _corrections(b1), _corrections(b2)
            rule.corrections, (rule.of_mean, rule.of_square) = _CORRECTIONS, (x.data_ptr() for x in keep)
        case Ftrl():
            rule.kind, rule.a, rule.b, rule.c = KINDS.index("ftrl"), update.beta, update.l1, update.l2
            names = ("z", "n")
    first, second = (*(state.get(name) for name in names), None)[:2]
    return TableMemory(weight, rule, first, second, state.get("steps"), state.get(SAMPLES), keep)


@cache
def _corrections(beta: float) -> Tensor:
    """Returns 1 - beta^t for t = 0, 1, ..."""
    return (1 - beta ** torch.arange(_CORRECTIONS, dtype=torch.float64)).float()
