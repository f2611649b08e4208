"""NeuralCF against its equations; NeuMF made of a trained GMF and MLP is their blend."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shardrec.data_pipeline.errors import UserError
from shardrec.models.base import Recommender
from shardrec.models.fields import Fields
from shardrec.models.layers.mlp import MLPConfig
from shardrec.models.neural_cf import (
    GMF,
    NCFMLP,
    GMFConfig,
    NCFMLPConfig,
    NCFShared,
    NCFSharedConfig,
    NeuMF,
    NeuMFConfig,
)
from shardrec.models.table_settings import TableSettings
from tests.models.cases import hidden_layers, mixed_batch, mixed_schema, perceptron, pooled_rows, randomise
from tests.models.reference_lookup import ReferenceLookup

PAIR: dict[str, Any] = {"user": "user", "item": "item"}
SCHEMA = mixed_schema()
BATCH = mixed_batch(SCHEMA, 6)


def made(model: Recommender, seed: int = 0) -> ReferenceLookup:
    """The lookup of a model, both in float64 and of random numbers."""
    lookup = ReferenceLookup(model.double(), dtype=torch.float64)
    randomise(model, lookup, seed=seed)
    return lookup


def one_layer(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    return perceptron(layer, x)[:, 0]


def assert_equal(found: torch.Tensor, expected: np.ndarray) -> None:
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_gmf_equals_the_equation() -> None:
    model = GMF(Fields(SCHEMA), GMFConfig(**PAIR, embedding_dim=5))
    lookup = made(model)
    p, q = (pooled_rows(lookup, side, BATCH)[:, 0] for side in ("user", "item"))
    assert_equal(model(**lookup(BATCH)), one_layer(model.gmf_output, p * q))


def test_mlp_equals_the_equation() -> None:
    model = NCFMLP(Fields(SCHEMA), NCFMLPConfig(**PAIR, embedding_dim=5, mlp=MLPConfig(hidden=(7, 6))))
    lookup = made(model)
    phi = hidden_layers(model.mlp, pooled_rows(lookup, "mlp", BATCH).reshape(6, -1))
    assert_equal(model(**lookup(BATCH)), one_layer(model.mlp_output, phi))


def test_neumf_equals_the_equation() -> None:
    model = NeuMF(Fields(SCHEMA), NeuMFConfig(**PAIR, embedding_dim=4))
    lookup = made(model)
    p, q = pooled_rows(lookup, "gmf", BATCH).transpose(1, 0, 2)
    phi = hidden_layers(model.mlp, pooled_rows(lookup, "mlp", BATCH).reshape(6, -1))
    assert_equal(model(**lookup(BATCH)), one_layer(model.gmf_output, p * q) + one_layer(model.mlp_output, phi))


@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_shared_equals_the_equation(activation: str) -> None:
    model = NCFShared(Fields(SCHEMA), NCFSharedConfig(**PAIR, embedding_dim=4, activation=activation))
    lookup = made(model)
    pair = pooled_rows(lookup, "pair", BATCH)
    inner = pair[:, 0] * pair[:, 1] + perceptron(model.hidden, pair.reshape(6, -1))
    assert_equal(
        model(**lookup(BATCH)), one_layer(model.output, np.maximum(inner, 0) if activation == "relu" else inner)
    )
    assert set(model.tables) == {"user", "item"}


@pytest.mark.parametrize("alpha", [0.5, 0.3])
def test_neumf_of_trained_parts_is_their_blend(alpha: float) -> None:
    """By names alone: tables and towers as they are, outputs with their biases scaled."""
    gmf = GMF(Fields(SCHEMA), GMFConfig(**PAIR, embedding_dim=4))
    mlp = NCFMLP(Fields(SCHEMA), NCFMLPConfig(**PAIR, embedding_dim=16))
    neumf = NeuMF(Fields(SCHEMA), NeuMFConfig(**PAIR, embedding_dim=4))
    lookups = made(gmf, seed=1), made(mlp, seed=2)
    blend = ReferenceLookup(neumf.double(), dtype=torch.float64)
    blend.load_state_dict(lookups[0].state_dict() | lookups[1].state_dict())
    share = {"gmf_output": alpha, "mlp_output": 1 - alpha}
    trained = gmf.state_dict() | mlp.state_dict()
    neumf.load_state_dict({name: share.get(name.split(".")[0], 1.0) * value for name, value in trained.items()})
    expected = alpha * gmf(**lookups[0](BATCH)) + (1 - alpha) * mlp(**lookups[1](BATCH))
    torch.testing.assert_close(neumf(**blend(BATCH)), expected, rtol=0, atol=1e-12)


def test_towers_halve_unless_layers_are_named() -> None:
    fields = Fields(SCHEMA, {"mlp/user": TableSettings(embedding_dim=20), "mlp/item": TableSettings(embedding_dim=12)})
    widths = [m.out_features for m in NCFMLP(fields, NCFMLPConfig(**PAIR)).mlp.modules() if isinstance(m, nn.Linear)]
    assert widths == [16, 8, 4]
    dropped = NCFMLP(Fields(SCHEMA), NCFMLPConfig(**PAIR, embedding_dim=8, mlp={"dropout": 0.2})).mlp
    assert [m.out_features for m in dropped.modules() if isinstance(m, nn.Linear)] == [8, 4, 2]
    assert any(isinstance(m, nn.Dropout) for m in dropped.modules())
    assert NCFMLP(Fields(SCHEMA), NCFMLPConfig(**PAIR, mlp={"hidden": [9]})).mlp_output.in_features == 9
    with pytest.raises(UserError, match="vectors of 6 numbers in all cannot be halved 3 times"):
        NCFMLP(Fields(SCHEMA), NCFMLPConfig(**PAIR, embedding_dim=3))


def test_starts_as_the_paper_says() -> None:
    model = NeuMF(Fields(SCHEMA), NeuMFConfig(**PAIR))
    assert all(t.init.kind == "normal" and t.init.scale == 0.01 for t in model.tables.values())
    for layer in (m for m in model.modules() if isinstance(m, nn.Linear)):
        assert not layer.bias.any() and layer.weight.abs().max() <= (6 / sum(layer.weight.shape)) ** 0.5


def test_an_activation_that_changes_the_width_is_refused() -> None:
    with pytest.raises(ValueError, match="maxout takes two inputs a unit"):
        NCFSharedConfig(activation="maxout")
