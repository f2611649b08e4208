"""Field-aware factors: a field has factors of its own for each field that it meets (Juan et al., RecSys 2016)."""

from torch import Tensor


def field_aware_pairs(factors: Tensor) -> Tensor:
    """Returns [B], sum_{i<j} <v_{i,f_j}, v_{j,f_i}> x_i x_j (eq. 4), of the factors [B, F, F, D] of pooled fields.

    `factors[:, i, j]` are field i's for field j, those of its ids times their values added up. Both of a pair lie
    across the diagonal from each other, so that it is one product with the transpose; the diagonal counts nowhere.
    """
    return (factors * factors.transpose(1, 2)).sum(3).triu(1).sum((1, 2))
