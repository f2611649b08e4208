"""Histories that the tests of several models share: rows of a lookup, and the same rows changed."""

from typing import Any

import numpy as np
import torch

from shardrec.data_pipeline.batch import Batch
from shardrec.models.base import Recommender
from shardrec.models.fields import Fields
from shardrec.models.histories import HistoryConfig
from shardrec.models.inputs import Jagged
from tests.models.cases import histories_batch, histories_schema, randomise
from tests.models.reference_lookup import ReferenceLookup

SCHEMA = histories_schema()


def build(model_class: Any, config: HistoryConfig) -> tuple[Any, ReferenceLookup]:
    """In float64, with parameters of some size, in evaluation mode."""
    model = model_class(Fields(SCHEMA), config).double().eval()
    lookup = ReferenceLookup(model, dtype=torch.float64)
    randomise(model, lookup)
    return model, lookup


def batch(rows: int = 7, seed: int = 0, padding: int = 0) -> Batch:
    return histories_batch(SCHEMA, rows, seed, padding=padding)


def arrays(inputs: dict[str, Any]) -> dict[str, Any]:
    """[B, E] target, [B, rest] context and dense, and a list of [n, E] of each row for sequences."""
    found: dict[str, Any] = {}
    for name, value in inputs.items():
        if isinstance(value, Jagged):
            found[name] = np.split(value.values.detach().flatten(1).numpy(), value.offsets[1:-1].tolist())
        else:
            found[name] = value.detach().flatten(1).numpy()
    return found


def scores(model: Recommender, inputs: dict[str, Any]) -> torch.Tensor:
    output = model(**inputs)
    return output.logits if isinstance(output, tuple) else output


def permuted(history: Jagged, seed: int = 0) -> Jagged:
    """Each row's events in another order, in which a row of at least two ends with another event."""
    order = []
    for first, length in zip(history.offsets.tolist(), history.lengths.tolist(), strict=False):
        order += [first + (t + 1) % length for t in range(length)]
    return history._replace(values=history.values[order])


def check_rows_are_alone(model: Recommender, lookup: ReferenceLookup) -> None:
    """Neither padding rows, nor other rows of the batch change a prediction in evaluation mode."""
    expected = scores(model, lookup(batch()))
    padded = scores(model, lookup(batch(padding=3)))
    torch.testing.assert_close(padded[:7], expected, rtol=0, atol=1e-12)
    inputs = lookup(batch())
    for b in range(7):
        one: dict[str, Any] = {}
        for name, value in inputs.items():
            if isinstance(value, Jagged):
                first, last = value.offsets[b], value.offsets[b + 1]
                one[name] = Jagged(
                    value.values[first:last], value.lengths[b : b + 1], torch.stack([0 * first, last - first])
                )
            else:
                one[name] = value[b : b + 1]
        torch.testing.assert_close(scores(model, one), expected[b : b + 1], rtol=0, atol=1e-12)
