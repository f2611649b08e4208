"""DLRM against its equation, by loops."""

import numpy as np
import pytest
import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.models.dlrm import DLRM, DLRMConfig
from shardrec.models.fields import Fields
from shardrec.models.layers.mlp import MLPConfig
from tests.models.cases import hidden_layers, mixed_batch, mixed_schema, perceptron, pooled_rows, randomise
from tests.models.reference_lookup import ReferenceLookup


@pytest.mark.parametrize("dense", [0, 3])
@pytest.mark.parametrize("hidden", [(), (7, 6)])
def test_equals_the_equation(dense: int, hidden: tuple[int, ...]) -> None:
    schema = mixed_schema(dense)
    config = DLRMConfig(embedding_dim=4, bottom=MLPConfig(hidden=hidden), mlp=MLPConfig(hidden=(5,)))
    model = DLRM(Fields(schema), config).double()
    lookup = ReferenceLookup(model, dtype=torch.float64)
    randomise(model, lookup)
    batch = mixed_batch(schema, 6)
    vectors = pooled_rows(lookup, "field", batch)
    bottom = np.zeros((6, 0))
    if dense:
        bottom = hidden_layers(model.bottom, batch.dense.double().numpy())
        vectors = np.concatenate([bottom[:, None], vectors], 1)
    n = vectors.shape[1]
    dots = [[row[i] @ row[j] for i in range(n) for j in range(i + 1, n)] for row in vectors]
    expected = perceptron(model.top, np.concatenate([bottom, dots], 1))[:, 0]
    torch.testing.assert_close(model(**lookup(batch)), torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_one_vector_makes_no_pair() -> None:
    with pytest.raises(UserError, match="make no pair"):
        DLRM(Fields(mixed_schema(0).subset(["user"])), DLRMConfig())
    DLRM(Fields(mixed_schema(1).subset(["user", "n0"])), DLRMConfig())
