"""A set of known (user, item) pairs tells quickly which of many keys it holds."""

import numpy as np

BITS_PER_PAIR = 16
"""The bitmap before the sorted pairs has 16 to 32 bits a pair (it is a power of two): it answers 95 % of the draws."""

_CHUNK = 65_536  # keys that are put into the bitmap at once


class PairSet:
    """A pair set holds pairs as sorted int64 keys, with a bitmap before them. It takes 10 to 12 bytes a pair.

    nbytes: memory of both
    """

    def __init__(self, keys: np.ndarray) -> None:
        """Fills the bitmap; `keys` [P] int64 are sorted and have each pair once."""
        self.keys = keys
        self._shift = np.uint64(64 - max((BITS_PER_PAIR * len(keys) - 1).bit_length(), 6))
        self._bits = np.zeros(1 << (64 - int(self._shift) - 3), np.uint8)
        for start in range(0, len(keys), _CHUNK):
            byte, bit = self._bit_of(keys[start : start + _CHUNK])
            np.bitwise_or.at(self._bits, byte, bit)
        self.nbytes = keys.nbytes + self._bits.nbytes

    def places_of(self, keys: np.ndarray) -> np.ndarray:
        """Returns which of [n] int64 keys are in the set, as ascending indices."""
        byte, bit = self._bit_of(keys)
        maybe = np.flatnonzero(self._bits[byte] & bit)
        insert_at = np.searchsorted(self.keys, keys[maybe])
        return maybe[self.keys[np.minimum(insert_at, len(self.keys) - 1)] == keys[maybe]]

    def between(self, first: int, after: int) -> np.ndarray:
        """Returns the keys in [first, after)."""
        return self.keys[slice(*np.searchsorted(self.keys, (first, after)))]

    def _bit_of(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the byte of the bitmap, and the bit in it, that a key has (multiplicative hashing)."""
        hashed = (keys.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> self._shift
        bit = np.left_shift(np.uint8(1), (hashed & np.uint64(7)).astype(np.uint8))
        return (hashed >> np.uint64(3)).view(np.int64), bit
