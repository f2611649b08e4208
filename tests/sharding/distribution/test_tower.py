"""A tower's gradients are averaged while backward goes on, in the same messages in every step."""

import torch
import torch.distributed as dist
from torch import nn

from shardrec.sharding.distribution.tower import ReplicatedTower
from tests.processes import run_processes

LAYERS, WIDTH, STEPS = 5, 1600, 3  # 10 MB each, of messages of 25 MB


def backward(rank: int) -> tuple[list[list[str]], bool]:
    """In which order gradients are there, and messages of which numbers sent, by step; whether those are averages."""
    torch.manual_seed(0)
    layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    tower, order = ReplicatedTower(layers, static_graph=True, gradient_as_bucket_view=True), list[str]()

    def sent(state: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        order.append(f"message of {bucket.buffer().numel()}")
        averaged = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
        return averaged.then(lambda sums: sums.value()[0] / dist.get_world_size())

    tower.register_comm_hook(None, sent)
    for number, layer in enumerate(layers):
        layer.weight.register_post_accumulate_grad_hook(lambda weight, number=number: order.append(f"layer {number}"))
    orders, rows = [], torch.randn(2, 4, WIDTH)  # of each rank, which both draw
    for _ in range(STEPS):
        tower.zero_grad()
        tower(rows[rank]).square().sum().backward()
        orders.append([*order])
        order.clear()
    replicated = [parameter.grad.clone() for parameter in layers.parameters()]
    layers.zero_grad()
    (layers(rows.flatten(0, 1)).square().sum() / dist.get_world_size()).backward()
    alone = [parameter.grad for parameter in layers.parameters()]
    return orders, all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(replicated, alone, strict=True))


def test_messages_are_sent_while_gradients_are_computed() -> None:
    for orders, are_averages in run_processes(2, backward):
        assert are_averages
        for order in orders[1:]:  # in the first step the graph is looked at
            first = next(i for i, said in enumerate(order) if said.startswith("message"))
            assert order.index(f"layer {LAYERS - 1}") < first < order.index("layer 0"), "nothing overlaps"
            messages = [said for said in order if said.startswith("message")]
            assert len(messages) > 1 and messages == [said for said in orders[0] if said.startswith("message")]
