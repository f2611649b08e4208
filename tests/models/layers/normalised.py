"""A net with batch norm and Dice, trained on all rows or on a rank's share of them."""

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from shardrec.models.layers.mlp import MLP, MLPConfig
from shardrec.models.layers.moments import live_rows
from shardrec.models.metrics.collective import Collective

ROWS, STEPS, RATE = 30, 5, 0.05


def rows_and_net(dtype: torch.dtype) -> tuple[Tensor, Tensor, MLP]:
    generator = torch.Generator().manual_seed(0)
    x, wanted = (torch.randn(ROWS, n, dtype=dtype, generator=generator) for n in (5, 1))
    torch.manual_seed(1)
    return x, wanted, MLP(5, MLPConfig(hidden=(6, 4), batch_norm=True, activation="dice")).to(dtype)


def train_all(dtype: torch.dtype) -> dict[str, Tensor]:
    """The net's state after some steps on all rows in one process."""
    x, wanted, net = rows_and_net(dtype)
    for _ in range(STEPS):
        net.zero_grad()
        ((net(x) - wanted).square().sum() / ROWS).backward()
        descend(net)
    return net.state_dict()


def train_share(dtype: torch.dtype, collective: Collective) -> dict[str, Tensor]:
    """The same on a rank that holds 11 or 19 rows and is padded to 20; gradients are averaged over ranks."""
    x, wanted, net = rows_and_net(dtype)
    part = slice(0, 11) if collective.rank == 0 else slice(11, ROWS)
    live = torch.arange(20) < len(x[part])
    padded, target = torch.full((20, 5), 99.0, dtype=dtype), torch.zeros(20, 1, dtype=dtype)
    padded[live], target[live] = x[part], wanted[part]
    for _ in range(STEPS):
        net.zero_grad()
        with live_rows(live, all_reduce):
            output = net(padded)
        loss = (output - target)[live].square().sum() / ROWS
        (collective.world_size * loss).backward()
        for parameter in trained(net):
            parameter.grad = collective.sum(parameter.grad) / collective.world_size
        descend(net)
    return net.state_dict()


def trained(net: MLP) -> list[nn.Parameter]:
    """All but the linear layers' biases, which are kept at 0."""
    return [parameter for parameter in net.parameters() if parameter.requires_grad]


@torch.no_grad()
def descend(net: MLP) -> None:
    for parameter in trained(net):
        parameter -= RATE * parameter.grad
