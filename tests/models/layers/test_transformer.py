"""Transformer layers on jagged rows against torch's own, row by row; rows in buckets of nearly equal length."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shardrec.models.layers.packing import regroup
from shardrec.models.layers.transformer import TransformerLayer, bucket_by_length
from shardrec.trainer.benchmarks.gpu_check.sections.host_reads import HostReads
from tests.models.layers.jagged import numbers, rows

WIDTH, HEADS = 6, 2
LENGTHS = (3, 1, 14, 9, 1, 13, 2, 10)


def pair() -> tuple[TransformerLayer, nn.MultiheadAttention]:
    torch.manual_seed(0)
    layer, theirs = TransformerLayer(WIDTH, HEADS, 5).double(), nn.MultiheadAttention(WIDTH, HEADS).double()
    three = [layer.query, layer.key, layer.value]
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in three]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in three]))
    theirs.out_proj.load_state_dict(layer.output.state_dict())
    return layer, theirs


def row_by_row(layer: TransformerLayer, attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    x = layer.attended_norm(x + attention(x, x, x, need_weights=False)[0])
    return layer.norm(x + layer.down(nn.functional.leaky_relu(layer.up(x))))


def test_lengths_on_the_host_spare_a_read() -> None:
    given = rows(LENGTHS)
    with HostReads() as reads:
        found = bucket_by_length(*given, np.array(LENGTHS))
    assert reads.total == 0
    expected = bucket_by_length(*given)
    assert torch.equal(found.source, expected.source)
    assert [part[:3] for part in found.parts] == [part[:3] for part in expected.parts]


def test_equals_torchs_attention_row_by_row_and_its_gradients() -> None:
    given, (layer, theirs) = rows(LENGTHS), pair()
    buckets = bucket_by_length(*given)
    ours_in, theirs_in = numbers(given.positions, WIDTH), numbers(given.positions, WIDTH)
    found, weights = layer(regroup(ours_in, buckets.source, buckets.reverse), buckets)
    ours = regroup(found, buckets.reverse, buckets.source)
    expected = torch.cat([row_by_row(layer, theirs, part) for part in given.split(theirs_in)])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    upstream = numbers(given.positions, WIDTH, seed=1).detach()
    ours.backward(upstream)
    of_up = layer.up.weight.grad.clone()
    layer.zero_grad()
    expected.backward(upstream)
    torch.testing.assert_close(ours_in.grad, theirs_in.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(of_up, layer.up.weight.grad, rtol=0, atol=1e-12)
    for part, attention in zip(buckets.parts, weights, strict=True):
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]), check_dtype=False)
        assert not attention[(part.mask < 0).expand_as(attention)].any()


@pytest.mark.parametrize("lengths", [LENGTHS, tuple(range(1, 60)), (0, 4, 0, 4), (7,)])
def test_buckets_hold_every_position_once_with_little_padding(lengths: tuple[int, ...]) -> None:
    given = rows(lengths)
    buckets = bucket_by_length(*given)
    places = [
        first + part.position[part.slot] for first, part in zip(starts(buckets.parts), buckets.parts, strict=True)
    ]
    assert torch.cat(places).tolist() == list(range(given.positions))
    assert sorted(buckets.source.tolist()) == list(range(given.positions))
    slots = sum(part.rows * part.width for part in buckets.parts)
    assert slots <= 1.2 * given.positions and sum(part.rows for part in buckets.parts) == sum(n > 0 for n in lengths)
    for part in buckets.parts:
        live = (part.mask == 0).flatten(1)
        assert (live.sum(1) * 1.2 >= part.width).all()


def starts(parts: tuple) -> list[int]:
    found = [0]
    for part in parts:
        found.append(found[-1] + part.positions)
    return found[:-1]
