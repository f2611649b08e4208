"""LR against its equation, by loops."""

import pytest
import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.models.fields import Fields
from shardrec.models.lr import LR, LRConfig
from shardrec.models.table_settings import TableSettings
from tests.models.cases import linear, mixed_batch, mixed_schema, pooled_rows, randomise
from tests.models.reference_lookup import ReferenceLookup


@pytest.mark.parametrize("dense", [0, 3])
def test_equals_the_equation(dense: int) -> None:
    schema = mixed_schema(dense)
    model = LR(Fields(schema), LRConfig()).double()
    lookup = ReferenceLookup(model, dtype=torch.float64)
    randomise(model, lookup)
    batch = mixed_batch(schema, 7)
    expected = linear(model.linear, batch.dense.double().numpy()) + pooled_rows(lookup, "field", batch).sum((1, 2))
    torch.testing.assert_close(model(**lookup(batch)), torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_starts_at_even_odds() -> None:
    schema = mixed_schema()
    model = LR(Fields(schema), LRConfig())
    output = model(**ReferenceLookup(model)(mixed_batch(schema, 5)))
    assert torch.equal(model.task.prediction(output), torch.full((5,), 0.5))


def test_a_dim_for_its_weights_is_refused() -> None:
    with pytest.raises(UserError, match=r"'\*' sets embedding_dim 8, but table 'user' holds 1 linear weight"):
        LR(Fields(mixed_schema(), {"*": TableSettings(embedding_dim=8)}), LRConfig())
