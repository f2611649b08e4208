"""DCN-v2 against its equations, by loops over rows; its structures and refusals."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from shardrec.models.dcn_v2 import DCNv2, DCNv2Config
from shardrec.models.fields import Fields
from shardrec.models.layers.cross import CrossExperts, CrossLayer, LowRankCross
from tests.models.cases import hidden_layers, mixed_batch, mixed_schema, pooled_rows, randomise
from tests.models.reference_lookup import ReferenceLookup

MLP = {"hidden": [7, 6]}


def full(layer: CrossLayer) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: layer.linear.weight.detach().numpy() @ x + layer.linear.bias.detach().numpy()


def low_rank(layer: LowRankCross) -> Callable[[np.ndarray], np.ndarray]:
    u, v, b = (p.detach().numpy() for p in (layer.up.weight, layer.down.weight, layer.up.bias))
    return lambda x: u @ v @ x + b


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
@pytest.mark.parametrize("mlp", [{"hidden": []}, MLP])
@pytest.mark.parametrize(("rank", "matrix"), [(None, full), (3, low_rank)])
def test_equals_the_equations(
    structure: str, mlp: dict[str, Any], rank: int | None, matrix: Callable[..., Any]
) -> None:
    schema = mixed_schema()
    settings = {"embedding_dim": 4, "cross_layers": 2, "low_rank": rank, "structure": structure, "mlp": mlp}
    model = DCNv2(Fields(schema), DCNv2Config.model_validate(settings)).double()
    lookup = ReferenceLookup(model, dtype=torch.float64)
    randomise(model, lookup)
    batch = mixed_batch(schema, 6)
    x0 = np.concatenate([pooled_rows(lookup, "field", batch).reshape(6, -1), batch.dense.double().numpy()], 1)
    x = x0
    for layer in model.cross:
        x = np.stack([a * matrix(layer)(b) + b for a, b in zip(x0, x, strict=True)])
    if model.mlp is not None:
        deep = hidden_layers(model.mlp, x if structure == "stacked" else x0)
        x = deep if structure == "stacked" else np.concatenate([x, deep], 1)
    expected = x @ model.output.weight.detach().numpy()[0] + model.output.bias.item()
    torch.testing.assert_close(model(**lookup(batch)), torch.from_numpy(expected), rtol=1e-10, atol=1e-10)


def test_experts_of_low_rank() -> None:
    model = DCNv2(Fields(mixed_schema()), DCNv2Config(low_rank=4, experts=3))
    assert all(isinstance(layer, CrossExperts) and layer.experts == 3 for layer in model.cross)
    assert model(**ReferenceLookup(model)(mixed_batch(mixed_schema(), 4))).shape == (4,)
    with pytest.raises(ValidationError, match="experts 3 needs low_rank"):
        DCNv2Config(experts=3)


def test_full_rank_is_the_default() -> None:
    layers: list[nn.Module] = list(DCNv2(Fields(mixed_schema()), DCNv2Config()).cross)
    assert len(layers) == 3 and all(isinstance(layer, CrossLayer) for layer in layers)
