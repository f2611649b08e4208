"""Histories that the tests of several models share: rows of a lookup, and the same rows changed."""

from typing import Any

import numpy as np
import torch

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.base import Recommender
from shardrec.models.fields import Fields
from shardrec.models.histories import HistoryConfig
from shardrec.models.inputs import Jagged
from tests.models.cases import histories_batch, histories_schema, randomise
from tests.models.reference_lookup import ReferenceLookup

SCHEMA = histories_schema()
WITH_NUMBERS = histories_schema(numbers=("price_history", "age_history", "negative_price_history"))
PRICED: dict[str, Any] = {"target": {"price_history": "n1"}}
"""Settings under which an item's price is the dense feature n1; an event's age has no partner."""


def build(model_class: Any, config: HistoryConfig, schema: Schema = SCHEMA) -> tuple[Any, ReferenceLookup]:
    """In float64, with parameters of some size, in evaluation mode."""
    model = model_class(Fields(schema), config).double().eval()
    lookup = ReferenceLookup(model, dtype=torch.float64)
    randomise(model, lookup)
    return model, lookup


def batch(rows: int = 7, seed: int = 0, padding: int = 0, schema: Schema = SCHEMA) -> Batch:
    return histories_batch(schema, rows, seed, padding=padding)


def arrays(inputs: dict[str, Any]) -> dict[str, Any]:
    """[B, rest] context and dense, a list of [n, E] of each row for sequences, [B, D] target and [B, E] target_event.

    Under `PRICED` a target's price is n1, and its age 0.
    """
    found: dict[str, Any] = {}
    for name, value in inputs.items():
        if isinstance(value, Jagged):
            numbers = [] if value.dense is None else [value.dense]
            events = torch.cat([value.values.flatten(1), *numbers], 1).detach().numpy()
            found[name] = np.split(events, value.offsets[1:-1].tolist())
        else:
            found[name] = value.detach().flatten(1).numpy()
    found["target_event"] = target = found["target"]
    if inputs["history"].dense is not None:
        price = found["dense"][:, 1]
        found["target_event"] = np.concatenate([target, np.stack([price, 0 * price], 1)], 1)
    return found


def scores(model: Recommender, inputs: dict[str, Any]) -> torch.Tensor:
    output = model(**inputs)
    return output.logits if isinstance(output, tuple) else output


def permuted(history: Jagged, seed: int = 0) -> Jagged:
    """Each row's events in another order, in which a row of at least two ends with another event."""
    order = []
    for first, length in zip(history.offsets.tolist(), history.lengths.tolist(), strict=False):
        order += [first + (t + 1) % length for t in range(length)]
    return history._replace(values=history.values[order], dense=None if history.dense is None else history.dense[order])


def check_rows_are_alone(model: Recommender, lookup: ReferenceLookup, schema: Schema = SCHEMA) -> None:
    """Neither padding rows, nor other rows of the batch change a prediction in evaluation mode."""
    inputs = lookup(batch(schema=schema))
    expected = scores(model, inputs)
    padded = scores(model, lookup(batch(padding=3, schema=schema)))
    torch.testing.assert_close(padded[:7], expected, rtol=0, atol=1e-12)
    for b in range(7):
        one: dict[str, Any] = {}
        for name, value in inputs.items():
            if isinstance(value, Jagged):
                first, last = value.offsets[b], value.offsets[b + 1]
                one[name] = Jagged(
                    value.values[first:last],
                    value.lengths[b : b + 1],
                    torch.stack([0 * first, last - first]),
                    dense=None if value.dense is None else value.dense[first:last],
                )
            else:
                one[name] = value[b : b + 1]
        torch.testing.assert_close(scores(model, one), expected[b : b + 1], rtol=0, atol=1e-12)
