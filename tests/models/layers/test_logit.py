"""The last layer under autocast."""

import torch
from torch import nn

from shardrec.models.layers.logit import Logit


def test_computes_in_its_weights_precision_whatever_autocast_says() -> None:
    torch.manual_seed(0)
    layer, x = Logit(300, 2), torch.randn(5, 300, requires_grad=True)
    expected = nn.Linear.forward(layer, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert nn.Linear.forward(layer, x).dtype == torch.bfloat16
        assert torch.equal(layer(x), expected)
        rounded = layer(x.bfloat16())
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, nn.Linear.forward(layer, x.bfloat16().float()))
    (gradient,) = torch.autograd.grad(rounded.sum(), x)
    assert gradient.dtype == torch.float32
    assert layer.double()(x.double()).dtype == torch.float64
