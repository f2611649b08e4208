"""DIN against its equations, by loops; what does not change a prediction; weights that explain it."""

from typing import Any

import numpy as np
import pytest
import torch

from shardrec.models.din import DIN, DINConfig
from shardrec.models.layers.activation_unit import ActivationUnit
from shardrec.models.layers.activations import Dice
from tests.models.behaviour import (
    PRICED,
    SCHEMA,
    WITH_NUMBERS,
    arrays,
    batch,
    build,
    check_rows_are_alone,
    permuted,
    scores,
)
from tests.models.cases import perceptron
from tests.models.reference_lookup import ReferenceLookup

SMALL: dict[str, Any] = {"embedding_dim": 4, "mlp": {"hidden": (5,)}}
FORMS: list[dict[str, Any]] = [{}, {"interaction": "outer_product"}, {"softmax": True}, PRICED]


def built(activation: str = "dice", **settings: Any) -> tuple[DIN, ReferenceLookup]:
    """Of histories with prices and ages, where the settings are `PRICED`."""
    config = DINConfig(**SMALL, attention={"hidden": (6, 3), "activation": activation}, **settings)
    return build(DIN, config, WITH_NUMBERS if settings == PRICED else SCHEMA)


def dice(layer: Dice, s: np.ndarray) -> np.ndarray:
    mean, var, alpha = (
        v.detach().numpy() for v in (layer.moments.running_mean, layer.moments.running_var, layer.alpha)
    )
    p = 1 / (1 + np.exp(-(s - mean) / np.sqrt(var + 1e-8)))
    return p * s + (1 - p) * alpha * s


def weight_of(unit: ActivationUnit, e: np.ndarray, v: np.ndarray) -> float:
    """a(e, v) of one event and one target."""
    beside = [np.outer(e, v).ravel()] if unit.outer else [e - v, e * v]
    x = np.concatenate([e, v, *beside])
    for layer in unit.mlp.layers:
        if isinstance(layer, Dice):
            x = dice(layer, x)
        else:
            x = layer.weight.detach().numpy() @ x + layer.bias.detach().numpy()
    return float(x[0])


def by_loops(model: DIN, given: dict[str, Any]) -> tuple[np.ndarray, list[list[float]]]:
    """Logits, and the weights of each row's events."""
    interest, weights = np.zeros_like(given["target_event"]), []
    for b, events in enumerate(given["history"]):
        row = [weight_of(model.attention, e, given["target_event"][b]) for e in events]
        if model.softmax:
            row = [float(np.exp(a) / sum(np.exp(row))) for a in row]
        for a, e in zip(row, events, strict=True):
            interest[b] += a * e
        weights.append(row)
    x = np.concatenate([interest, given["target"], given["context"], given["dense"]], 1)
    return perceptron(model.mlp, x)[:, 0], weights


@pytest.mark.parametrize("settings", FORMS)
def test_equals_the_equation_and_explains_itself(settings: dict[str, Any]) -> None:
    model, lookup = built(**settings)
    for moments in (layer.moments for layer in model.attention.modules() if isinstance(layer, Dice)):
        moments.running_mean.normal_()
        moments.running_var.uniform_(0.5, 2)
    schema = WITH_NUMBERS if settings == PRICED else SCHEMA
    inputs = lookup(batch(schema=schema))
    expected, weights = by_loops(model, arrays(inputs))
    np.testing.assert_allclose(model(**inputs).detach().numpy(), expected, rtol=0, atol=1e-12)
    explained = model.explain(**inputs)
    assert explained.names == ("item_history",) and explained.weights.lengths.tolist() == [len(row) for row in weights]
    np.testing.assert_allclose(explained.weights.values.detach().numpy(), np.concatenate(weights), rtol=0, atol=1e-12)
    check_rows_are_alone(model, lookup, schema)


@pytest.mark.parametrize("settings", FORMS)
def test_the_order_of_events_does_not_matter(settings: dict[str, Any]) -> None:
    model, lookup = built(**settings)
    inputs = lookup(batch(schema=WITH_NUMBERS if settings == PRICED else SCHEMA))
    changed = inputs | {"history": permuted(inputs["history"])}
    assert not torch.equal(changed["history"].values, inputs["history"].values)
    torch.testing.assert_close(scores(model, changed), scores(model, inputs), rtol=0, atol=1e-12)


def test_weights_are_no_shares_without_softmax() -> None:
    """The same event twice makes the interest twice as strong."""
    model, lookup = built()
    inputs = lookup(batch())
    once = inputs["history"]
    twice = once._replace(
        values=torch.cat([part.repeat(2, 1, 1) for part in once.values.split(once.lengths.tolist())]),
        lengths=2 * once.lengths,
        offsets=2 * once.offsets,
    )
    seen: list[torch.Tensor] = []
    model.mlp.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    for softmax in (False, True):
        model.softmax = softmax
        for history in (once, twice):
            model(**inputs | {"history": history})
        first, second = (x[:, :12] for x in seen[-2:])
        torch.testing.assert_close(second, first if softmax else 2 * first, rtol=0, atol=1e-12)


def test_dice_counts_positions_and_not_rows() -> None:
    """Moments of the activation unit are over all events of the batch, whatever padding rows it has."""
    states = []
    for padding in (0, 4):
        model, lookup = built()
        model.train()
        model(**lookup(batch(padding=padding)))
        first = model.attention.mlp.layers[1].moments
        states.append((first.running_mean, first.running_var))
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=1e-12)
    given = arrays(lookup(batch()))
    layer = model.attention.mlp.layers[0]
    s = [
        layer.weight.detach().numpy() @ np.concatenate([e, v, e - v, e * v]) + layer.bias.detach().numpy()
        for events, v in zip(given["history"], given["target"], strict=True)
        for e in events
    ]
    np.testing.assert_allclose(states[0][0].numpy(), 0.1 * np.mean(s, 0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(states[0][1].numpy(), 0.9 + 0.1 * np.var(s, 0, ddof=1), rtol=0, atol=1e-12)


def test_a_batch_of_empty_histories_trains() -> None:
    model, lookup = built()
    model.train()
    inputs = lookup(batch(1))  # whose first row has no events
    assert not len(inputs["history"].values)
    output = model(**inputs)
    output.sum().backward()
    assert output.isfinite().all() and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
