"""Products of positions with their row's vector, in pieces, against the plain formula."""

import pytest
import torch

from shardrec.models.inputs import Jagged
from shardrec.models.layers import pieces
from shardrec.models.layers.jagged_product import jagged_product

LENGTHS = torch.tensor([3, 0, 5, 1, 0])


def given(lengths: torch.Tensor = LENGTHS, columns: int = 4) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    positions = int(lengths.sum())
    values = torch.randn(positions, columns, dtype=torch.float64, generator=generator, requires_grad=True)
    vectors = torch.randn(len(lengths), columns, dtype=torch.float64, generator=generator, requires_grad=True)
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    return values, vectors, Jagged(values, lengths, offsets).row_of_position(), offsets


@pytest.mark.parametrize("piece_bytes", [1, 64, 1 << 20])
def test_equals_the_formula_and_its_gradients(piece_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 1, 2 and all positions."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", piece_bytes)
    values, vectors, row, offsets = given()
    assert row.tolist() == [0, 0, 0, 2, 2, 2, 2, 2, 3]
    expected = torch.stack([values[t] @ vectors[r] for t, r in enumerate(row.tolist())])
    torch.testing.assert_close(jagged_product(values, vectors, row, offsets), expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda a, b: jagged_product(a, b, row, offsets), (values, vectors))


def test_without_positions() -> None:
    values, vectors, row, offsets = given(torch.zeros(3, dtype=torch.int64))
    jagged_product(values, vectors, row, offsets).sum().backward()
    assert values.grad.shape == (0, 4) and not vectors.grad.any()
