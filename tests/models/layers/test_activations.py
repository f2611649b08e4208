"""Dice and maxout against their formulas; every name builds."""

from typing import get_args

import pytest
import torch

from shardrec.models.layers import pieces
from shardrec.models.layers.activations import Activation, Dice, Maxout
from shardrec.models.layers.mlp import MLP, MLPConfig
from shardrec.models.layers.moments import BatchNorm, live_rows


def test_dice_equals_its_formula() -> None:
    layer = Dice(4).double()
    torch.nn.init.normal_(layer.alpha)
    s = torch.randn(9, 4, dtype=torch.float64)
    p = 1 / (1 + torch.exp(-(s - s.mean(0)) / (s.var(0, unbiased=False) + 1e-8).sqrt()))
    torch.testing.assert_close(layer(s), p * s + (1 - p) * layer.alpha * s, rtol=0, atol=1e-12)
    layer.eval()
    mean, var = layer.moments.running_mean, layer.moments.running_var
    p = 1 / (1 + torch.exp(-(s - mean) / (var + 1e-8).sqrt()))
    torch.testing.assert_close(layer(s), p * s + (1 - p) * layer.alpha * s, rtol=0, atol=1e-12)


@pytest.mark.parametrize("piece_bytes", [1, 100, 1 << 20])
@pytest.mark.parametrize("layer_class", [Dice, BatchNorm])
def test_gradients_by_differences(
    layer_class: type[torch.nn.Module], piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the moments too, of live rows alone; with what pieces of rows there are."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", piece_bytes)
    layer = layer_class(4).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    live = torch.tensor([True, True, False, True, True, False, True])

    def run(s: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        layer.load_state_dict(fresh)  # running moments as they were: sums are taken from the mean on
        named = dict(zip([name for name, _ in layer.named_parameters()], parameters, strict=True))
        with live_rows(live):
            return torch.func.functional_call(layer, named, (s,))[live]

    fresh = {name: value.clone() for name, value in layer.state_dict().items()}
    s = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (s, *(p.detach().clone().requires_grad_() for p in layer.parameters())))


def test_maxout_takes_the_largest_piece() -> None:
    x = torch.tensor([[1.0, 5.0, 3.0, 4.0]])
    assert torch.equal(Maxout(2)(x), torch.tensor([[3.0, 5.0]]))


@pytest.mark.parametrize("name", get_args(Activation))
def test_every_activation_trains_in_an_mlp(name: Activation) -> None:
    torch.manual_seed(0)
    mlp = MLP(5, MLPConfig(hidden=(6, 4), activation=name, batch_norm=True, dropout=0.1))
    y = mlp(torch.randn(16, 5))
    assert y.shape == (16, 1)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mlp.parameters() if p.requires_grad)


def test_an_mlp_without_an_output_layer_ends_with_its_activation() -> None:
    mlp = MLP(5, MLPConfig(hidden=(6, 4)), out=None)
    assert mlp.width == 4
    assert (mlp(torch.randn(32, 5)) >= 0).all()
