"""The mixing of counters is MurmurHash3's finaliser, bit for bit."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from shardrec.sharding.tables.draws import mixed, signed

WORD = (1 << 64) - 1


def plain(word: int) -> int:
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        word ^= word >> 33
        word = word * factor & WORD
    return word ^ word >> 33


@given(words=st.lists(st.integers(0, WORD), min_size=1, max_size=9))
def test_equals_integers_of_any_size(words: list[int]) -> None:
    found = mixed(torch.tensor([signed(w) for w in words]))
    assert found.tolist() == [signed(plain(w)) for w in words]
