"""IPNN, OPNN and PNN* against their equations: Frobenius products with whole matrices W_p, by loops."""

from typing import Any

import numpy as np
import pytest
import torch

from shardrec.models.fields import Fields
from shardrec.models.pnn import IPNN, OPNN, PNN, IPNNConfig, OPNNConfig, PNNConfig, ProductNetwork
from tests.models.cases import mixed_batch, mixed_schema, pooled_rows, randomise
from tests.models.reference_lookup import ReferenceLookup

FIELDS, DIM = 6, 3
KINDS: list[tuple[type[ProductNetwork], Any, dict[str, str]]] = [
    (IPNN, IPNNConfig, {}),
    (IPNN, IPNNConfig, {"inner": "full"}),
    (IPNN, IPNNConfig, {"inner": "mean"}),
    (OPNN, OPNNConfig, {}),
    (OPNN, OPNNConfig, {"outer": "full"}),
    (OPNN, OPNNConfig, {"outer": "max"}),
    (PNN, PNNConfig, {}),
    (PNN, PNNConfig, {"inner": "full", "outer": "full"}),
]


def upper(matrix: np.ndarray) -> list[float]:
    return [matrix[i, j] for i in range(len(matrix)) for j in range(i, len(matrix))]


def symmetric(entries: np.ndarray, size: int) -> np.ndarray:
    """The symmetric W whose Frobenius product with a symmetric p is sum over i <= j of entries_ij p_ij."""
    w = np.zeros((size, size))
    w[np.triu_indices(size)] = entries
    return (w + w.T) / 2


def product_term(model: ProductNetwork, settings: dict[str, str], f: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """l_p of one row, [H]; `weights` [H, signals] are the first layer's of all signals that are not factorised."""
    inner = np.array([[f[i] @ f[j] for j in range(FIELDS)] for i in range(FIELDS)])
    outer = np.array([[np.outer(f[i], f[j]) for j in range(FIELDS)] for i in range(FIELDS)])  # [F, F, D, D]
    total, at = np.zeros(len(weights)), 0
    matrices = []
    if isinstance(model, IPNN | PNN):
        match settings.get("inner"):
            case None:
                theta = model.factorised.weight.detach().numpy()
                total += [(np.outer(t, t) * inner).sum() for t in theta]
            case "full":
                matrices.append(inner)
            case "mean":
                total += weights[:, :FIELDS] @ inner.mean(1)
                at = FIELDS
    if isinstance(model, OPNN | PNN):
        match settings.get("outer"):
            case None:
                matrices.append(outer.sum((0, 1)))
            case "full":
                matrices.append(outer.transpose(0, 2, 1, 3).reshape(FIELDS * DIM, FIELDS * DIM))
            case "max":
                matrices.append(outer.max((0, 1)))
    for p in matrices:
        size = len(upper(p))
        total += [(symmetric(w, len(p)) * p).sum() for w in weights[:, at : at + size]]
        at += size
    assert at == weights.shape[1]
    return total


@pytest.mark.parametrize("dense", [0, 3])
@pytest.mark.parametrize(("model_class", "config_class", "settings"), KINDS)
def test_equals_the_equation(model_class: Any, config_class: Any, settings: dict[str, str], dense: int) -> None:
    schema = mixed_schema(dense)
    config = config_class.model_validate({"embedding_dim": DIM, "mlp": {"hidden": [5, 4]}, **settings})
    model = model_class(Fields(schema), config).double()
    lookup = ReferenceLookup(model, dtype=torch.float64)
    randomise(model, lookup)
    batch = mixed_batch(schema, 6)
    rows, numbers = pooled_rows(lookup, "field", batch), batch.dense.double().numpy()
    w1, b1, w2, b2, w3, b3 = (p.detach().numpy() for p in model.mlp.parameters())
    expected = []
    for f, x in zip(rows, numbers, strict=True):
        z = np.concatenate([f.reshape(-1), x])
        l_z, l_p = w1[:, : len(z)] @ z, product_term(model, settings, f, w1[:, len(z) :])
        l2 = np.maximum(w2 @ np.maximum(l_z + l_p + b1, 0) + b2, 0)
        expected.append(w3[0] @ l2 + b3[0])
    torch.testing.assert_close(model(**lookup(batch)), torch.from_numpy(np.array(expected)), rtol=0, atol=1e-11)


def test_other_activations_and_no_hidden_layer_fit_the_factorised_products() -> None:
    schema = mixed_schema()
    for mlp in ({"hidden": [4], "activation": "maxout", "batch_norm": True}, {"hidden": []}):
        model = PNN(Fields(schema), PNNConfig.model_validate({"embedding_dim": DIM, "mlp": mlp}))
        assert model(**ReferenceLookup(model)(mixed_batch(schema, 4))).shape == (4,)
