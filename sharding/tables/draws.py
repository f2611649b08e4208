"""Draws are counter-based: 64 random bits are a function of a counter, so that no generator's state matters."""

from torch import Tensor

_HIGH = (1 << 31) - 1  # what a logical shift by 33 leaves; torch shifts the sign in


def signed(word: int) -> int:
    """Returns the int64 of the same 64 bits as `word`, 0 <= word < 2^64."""
    return word - (1 << 64) if word >> 63 else word


def mixed(words: Tensor) -> Tensor:
    """Applies MurmurHash3's 64-bit finaliser, a permutation of int64, in place: [...] int64 -> the same tensor."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        words.bitwise_xor_((words >> 33).bitwise_and_(_HIGH)).mul_(signed(factor))
    return words.bitwise_xor_((words >> 33).bitwise_and_(_HIGH))
