"""Random numbers depend on what they are for alone: seed, purpose and count, so that a resumed run draws the same."""

import zlib

import numpy as np


def draws(seed: int, purpose: str, count: int = 0) -> np.random.Generator:
    """Returns the generator of one purpose; `count` is that of a tick, of a day, or another number from 0.

    Two purposes, or two counts, share no numbers.
    """
    key = np.array([seed % 2**64, zlib.crc32(purpose.encode())], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, count]))
