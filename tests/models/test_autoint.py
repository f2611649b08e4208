"""AutoInt and AutoInt+ against their equations, by loops; rows taken some at a time."""

import numpy as np
import pytest
import torch

from shardrec.models import autoint
from shardrec.models.autoint import AutoInt, AutoIntConfig
from shardrec.models.fields import Fields
from shardrec.models.layers.mlp import MLPConfig
from tests.models.cases import mixed_batch, mixed_schema, perceptron, pooled_rows, randomise
from tests.models.layers.test_self_attention import attention_by_loops
from tests.models.reference_lookup import ReferenceLookup


@pytest.mark.parametrize("dense", [0, 3])
@pytest.mark.parametrize("mlp", [None, MLPConfig(hidden=(7, 6))])
def test_equals_the_equation(dense: int, mlp: MLPConfig | None) -> None:
    schema = mixed_schema(dense)
    config = AutoIntConfig(embedding_dim=4, layers=2, heads=2, head_dim=3, mlp=mlp)
    model = AutoInt(Fields(schema), config).double()
    lookup = ReferenceLookup(model, dtype=torch.float64)
    randomise(model, lookup)
    batch = mixed_batch(schema, 6)
    numbers, e = batch.dense.double().numpy(), pooled_rows(lookup, "field", batch)
    every = e
    if dense:
        vectors = model.dense_fields.detach().numpy()
        every = np.concatenate([e, [[x * v for x, v in zip(row, vectors, strict=True)] for row in numbers]], 1)
    for layer in model.attention:
        every = attention_by_loops(layer, every, 3, 1.0)
    expected = perceptron(model.output, every.reshape(6, -1))[:, 0]
    if mlp:
        expected = expected + perceptron(model.mlp, np.concatenate([e.reshape(6, -1), numbers], 1))[:, 0]
    torch.testing.assert_close(model(**lookup(batch)), torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_rows_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = mixed_schema()
    model = AutoInt(Fields(schema), AutoIntConfig(embedding_dim=4, layers=1, head_dim=2)).double()
    inputs = ReferenceLookup(model, dtype=torch.float64)(mixed_batch(schema, 7))
    whole = model(**inputs)
    monkeypatch.setattr(autoint, "_NUMBERS_AT_ONCE", 2 * model.output.in_features)  # rows 2, 2, 2, 1
    torch.testing.assert_close(model(**inputs), whole, rtol=0, atol=1e-14)
    assert model(**{name: value[:0] for name, value in inputs.items()}).shape == (0,)
