"""Random numbers depend on what they are for alone: seed, purpose and count, so that a resumed run draws the same."""

import zlib

import numpy as np


def draws(seed: int, purpose: str, count: int = 0) -> np.random.Generator:
    """Returns the generator of one purpose; `count` is that of a tick, of a day, or another number from 0.

    Two purposes, or two counts, share no numbers.
    """
    key = np.array([seed % 2**64, zlib.crc32(purpose.encode())], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, count]))


def drawn(chances: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Returns [R] int64: the candidate in whose share of [0, 1) a point lies; never one without a chance.

    chances: [R, C], not negative, of any sum above 0. points: [R] in [0, 1).
    """
    reached = chances.cumsum(1)
    whole = reached[:, -1]
    points = np.minimum(points * whole, np.nextafter(whole, 0))  # a product may round up to the whole
    return (reached <= points[:, None]).sum(1)
