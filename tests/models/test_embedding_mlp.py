"""Embedding + MLP against its equation; dims may differ."""

import numpy as np
import torch

from shardrec.models.embedding_mlp import EmbeddingMLP, EmbeddingMLPConfig
from shardrec.models.fields import Fields
from shardrec.models.layers.mlp import MLPConfig
from shardrec.models.table_settings import TableSettings
from tests.models.cases import mixed_batch, mixed_schema, perceptron, pooled_rows, randomise
from tests.models.reference_lookup import ReferenceLookup


def test_equals_the_equation() -> None:
    schema = mixed_schema()
    model = EmbeddingMLP(Fields(schema), EmbeddingMLPConfig(embedding_dim=4, mlp=MLPConfig(hidden=(7, 6)))).double()
    lookup = ReferenceLookup(model, dtype=torch.float64)
    randomise(model, lookup)
    batch = mixed_batch(schema, 6)
    x = np.concatenate([pooled_rows(lookup, "field", batch).reshape(6, -1), batch.dense.double().numpy()], 1)
    expected = torch.from_numpy(perceptron(model.mlp, x)[:, 0])
    torch.testing.assert_close(model(**lookup(batch)), expected, rtol=0, atol=1e-12)


def test_dims_may_differ() -> None:
    settings = {"*": TableSettings(embedding_dim=8), "item": TableSettings(embedding_dim=3)}
    schema = mixed_schema()
    model = EmbeddingMLP(Fields(schema, settings), EmbeddingMLPConfig())
    assert model.mlp.layers[0].in_features == 4 * 8 + 2 * 3 + 3
    assert model(**ReferenceLookup(model)(mixed_batch(schema, 4))).shape == (4,)
