"""DeepFM against its equation, by loops."""

import numpy as np
import pytest
import torch

from shardrec.models.deepfm import DeepFM, DeepFMConfig
from shardrec.models.fields import Fields
from shardrec.models.layers.mlp import MLPConfig
from tests.models.cases import linear, mixed_batch, mixed_schema, pairs_by_loops, perceptron, pooled_rows, randomise
from tests.models.reference_lookup import ReferenceLookup


@pytest.mark.parametrize("dense", [0, 3])
@pytest.mark.parametrize("hidden", [(), (7, 6)])
def test_equals_the_equation(dense: int, hidden: tuple[int, ...]) -> None:
    schema = mixed_schema(dense)
    model = DeepFM(Fields(schema), DeepFMConfig(embedding_dim=4, mlp=MLPConfig(hidden=hidden))).double()
    lookup = ReferenceLookup(model, dtype=torch.float64)
    randomise(model, lookup)
    batch = mixed_batch(schema, 6)
    numbers, rows = batch.dense.double().numpy(), pooled_rows(lookup, "field", batch)
    weights, factors = rows[:, :, 0], rows[:, :, 1:]
    deep = perceptron(model.mlp, np.concatenate([factors.reshape(6, -1), numbers], 1))[:, 0]
    expected = linear(model.linear, numbers) + weights.sum(1) + pairs_by_loops(factors) + deep
    torch.testing.assert_close(model(**lookup(batch)), torch.from_numpy(expected), rtol=0, atol=1e-12)
