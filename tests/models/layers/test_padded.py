"""Padded forms of layers give what their jagged ones do, whatever stands in padding slots."""

from typing import Any

import pytest
import torch
from torch import Tensor

from shardrec.models.layers.activation_unit import ActivationUnit, Interaction, ProjectedUnit
from shardrec.models.layers.jagged_product import jagged_product
from shardrec.models.layers.jagged_softmax import jagged_softmax
from shardrec.models.layers.jagged_sum import jagged_sum
from shardrec.models.layers.mlp import MLPConfig
from shardrec.models.layers.packing import pack_steps
from shardrec.models.layers.padded import padded_mean_weights, padded_product, padded_softmax, padded_sum
from shardrec.models.layers.recurrent import GRU, Update
from shardrec.models.layers.transformer import TransformerLayer, bucket_by_length
from tests.models.layers.jagged import numbers, rows

BATCH = rows((3, 0, 5, 1, 5, 0, 2))  # of which two are empty and two full
SLOTS = 5
LIVE = torch.arange(SLOTS) < BATCH.lengths[:, None]
T, B = BATCH.positions, len(BATCH.lengths)
UNIT = MLPConfig(hidden=(6, 3), activation="dice")


def padded(values: Tensor) -> Tensor:
    """[T, ...] -> [B, L, ...], with large numbers at padding."""
    slots = torch.full((B, SLOTS, *values.shape[1:]), 1e3, dtype=values.dtype)
    slots[LIVE] = values.detach()
    return slots


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected.detach(), rtol=1e-10, atol=1e-10)


def test_sums_products_and_softmax() -> None:
    values, vectors, score = numbers(T, 4), numbers(B, 4, seed=1), numbers(T, seed=2)
    share = jagged_softmax(score, BATCH.row, BATCH.lengths, BATCH.offsets)
    found = padded_softmax(padded(score), LIVE)
    assert_equal(found[LIVE], share)
    assert not found[~LIVE].any()
    assert_equal(padded_sum(padded(values), found), jagged_sum(values, share, BATCH.row, BATCH.offsets))
    products = jagged_product(values, vectors, BATCH.row, BATCH.offsets)
    assert_equal(padded_product(padded(values), vectors.detach())[LIVE], products)
    means = [part.mean(0) if len(part) else torch.zeros(4) for part in BATCH.split(values.detach())]
    found = padded_sum(padded(values), padded_mean_weights(LIVE, torch.float64))
    assert_equal(found, torch.stack([mean.double() for mean in means]))


@torch.no_grad()
@pytest.mark.parametrize("interaction", ["difference_product", "outer_product"])
@pytest.mark.parametrize("of_states", [False, True])
def test_activation_unit(interaction: Interaction, of_states: bool) -> None:
    torch.manual_seed(0)
    unit: Any = ProjectedUnit(3, 4, UNIT, interaction) if of_states else ActivationUnit(4, UNIT, interaction)
    unit.double().eval()
    events, target = numbers(T, 4), numbers(B, 3 if of_states else 4, seed=1)
    assert_equal(unit.padded(padded(events), target)[LIVE], unit(events, target, BATCH.row, BATCH.offsets))


@torch.no_grad()
@pytest.mark.parametrize("update", ["learned", "scaled", "attention"])
def test_gru_keeps_its_state_at_padding(update: Update) -> None:
    torch.manual_seed(0)
    gru = GRU(3, 4, update).double()
    inputs, attention = numbers(T, 3), None if update == "learned" else numbers(T, seed=1).sigmoid()
    packing = pack_steps(BATCH.lengths, BATCH.row, BATCH.offsets)
    states = gru(packing.pack(inputs), packing, None if attention is None else packing.pack(attention))
    found = gru.padded(padded(inputs), LIVE, None if attention is None else padded(attention))
    assert_equal(found[LIVE], packing.unpack(states))
    assert_equal(found[:, -1], packing.final(states, B))


@torch.no_grad()
def test_transformer_layer() -> None:
    torch.manual_seed(0)
    layer = TransformerLayer(4, 2, 8).double().eval()
    target, events = numbers(B, 4), numbers(T, 4, seed=1)
    together = torch.cat([part for b, x in enumerate(BATCH.split(events)) for part in (target[b : b + 1], x)])
    whole = rows(tuple((BATCH.lengths + 1).tolist()))
    buckets = bucket_by_length(whole.lengths, whole.row, whole.offsets)
    expected = layer(together[buckets.source], buckets)[0][buckets.reverse]
    seen = torch.cat([LIVE.new_ones(B, 1), LIVE], 1)
    of_target, of_events = layer.padded(target.unsqueeze(1), padded(events), seen)
    is_target = torch.zeros(len(together), dtype=torch.bool)
    is_target[whole.offsets[:-1]] = True
    assert_equal(of_target.squeeze(1), expected[is_target])
    assert_equal(of_events[LIVE], expected[~is_target])
