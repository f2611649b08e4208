"""FM against the O(F^2 D) double loop over pairs."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from shardrec.data_pipeline.errors import UserError
from shardrec.models.fields import Fields
from shardrec.models.fm import FM, FMConfig
from shardrec.models.layers.fm import fm_terms
from shardrec.models.table_settings import TableSettings
from tests.models.cases import linear, mixed_batch, mixed_schema, pairs_by_loops, pooled_rows, randomise
from tests.models.reference_lookup import ReferenceLookup


@pytest.mark.parametrize("fields", [1, 2, 7])
def test_pairs_equal_the_double_loop(fields: int) -> None:
    field = torch.randn(5, fields, 1 + 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first, pairs = fm_terms(field)
    torch.testing.assert_close(first, field[:, :, 0].sum(1), rtol=0, atol=1e-12)
    expected = torch.from_numpy(pairs_by_loops(field[:, :, 1:].numpy()))
    torch.testing.assert_close(pairs.sum(1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("task", ["binary", "regression"])
@pytest.mark.parametrize("dense", [0, 3])
def test_equals_the_equation(dense: int, task: str) -> None:
    schema = mixed_schema(dense)
    model = FM(Fields(schema), FMConfig(embedding_dim=5, task=task)).double()  # type: ignore[arg-type]
    lookup = ReferenceLookup(model, dtype=torch.float64)
    randomise(model, lookup)
    batch = mixed_batch(schema, 6)
    rows = pooled_rows(lookup, "field", batch)
    expected = (
        linear(model.linear, batch.dense.double().numpy()) + rows[:, :, 0].sum(1) + pairs_by_loops(rows[:, :, 1:])
    )
    output = model(**lookup(batch))
    torch.testing.assert_close(output, torch.from_numpy(expected), rtol=0, atol=1e-12)
    prediction = 1 / (1 + np.exp(-expected)) if task == "binary" else expected
    torch.testing.assert_close(model.task.prediction(output), torch.from_numpy(prediction), rtol=0, atol=1e-12)


def test_first_order_weight_starts_at_zero_beside_its_factors() -> None:
    model = FM(Fields(mixed_schema(), {"*": TableSettings(embedding_dim=6)}), FMConfig(embedding_dim=3))
    assert {(t.embedding_dim, t.zero_columns) for t in model.tables.values()} == {(7, 1)}


def test_unequal_dims_are_refused() -> None:
    with pytest.raises(UserError, match=r"rows of 'user' .* have 17 columns and those of 'item' \(table 'item'\) 9"):
        FM(Fields(mixed_schema(), {"item": TableSettings(embedding_dim=8)}), FMConfig())


def test_clip_belongs_to_regression() -> None:
    with pytest.raises(ValidationError, match="clip is for task: regression"):
        FMConfig(clip=(-1, 1))
