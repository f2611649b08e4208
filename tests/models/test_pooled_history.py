"""The base model against its equation, by loops."""

from typing import Literal

import numpy as np
import pytest

from shardrec.models.pooled_history import PooledHistory, PooledHistoryConfig
from tests.models.behaviour import WITH_NUMBERS, arrays, batch, build, check_rows_are_alone
from tests.models.cases import perceptron


@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_equals_the_equation(pooling: Literal["mean", "sum"]) -> None:
    """Of events with a price and an age, which end their vectors."""
    config = PooledHistoryConfig(embedding_dim=4, pooling=pooling, mlp={"hidden": (5,)})
    model, lookup = build(PooledHistory, config, WITH_NUMBERS)
    inputs = lookup(batch(schema=WITH_NUMBERS))
    given = arrays(inputs)
    interest = np.zeros((7, 14))
    for b, events in enumerate(given["history"]):
        for e in events:
            interest[b] += e / (len(events) if pooling == "mean" else 1)
    x = np.concatenate([interest, given["target"], given["context"], given["dense"]], 1)
    np.testing.assert_allclose(model(**inputs).detach().numpy(), perceptron(model.mlp, x)[:, 0], rtol=0, atol=1e-12)
    check_rows_are_alone(model, lookup, WITH_NUMBERS)
