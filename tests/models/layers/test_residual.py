"""The residual unit against its equation."""

import numpy as np
import torch

from shardrec.models.layers.residual import ResidualUnit
from tests.models.cases import randomise


def test_equals_the_equation() -> None:
    unit = ResidualUnit(5, 3).double()
    randomise(unit)
    x = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w0, b0, w1, b1 = (p.detach().numpy() for p in (unit.down.weight, unit.down.bias, unit.up.weight, unit.up.bias))
    expected = [np.maximum(w1 @ np.maximum(w0 @ row + b0, 0) + b1 + row, 0) for row in x.numpy()]
    torch.testing.assert_close(unit(x), torch.from_numpy(np.stack(expected)), rtol=0, atol=1e-12)


def test_dropout_leaves_the_shortcut() -> None:
    unit = ResidualUnit(5, 3, dropout=1.0)
    x = torch.rand(6, 5)
    assert torch.equal(unit(x), x)
    assert not torch.equal(unit.eval()(x), x)
