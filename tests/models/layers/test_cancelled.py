"""Biases that batch norm takes away are left alone: 0 in new nets, in those of older checkpoints what they were."""

import torch
from torch import nn

from shardrec.models.layers.mlp import MLP, MLPConfig


def test_an_older_checkpoints_bias_is_used_and_stays() -> None:
    """As torch's own layers use it, in evaluation too, where running means are of columns with it."""
    torch.manual_seed(0)
    mlp = MLP(5, MLPConfig(hidden=(6,), batch_norm=True))
    assert not mlp.layers[0].bias.any()  # type: ignore[union-attr,operator]
    theirs = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1))
    state = theirs.state_dict()
    renamed = {f"layers.{name.replace('1.running', '1.moments.running')}": value for name, value in state.items()}
    mlp.load_state_dict({name: value for name, value in renamed.items() if "num_batches" not in name})
    x = torch.randn(32, 5)
    torch.testing.assert_close(mlp(x), theirs(x))
    torch.testing.assert_close(mlp.eval()(x), theirs.eval()(x))

    optimizer = torch.optim.Adam(mlp.parameters(), lr=0.1, weight_decay=0.1)
    mlp.train()(x).square().sum().backward()
    optimizer.step()
    assert torch.equal(mlp.layers[0].bias, state["0.bias"])  # type: ignore[arg-type]
    assert not torch.equal(mlp.layers[0].weight, state["0.weight"])  # type: ignore[arg-type]
