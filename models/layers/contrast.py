"""Contrasts are losses that tell a row's own item from others by their scores.

Each takes positive [P], the scores of rows' own items, others [P, C], those of the items that they are told from, and
known [P, C] bool, which of these do not count, and returns [P]. A row without others has a loss of 0 from them.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_NEVER = -1e9  # a logit whose exponential is 0, and whose gradient is finite


def softmax_loss(positive: Tensor, others: Tensor, known: Tensor) -> Tensor:
    """-log(exp s_i / (exp s_i + sum_j exp s_j)), of scores that are corrected and divided by a temperature already."""
    return F.softplus(others.masked_fill(known, _NEVER).logsumexp(1) - positive)


def bpr_loss(positive: Tensor, others: Tensor, known: Tensor) -> Tensor:
    """-log sigma(s_i - s_j), mean over j (Rendle et al., UAI 2009)."""
    return _mean(F.softplus(others - positive.unsqueeze(1)), known)


def ccl_loss(positive: Tensor, others: Tensor, known: Tensor, *, margin: float, negative_weight: float) -> Tensor:
    """(1 - s_i) + w mean_j max(0, s_j - m), of cosines (Mao et al., "SimpleX", CIKM 2021, eq. 2)."""
    return 1 - positive + negative_weight * _mean(F.relu(others - margin), known)


def _mean(loss: Tensor, known: Tensor) -> Tensor:
    """Returns the mean over what counts in each row: [P, C] -> [P]."""
    count = known.shape[1] - known.sum(1)
    return loss.masked_fill(known, 0).sum(1) / count.clamp(min=1).to(loss.dtype)


def same_item(items: Tensor, others: Tensor) -> Tensor:
    """Says which of the others are a row's own item, or padding: [P] and [C] int64 -> [P, C] bool."""
    return (items.unsqueeze(1) == others) | (others < 0)


def scores_of(user: Tensor, item: Tensor) -> Tensor:
    """Returns all dot products: [P, D], [C, D] -> [P, C]. Of rows' own items, [n, P, D]: [P, n]."""
    if item.dim() == 2:
        return user @ item.T
    return torch.einsum("pd,npd->pn", user, item)
