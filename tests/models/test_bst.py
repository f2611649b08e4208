"""BST against transformer layers row by row; order matters; attention that explains."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.bst import BST, BSTConfig
from shardrec.models.fields import Fields
from shardrec.models.layers.transformer import TransformerLayer
from tests.models.behaviour import (
    PRICED,
    SCHEMA,
    WITH_NUMBERS,
    arrays,
    batch,
    build,
    check_rows_are_alone,
    permuted,
    scores,
)

SMALL: dict[str, Any] = {"embedding_dim": 4, "heads": 3, "mlp": {"hidden": (5,)}}


def layer_of_one_row(layer: TransformerLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    """[n, E] -> [n, E], and the attention [heads, n, n]."""
    heads, weights = [], []
    for q, k, v in zip(*(part(x).chunk(layer.heads, 1) for part in (layer.query, layer.key, layer.value)), strict=True):
        weights.append(torch.softmax(q @ k.T / q.shape[1] ** 0.5, 1))
        heads.append(weights[-1] @ v)
    x = layer.attended_norm(x + layer.output(torch.cat(heads, 1)))
    return layer.norm(x + layer.down(F.leaky_relu(layer.up(x)))), torch.stack(weights)


def by_loops(model: BST, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Logits, and the attention of each row's target to its events."""
    target = inputs["target"].flatten(1)
    given = {name: arrays(inputs)[name] for name in ("history", "target_event")}
    rows, attention = [], []
    for b, events in enumerate(given["history"]):
        n = len(events)
        x = (
            torch.as_tensor(np.concatenate([events, given["target_event"][b : b + 1]]))
            + model.recency.weight[torch.arange(n, -1, -1)]
        )
        for layer in model.layers:
            x, weights = layer_of_one_row(layer, x)
        rows.append(
            torch.cat([x[n], x[:n].mean(0) if n else 0 * x[n], target[b], inputs["context"][b], inputs["dense"][b]])
        )
        attention.append(weights[:, n, :n].mean(0))
    return model.mlp(torch.stack(rows)).squeeze(1), torch.cat(attention)


@pytest.mark.parametrize(
    ("layers", "schema", "more"), [(1, SCHEMA, {}), (2, SCHEMA, {}), (1, WITH_NUMBERS, PRICED | {"heads": 2})]
)
def test_equals_layers_row_by_row_and_explains_itself(layers: int, schema: Schema, more: dict[str, Any]) -> None:
    model, lookup = build(BST, BSTConfig(**SMALL | more, layers=layers), schema)
    inputs = lookup(batch(20, schema=schema))
    expected, attention = by_loops(model, inputs)
    torch.testing.assert_close(model(**inputs), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(model.explain(**inputs).weights.values, attention, rtol=0, atol=1e-11)
    check_rows_are_alone(model, lookup, schema)


def test_the_order_of_events_matters() -> None:
    model, lookup = build(BST, BSTConfig(**SMALL))
    inputs = lookup(batch())
    changed = scores(model, inputs | {"history": permuted(inputs["history"])}) - scores(model, inputs)
    several = inputs["history"].lengths > 1
    assert (changed[several].abs() > 1e-6).all() and not changed[~several].abs().gt(1e-12).any()


def test_columns_that_heads_do_not_divide() -> None:
    with pytest.raises(
        UserError, match="the 12 columns of an event cannot be dealt to 5 heads; set `heads` to one of 1, 2, 3, 4, 6"
    ):
        BST(Fields(SCHEMA), BSTConfig(embedding_dim=4, heads=5))
