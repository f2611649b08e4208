"""Contrasts are losses that tell a row's own item from others by their scores.

Each takes positive [P], the scores of rows' own items, and others [P, C], those of the items that they are told from,
and returns [P]. Of others that do not count, `struck_out`, nothing comes, and they get no gradient.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

NEVER = -1e9
"""A score that is not: its exponential is 0, and so are the losses and gradients of it."""


def softmax_loss(positive: Tensor, others: Tensor) -> Tensor:
    """-log(exp s_i / (exp s_i + sum_j exp s_j)), of scores that are corrected and divided by a temperature already."""
    return F.softplus(others.logsumexp(1) - positive)


def bpr_loss(positive: Tensor, others: Tensor, count: Tensor) -> Tensor:
    """-log sigma(s_i - s_j), mean over the `count` [P] that count (Rendle et al., UAI 2009)."""
    return F.softplus(others - positive.unsqueeze(1)).sum(1) / count


def ccl_loss(positive: Tensor, others: Tensor, count: Tensor, *, margin: float, negative_weight: float) -> Tensor:
    """(1 - s_i) + w mean_j max(0, s_j - m), of cosines (Mao et al., "SimpleX", CIKM 2021, eq. 2)."""
    return 1 - positive + negative_weight * (others - margin).relu_().sum(1) / count


def struck_out(others: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Returns scores in which those that are known [P, C] bool are `NEVER`, in place, and how many are left, [P] >= 1.

    Autograd need not know: the losses' gradients at them are 0.
    """
    others.detach().masked_fill_(known, NEVER)
    return others, (known.shape[1] - known.sum(1)).clamp(min=1).to(others.dtype)


def same_item(items: Tensor, others: Tensor) -> Tensor:
    """Says which of the others are a row's own item, or padding: [P] and [C] int64 -> [P, C] bool."""
    return (items.unsqueeze(1) == others) | (others < 0)


def scores_of(user: Tensor, item: Tensor, shift: Tensor | None = None) -> Tensor:
    """Returns all dot products, plus an item's shift: [P, D], [C, D], [C] -> [P, C]."""
    return user @ item.T if shift is None else torch.addmm(shift, user, item.T)


def scores_of_own(user: Tensor, item: Tensor) -> Tensor:
    """Returns the dot products of rows with items of their own: [P, D], [n, P, D] -> [P, n]."""
    return torch.einsum("pd,npd->pn", user, item)
