"""FFM against the double loop over the ids of different fields."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.models.ffm import FFM, FFMConfig
from shardrec.models.fields import Fields
from shardrec.models.table_settings import TableSettings
from tests.models.cases import linear, mixed_batch, mixed_schema, pooled_rows, randomise
from tests.models.reference_lookup import ReferenceLookup, ids_of

DIM = 3


def of_ids(batch: Batch, feature: str) -> list[list[tuple[int, float]]]:
    """Each row's ids of a feature with their values."""
    ids = ids_of(batch, feature)
    values = ids.weights().double().tolist() if ids.weights_or_none() is not None else [1.0] * len(ids.values())
    pairs, offsets = list(zip(ids.values().tolist(), values, strict=True)), ids.offsets().tolist()
    return [pairs[a:b] for a, b in pairwise(offsets)]


@pytest.mark.parametrize("dense", [0, 3])
def test_equals_the_equation(dense: int) -> None:
    schema = mixed_schema(dense)
    model = FFM(Fields(schema), FFMConfig(embedding_dim=DIM)).double()
    lookup = ReferenceLookup(model, dtype=torch.float64)
    randomise(model, lookup)
    batch = mixed_batch(schema, 6)
    tables = model.inputs["field"].tables
    assert {t.embedding_dim for t in tables.values()} == {1 + len(tables) * DIM}
    rows = {f: lookup.table(t.name).detach().numpy() for f, t in tables.items()}
    expected = linear(model.linear, batch.dense.double().numpy())
    expected += pooled_rows(lookup, "field", batch)[:, :, 0].sum(1)

    def factors(row: np.ndarray, field: int) -> np.ndarray:
        return row[1 + field * DIM : 1 + (field + 1) * DIM]

    names = list(tables)
    for b in range(6):
        for i, one in enumerate(names):
            for j, other in enumerate(names[i + 1 :], i + 1):
                for id_i, x_i in of_ids(batch, one)[b]:
                    for id_j, x_j in of_ids(batch, other)[b]:
                        dot = factors(rows[one][id_i], j) @ factors(rows[other][id_j], i)
                        expected[b] += dot * x_i * x_j
    torch.testing.assert_close(model(**lookup(batch)), torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_what_it_cannot_be_made_of() -> None:
    with pytest.raises(UserError, match="ffm pairs fields, and there is one, 'user'; add features, or use `lr`"):
        FFM(Fields(mixed_schema(0).subset(["user"])), FFMConfig())
    with pytest.raises(UserError, match=r"'user' has an embedding_dim of its own, .* each of 6 fields; set model.emb"):
        FFM(Fields(mixed_schema(), {"user": TableSettings(embedding_dim=8)}), FFMConfig())
