"""Values that training cannot go on from, counted by the bounds of what they are."""

import math

import pytest
import torch

from shardrec.sharding.tables.magnitudes import count_beyond, largest_value, unsound_values

VALUES = (0.0, -1e14, 1e16, -1e16, 1e29, 1e31, math.inf, -math.inf, math.nan)


@pytest.mark.parametrize(
    ("name", "beyond"), [("weight", 7), ("momentum", 7), ("accumulator", 4), ("exp_avg_sq", 4), ("n", 4), ("z", 7)]
)
def test_sums_of_squares_may_be_larger(name: str, beyond: int) -> None:
    assert count_beyond(torch.tensor(VALUES), largest_value(name)) == beyond
    assert unsound_values({name: torch.tensor(VALUES).expand(3, -1)}) == {name: 3 * beyond}


def test_half_precision_holds_no_more_than_it_does() -> None:
    """The bound itself is infinite in fp16."""
    assert count_beyond(torch.tensor([65504.0, math.inf, -math.inf, math.nan]).half(), largest_value("weight")) == 3


def test_what_is_sound_is_left_out() -> None:
    tensors = {"weight": torch.ones(5, 2), "steps": torch.tensor(3.0), "rows": torch.full((4,), 2**62)}
    assert unsound_values(tensors) == {}
    assert count_beyond(torch.empty(0, 4), 1.0) == 0


def test_chunks_of_rows_are_all_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardrec.sharding.tables.magnitudes._CHUNK_BYTES", 16)
    weight = torch.zeros(9, 2)
    weight[[0, 4, 8], 1] = math.nan
    assert unsound_values({"weight": weight}) == {"weight": 3}
