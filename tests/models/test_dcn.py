"""Deep & Cross against its equation, by loops."""

import numpy as np
import pytest
import torch

from shardrec.models.dcn import DCN, DCNConfig
from shardrec.models.fields import Fields
from shardrec.models.layers.mlp import MLPConfig
from shardrec.models.table_settings import TableSettings
from tests.models.cases import hidden_layers, mixed_batch, mixed_schema, pooled_rows, randomise
from tests.models.reference_lookup import ReferenceLookup


@pytest.mark.parametrize("hidden", [(), (7, 6)])
@pytest.mark.parametrize("dense", [0, 3])
def test_equals_the_equation(dense: int, hidden: tuple[int, ...]) -> None:
    schema = mixed_schema(dense)
    model = DCN(Fields(schema), DCNConfig(embedding_dim=4, cross_layers=2, mlp=MLPConfig(hidden=hidden))).double()
    lookup = ReferenceLookup(model, dtype=torch.float64)
    randomise(model, lookup)
    batch = mixed_batch(schema, 6)
    x0 = np.concatenate([pooled_rows(lookup, "field", batch).reshape(6, -1), batch.dense.double().numpy()], 1)
    crossed = x0
    for w, b in zip(model.cross.weight.detach().numpy(), model.cross.bias.detach().numpy(), strict=True):
        crossed = np.stack([np.outer(a, x) @ w + b + x for a, x in zip(x0, crossed, strict=True)])
    both = np.concatenate([crossed, hidden_layers(model.mlp, x0)], 1) if model.mlp else crossed
    expected = both @ model.output.weight.detach().numpy()[0] + model.output.bias.item()
    torch.testing.assert_close(model(**lookup(batch)), torch.from_numpy(expected), rtol=1e-12, atol=1e-12)


def test_dims_may_differ() -> None:
    schema = mixed_schema()
    model = DCN(Fields(schema, {"item": TableSettings(embedding_dim=2)}), DCNConfig(embedding_dim=5))
    assert model.output.in_features == (4 * 5 + 2 * 2 + 3) + 400
    assert model(**ReferenceLookup(model)(mixed_batch(schema, 4))).shape == (4,)
