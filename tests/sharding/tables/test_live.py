"""What tables hold on this rank is counted in parts."""

import pytest
import torch

from shardrec.sharding.tables import live


@pytest.mark.parametrize("shape", [(0,), (25,), (0, 4), (7, 4), (3, 100)])
def test_counted_in_parts(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.arange(torch.Size(shape).numel()).view(shape) % 3 - 1
    expected = int(torch.count_nonzero(numbers))
    assert live.count_nonzero(numbers) == expected
    monkeypatch.setattr(live, "COUNTED_AT_ONCE", 10)  # parts of two rows, of one, of ten numbers
    assert live.count_nonzero(numbers) == expected
