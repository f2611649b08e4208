"""What metrics need from other ranks, over gloo."""

import pytest
import torch


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_collective(ranks: int, everywhere: dict) -> None:
    rows = [[10.0 * r + i] for r in range(ranks) for i in range(r)]
    for rank, result in enumerate(r["collective"] for r in everywhere[ranks]):
        assert result["sum"] == [sum(range(ranks)), ranks]
        assert result["kept"] == [rank, 1]
        assert torch.equal(result["concatenate"], torch.tensor(rows, dtype=torch.float64).view(-1, 1))
        assert result["flags"].tolist() == [r % 2 == 0 for r in range(ranks)]
        assert result["exchange"].tolist() == [100 * r + rank for r in range(ranks) for _ in range(rank + r)]
