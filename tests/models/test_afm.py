"""AFM against its equation, by loops; with uniform attention it is the FM up to the pair count."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from shardrec.models.afm import AFM, AFMConfig
from shardrec.models.fields import Fields
from shardrec.models.fm import FM, FMConfig
from tests.models.cases import linear, mixed_batch, mixed_schema, pooled_rows, randomise
from tests.models.layers.test_pair_attention import by_loops
from tests.models.reference_lookup import ReferenceLookup


@pytest.mark.parametrize("dense", [0, 3])
def test_equals_the_equation(dense: int) -> None:
    schema = mixed_schema(dense)
    model = AFM(Fields(schema), AFMConfig(embedding_dim=4, attention_size=5, attention_dropout=0.5)).double().eval()
    lookup = ReferenceLookup(model, dtype=torch.float64)
    randomise(model, lookup)
    batch = mixed_batch(schema, 6)
    rows = pooled_rows(lookup, "field", batch)
    _, pooled = by_loops(model.attention, rows[:, :, 1:])
    expected = linear(model.linear, batch.dense.double().numpy()) + rows[:, :, 0].sum(1)
    expected += pooled @ model.output.detach().numpy()
    torch.testing.assert_close(model(**lookup(batch)), torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_with_uniform_attention_it_is_the_fm_up_to_the_pair_count() -> None:
    schema = mixed_schema()
    fm = FM(Fields(schema), FMConfig(embedding_dim=4)).double()
    afm = AFM(Fields(schema), AFMConfig(embedding_dim=4)).double()
    assert afm.tables == fm.tables
    lookup = ReferenceLookup(fm, dtype=torch.float64)
    randomise(fm, lookup)
    torch.nn.init.zeros_(afm.attention.score.weight)
    afm.linear.load_state_dict(fm.linear.state_dict())
    inputs = lookup(mixed_batch(schema, 6))
    first_order = fm.linear(inputs["dense"]) + inputs["field"][:, :, 0].sum(1)
    pairs = 6 * 5 / 2
    torch.testing.assert_close(pairs * (afm(**inputs) - first_order), fm(**inputs) - first_order, rtol=0, atol=1e-12)


def test_crossings_tell_which_pair_is_attended_to() -> None:
    schema = mixed_schema()
    model = AFM(Fields(schema), AFMConfig(embedding_dim=2, attention_size=1))
    with torch.no_grad():
        model.attention.hidden.weight.fill_(1)
        model.attention.hidden.bias.zero_()
        model.attention.score.weight.fill_(1)
    field = torch.zeros(3, 6, 3)
    field[:, [1, 4], 1:] = 3  # the pair of item and topics has the only interaction that is not 0
    weights, pairs = model.crossings(field)
    assert pairs == tuple(combinations(["user", "item", "last_item", "tags", "topics", "user_item"], 2))
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    share = np.exp(18) / (np.exp(18) + 14)
    torch.testing.assert_close(weights[:, pairs.index(("item", "topics"))], torch.full((3,), share), check_dtype=False)
    explained = model.explain(field, torch.zeros(3, 3))
    assert torch.equal(explained.weights, weights) and explained.names[pairs.index(("item", "tags"))] == "item_x_tags"


def with_inputs(**settings: Any) -> tuple[AFM, dict[str, Any]]:
    """A model with drawn parameters, and the inputs of 50 rows."""
    schema = mixed_schema()
    model = AFM(Fields(schema), AFMConfig(embedding_dim=4, **settings))
    lookup = ReferenceLookup(model)
    randomise(model, lookup)
    return model, lookup(mixed_batch(schema, 50))


def test_attention_dropout_is_of_the_weights() -> None:
    """Of training; nor does an explanation know it."""
    model, inputs = with_inputs(attention_dropout=0.5)
    pairs = torch.stack([a * b for a, b in combinations(inputs["field"][:, :, 1:].unbind(1), 2)])
    first_order = model.linear(inputs["dense"]) + inputs["field"][:, :, 0].sum(1)
    torch.manual_seed(1)
    weights = torch.dropout(model.crossings(inputs["field"])[0].T, 0.5, True)
    torch.manual_seed(1)
    torch.testing.assert_close(model(**inputs), first_order + (weights[:, :, None] * pairs).sum(0) @ model.output)
    torch.testing.assert_close(model.explain(**inputs).weights.sum(1), torch.ones(50))


def test_dropout_is_of_the_pooled_pairs() -> None:
    model, inputs = with_inputs(dropout=0.5)
    pooled = model.attention(inputs["field"][:, :, 1:])
    first_order = model.linear(inputs["dense"]) + inputs["field"][:, :, 0].sum(1)
    for training in (True, False):
        model.train(training)
        torch.manual_seed(1)
        expected = first_order + torch.dropout(pooled, 0.5, training) @ model.output
        torch.manual_seed(1)
        torch.testing.assert_close(model(**inputs), expected)
