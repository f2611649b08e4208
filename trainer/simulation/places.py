"""The places of a list are filled one after another, each by a draw among the candidates that are left."""

import numpy as np


def drawn(chances: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Returns [R] int64: the candidate in whose share of [0, 1) a point lies; never one without a chance.

    chances: [R, C], not negative, of any sum above 0. points: [R] in [0, 1).
    """
    reached = chances.cumsum(1)
    whole = reached[:, -1]
    points = np.minimum(points * whole, np.nextafter(whole, 0))  # a product may round up to the whole
    return (reached <= points[:, None]).sum(1)
