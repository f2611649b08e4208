"""DIEN against its equations, by loops; order matters; the auxiliary loss and its settings."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.dien import DIEN, DIENConfig, Evolved
from shardrec.models.fields import Fields
from shardrec.models.layers.activation_unit import ProjectedUnit
from shardrec.models.layers.recurrent import GRU
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
from tests.models.layers.test_recurrent import sigmoid
from tests.models.reference_lookup import ReferenceLookup
from tests.models.test_din import weight_of

SMALL: dict[str, Any] = {"embedding_dim": 4, "mlp": {"hidden": (5,)}}
UNIT: dict[str, Any] = {"attention": "activation_unit", "attention_mlp": {"hidden": (6, 3)}}
FORMS: list[dict[str, Any]] = [
    *({"evolving": evolving} for evolving in ("augru", "aigru", "agru")),
    UNIT,
    UNIT | {"evolving": "agru", "interaction": "outer_product"},
]


def built(schema: Schema = SCHEMA, **settings: Any) -> tuple[DIEN, ReferenceLookup]:
    return build(DIEN, DIENConfig(**(SMALL | settings)), schema)


def recurrence(gru: GRU, inputs: list[np.ndarray], attention: list[float] | None) -> list[np.ndarray]:
    """States of one row."""
    hidden = gru.recurrent.shape[1]
    weight, bias, recurrent = (p.detach().numpy() for p in (gru.project.weight, gru.project.bias, gru.recurrent))
    h, found = np.zeros(hidden), []
    for t, i in enumerate(inputs):
        x, y = weight @ i + bias, recurrent @ h
        r = sigmoid(x[:hidden] + y[:hidden])
        candidate = np.tanh(x[hidden : 2 * hidden] + r * y[hidden : 2 * hidden])
        z: Any = 1.0 if gru.update == "attention" else sigmoid(x[2 * hidden :] + y[2 * hidden :])
        z = z * (1.0 if attention is None else attention[t])
        h = (1 - z) * h + z * candidate
        found.append(h)
    return found


def attention_scores(model: DIEN, states: list[np.ndarray], target: np.ndarray) -> list[float]:
    """What softmax is taken of, in one row."""
    if not isinstance(model.attention, ProjectedUnit):
        w = model.attention.weight.detach().numpy()
        return [float(h @ w @ target) for h in states]
    project, slope = model.attention.project, model.attention.activation.weight.detach().numpy()
    query = project.weight.detach().numpy() @ target + project.bias.detach().numpy()
    query = np.where(query > 0, query, slope * query)
    return [weight_of(model.attention.unit, h, query) for h in states]


def by_loops(model: DIEN, given: dict[str, Any]) -> tuple[np.ndarray, list[list[np.ndarray]], list[list[float]]]:
    """Logits, and the interest states and the attention of each row."""
    interest, states, attention = np.zeros((7, model.evolution.recurrent.shape[1])), [], []
    for b, events in enumerate(given["history"]):
        h = recurrence(model.extractor, list(events), None)
        score = np.exp(attention_scores(model, h, given["target_event"][b]))
        a = [float(s / sum(score)) for s in score]
        if model.evolving == "aigru":
            evolved = recurrence(model.evolution, [s * x for s, x in zip(a, h, strict=True)], None)
        else:
            evolved = recurrence(model.evolution, h, a)
        if evolved:
            interest[b] = evolved[-1]
        states.append(h)
        attention.append(a)
    x = np.concatenate([interest, given["target"], given["context"], given["dense"]], 1)
    return perceptron(model.mlp, x)[:, 0], states, attention


@pytest.mark.parametrize("settings", [*FORMS, PRICED, UNIT | PRICED])
def test_equals_the_equations_and_explains_itself(settings: dict[str, Any]) -> None:
    schema = WITH_NUMBERS if "target" in settings else SCHEMA
    model, lookup = built(schema, **settings, auxiliary=0, hidden=3)
    inputs = lookup(batch(schema=schema))
    expected, _, attention = by_loops(model, arrays(inputs))
    np.testing.assert_allclose(scores(model, inputs).detach().numpy(), expected, rtol=0, atol=1e-12)
    explained = model.explain(**inputs)
    assert explained.names == ("item_history",)
    np.testing.assert_allclose(explained.weights.values.detach().numpy(), np.concatenate(attention), rtol=0, atol=1e-12)
    check_rows_are_alone(model, lookup, schema)


def test_parameters_of_both_attentions_have_names_of_their_own() -> None:
    """Checkpoints know the bilinear form as attention.weight."""
    names = [{n for n, _ in built(**s)[0].named_parameters() if n.startswith("attention.")} for s in ({}, UNIT)]
    assert names[0] == {"attention.weight"} and not names[0] & names[1]


@pytest.mark.parametrize("settings", FORMS)
def test_the_order_of_events_matters(settings: dict[str, Any]) -> None:
    model, lookup = built(**settings)
    inputs = lookup(batch())
    changed = scores(model, inputs | {"history": permuted(inputs["history"])}) - scores(model, inputs)
    several = inputs["history"].lengths > 1
    assert (changed[several].abs() > 1e-6).all() and not changed[~several].abs().gt(1e-12).any()


@pytest.mark.parametrize(
    ("score", "mean", "schema"),
    [
        ("inner_product", "pairs", SCHEMA),
        ("net", "pairs", SCHEMA),
        ("inner_product", "rows", SCHEMA),
        ("net", "pairs", WITH_NUMBERS),
    ],
)
def test_the_auxiliary_loss_equals_its_equation(score: str, mean: str, schema: Schema) -> None:
    """Of neighbours in every row; a negative keeps its event's hour and age, which have none. Weights are of rows."""
    model, lookup = built(schema, auxiliary=0.5, auxiliary_score=score, auxiliary_mean=mean)
    model.train()
    rows = batch(padding=2, schema=schema)
    rows.weights[:] = torch.arange(1, 10)  # padding's count nowhere
    inputs = lookup(rows)
    term = model.task.loss(model(**inputs), rows)["auxiliary"]
    given = arrays(inputs)
    total = count = 0.0
    _, states, _ = by_loops(model, {name: value[:7] for name, value in given.items()})
    for b, h in enumerate(states):
        for t in range(len(h) - 1):
            right = given["history"][b][t + 1]
            false = given["negatives"][b][t + 1]
            wrong = np.concatenate([false[:8], right[8:12], false[8:], right[13:]])  # item, kind; hour; price; age
            pair = []
            for e in (right, wrong):
                if score == "inner_product":
                    pair.append(sigmoid(h[t] @ e))
                else:
                    pair.append(sigmoid(small_net(model, np.concatenate([h[t], e]))))
            total -= (b + 1) * (np.log(pair[0]) + np.log(1 - pair[1]))
            count += b + 1 if mean == "pairs" else 0
        count += b + 1 if mean == "rows" else 0
    assert float(term.total.detach()) == pytest.approx(0.5 * total, abs=1e-10) and float(term.count) == count


def small_net(model: DIEN, x: np.ndarray) -> float:
    first, _, second, _, last = model.auxiliary_net.layers
    for layer in (first, second):
        x = sigmoid(layer.weight.detach().numpy() @ x + layer.bias.detach().numpy())
    return float(last.weight.detach().numpy()[0] @ x + last.bias.item())


@pytest.mark.parametrize("mean", ["pairs", "rows"])
def test_auxiliary_losses_of_two_ranks_add_up_to_one_ranks(mean: str) -> None:
    model, lookup = built(auxiliary_mean=mean)
    model.train()
    whole = batch()
    whole.weights[:] = torch.arange(1, 8)
    inputs = lookup(whole)
    output = model(**inputs)
    expected = model.task.loss(output, whole)["auxiliary"]
    terms = []
    for first, last in ((0, 2), (2, 7)):
        of_rank = (output.row >= first) & (output.row < last)
        part = Evolved(output.logits[first:last], output.auxiliary[of_rank], output.row[of_rank] - first)
        labels = {"label": whole.labels["label"][first:last]}
        rows = replace(whole, weights=whole.weights[first:last], rows=whole.rows[first:last], labels=labels)
        terms.append(model.task.loss(part, rows)["auxiliary"])
    count = sum(float(term.count) for term in terms)
    total = sum(float(term.total.detach()) for term in terms)
    assert count == float(expected.count) and total == pytest.approx(float(expected.total.detach()), abs=1e-12)
    pairs = inputs["history"].lengths.sub(1).clamp(min=0)
    assert count == float((whole.weights * (pairs if mean == "pairs" else 1)).sum())


def test_the_loss_is_both_terms_and_evaluation_has_but_one() -> None:
    model, lookup = built()
    rows = batch()
    inputs = lookup(rows)
    assert set(model.task.loss(model(**inputs), rows)) == {"log_loss"}
    model.train()
    output = model(**inputs)
    assert set(model.task.loss(output, rows)) == {"log_loss", "auxiliary"}
    metrics = model.task.metrics()
    metrics.update(output, rows)
    assert metrics.compute()["rows"] == 7
    assert not model.task.broken_rows(output, rows).any()
    broken = output._replace(auxiliary=output.auxiliary.detach().clone().index_fill_(0, torch.tensor([2]), torch.nan))
    assert model.task.broken_rows(broken, rows).nonzero().flatten().tolist() == [int(output.row[2])]


def test_nothing_but_the_target_is_learned_without_auxiliary_loss() -> None:
    for schema, settings in ((SCHEMA, {"auxiliary": 0}), (without_negatives(), {})):
        model = DIEN(Fields(schema), DIENConfig(**SMALL, **settings))
        assert "negatives" not in model.inputs and model.auxiliary_net is None


def without_negatives() -> Any:
    return SCHEMA.subset(f.name for f in SCHEMA.features if not f.name.startswith("negative_"))


@pytest.mark.parametrize("settings", [{}, UNIT])
def test_a_batch_of_empty_histories_trains(settings: dict[str, Any]) -> None:
    model, lookup = built(**settings)
    model.train()
    rows = batch(1)  # whose first row has no events
    output = model(**lookup(rows))
    terms = model.task.loss(output, rows)
    sum(term.total for term in terms.values()).backward()
    assert float(terms["auxiliary"].count) == 0 and output.logits.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"hidden": 5}, "states as wide as events, found hidden 5 and events of 12 columns; leave hidden out"),
        ({"negatives": {"item": "negative_item_history"}}, "negatives: unknown sequence of the history 'item'"),
        ({"negatives": {"item_history": "negative_item"}}, "negatives: unknown sequence feature 'negative_item'"),
        ({"negatives": {"item_history": "negative_kind_history"}}, "cannot hold negatives of 'item_history'"),
        ({"negatives": {"age_history": "negative_item_history"}}, "unknown dense_sequence feature 'negative_item_hist"),
    ],
)
def test_negatives_that_do_not_fit(settings: dict[str, Any], line: str) -> None:
    schema = WITH_NUMBERS if "age_history" in settings.get("negatives", {}) else SCHEMA
    with pytest.raises(UserError, match=line) as error:
        DIEN(Fields(schema), DIENConfig(**SMALL, **settings))
    assert "\n" not in str(error.value)


def test_an_auxiliary_loss_without_negatives() -> None:
    with pytest.raises(UserError, match=r"auxiliary 0\.5 needs negatives, but .* no sequence 'negative_item_history'"):
        DIEN(Fields(without_negatives()), DIENConfig(**SMALL, auxiliary=0.5))
    with pytest.raises(UserError, match=r"auxiliary_mean: rows needs negatives, .* or leave it out"):
        DIEN(Fields(without_negatives()), DIENConfig(**SMALL, auxiliary_mean="rows"))


@pytest.mark.parametrize(
    "settings",
    [
        {"auxiliary": 0, "auxiliary_score": "net"},
        {"auxiliary": 0, "auxiliary_mean": "rows"},
        {"auxiliary_mlp": {"hidden": (3,)}},
        {"attention_mlp": {"hidden": (3,)}},
        {"attention": "bilinear", "interaction": "outer_product"},
    ],
)
def test_settings_without_effect(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="leave one of them out"):
        DIENConfig(**settings)
