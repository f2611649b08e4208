"""An FM's terms are read off fields whose rows hold first-order weight and factors side by side."""

from torch import Tensor


def fm_terms(field: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the first-order sum [B] and the pairwise vector [B, D] of fields [B, F, 1 + D] with rows [w; v].

    Summed over D, the vector is sum_{i<j} <v_i, v_j> = 1/2 [(sum_i v_i)^2 - sum_i v_i^2], in O(F D) (Rendle, ICDM 2010,
    lemma 3.1).
    """
    total = field.sum(1)
    squares = field.square().sum(1)
    return total[:, 0], (total[:, 1:].square() - squares[:, 1:]) / 2
