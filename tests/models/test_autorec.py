"""AutoRec against its equation, by loops; what is predicted where nothing is known; wrong ratings and settings."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import IdFeature, IdListFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.autorec import AutoRec, AutoRecConfig
from shardrec.models.fields import Fields
from shardrec.models.table_settings import TableSettings
from tests.models.cases import randomise, ratings_batch, ratings_schema
from tests.models.reference_lookup import ReferenceLookup, make_batch

SCHEMA = ratings_schema()


def build(**settings: Any) -> tuple[AutoRec, ReferenceLookup]:
    model = AutoRec(Fields(SCHEMA), AutoRecConfig(**({"hidden": 5} | settings))).double().eval()
    lookup = ReferenceLookup(model, dtype=torch.float64)
    randomise(model, lookup)
    return model, lookup


def lists(batch: Batch, feature: str) -> list[list[tuple[int, float]]]:
    """(id, rating) of every row."""
    ids = batch.weighted_ids[feature]
    flat = list(zip(ids.values().tolist(), ids.weights().tolist(), strict=True))
    offsets = ids.offsets().tolist()
    return [flat[a:b] for a, b in pairwise(offsets)]


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def by_loops(model: AutoRec, lookup: ReferenceLookup, batch: Batch) -> list[list[float]]:
    """h(r) = f(W g(V r + mu) + b), with b counted from where f gives the default."""
    config = model.config
    v, w = lookup.table("encoder/user").detach().numpy(), lookup.table("decoder/user").detach().numpy()
    g = {"sigmoid": sigmoid, "identity": float, "relu": lambda x: max(x, 0.0)}[config.activation]
    low, high = config.rating_range
    found = []
    for rated, asked in zip(lists(batch, "rated"), lists(batch, "asked"), strict=True):
        hidden = [g(model.mu[k].item() + sum(r * v[i, k] for i, r in rated)) for k in range(config.hidden)]
        row = []
        for i, _ in asked:
            score = w[i, 0] + sum(w[i, 1 + k] * hidden[k] for k in range(config.hidden))
            if config.output == "identity":
                rating = score + config.default_rating
            else:
                share = (config.default_rating - low) / (high - low)
                rating = low + (high - low) * sigmoid(score + np.log(share / (1 - share)))
            row.append(rating if rated else config.default_rating)
        found.append(row)
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"activation": "identity", "default": 3.6},
        {"output": "sigmoid", "default": 2.5, "rating_range": (0.5, 7)},
        {"activation": "relu", "output": "sigmoid"},
    ],
)
def test_equals_the_equation(settings: dict[str, Any]) -> None:
    model, lookup = build(**settings)
    batch = ratings_batch(SCHEMA, 7, padding=2)
    output = model(**lookup(batch))
    expected = by_loops(model, lookup, batch)
    assert output.lengths.tolist() == [len(row) for row in expected]
    torch.testing.assert_close(output.values, torch.tensor(np.concatenate(expected)), rtol=0, atol=1e-12)


def test_nothing_known_is_the_default() -> None:
    """A row without ratings, whatever it asks for; and in fresh tables every id, as training has not seen it."""
    batch = make_batch(
        SCHEMA, {"rated": [[], [3]], "asked": [[1, 2], [4]]}, item_weights={"rated": [[], [5]], "asked": [[1, 5], [2]]}
    )
    model, lookup = build(default=3.25)
    values = model(**lookup(batch)).values
    assert values[:2].tolist() == [3.25, 3.25] and values[2] != 3.25
    fresh = AutoRec(Fields(SCHEMA), AutoRecConfig(default=3.25, output="sigmoid"))
    assert fresh(**ReferenceLookup(fresh)(batch)).values.tolist() == pytest.approx([3.25] * 3)


def test_loss_and_metrics_are_of_the_asked_positions() -> None:
    model, lookup = build()
    batch = ratings_batch(SCHEMA, 9, padding=3)
    batch.weights = torch.arange(12.0)  # padding has no positions, so that its weights count nowhere
    output = model(**lookup(batch))
    rating = np.concatenate(by_loops(model, lookup, batch))
    label = np.array([r for row in lists(batch, "asked") for _, r in row])
    weight = np.array([b for b, row in enumerate(lists(batch, "asked")) for _ in row], np.float64)
    (term,) = model.task.loss(output, batch).values()
    assert float(term.count) == weight.sum()
    assert float(term.total.detach()) == pytest.approx(float((weight * (rating - label) ** 2).sum()))
    metrics = model.task.metrics()
    metrics.update(output, batch)
    found, error = metrics.compute(), rating.clip(1, 5) - label
    assert found["rows"] == len(label)
    assert found["rmse"] == pytest.approx(np.sqrt(np.average(error**2, weights=weight)))
    assert found["mae"] == pytest.approx(np.average(abs(error), weights=weight))
    assert next(iter(metrics.directions)) == "rmse"
    prediction = model.task.prediction(output._replace(values=output.values.detach()))
    assert prediction.values.tolist() == pytest.approx(rating.clip(1, 5).tolist())
    assert torch.equal(prediction.offsets, output.offsets)


def test_padding_alone_has_a_loss_of_zero() -> None:
    model, lookup = build()
    batch = ratings_batch(SCHEMA, 0, padding=3)
    (term,) = model.task.loss(model(**lookup(batch)), batch).values()
    term.total.backward()
    assert float(term.total.detach()) == float(term.count) == 0
    assert not any(p.grad.any() for p in (*model.parameters(), *lookup.parameters()))


def test_rows_of_a_loss_that_is_not_finite_are_named() -> None:
    model, lookup = build()
    batch = ratings_batch(SCHEMA, 6)
    output = model(**lookup(batch))
    row, values = int(output.lengths.argmax()), output.values.detach()
    assert not model.task.broken_rows(output, batch).any()
    values[int(output.offsets[row])] = torch.nan
    assert model.task.broken_rows(output._replace(values=values), batch).nonzero().flatten().tolist() == [row]


@pytest.mark.parametrize(("feature", "rating"), [("rated", 0.5), ("asked", 7), ("rated", float("nan"))])
def test_ratings_outside_the_range_are_one_line(feature: str, rating: float) -> None:
    ratings = {"rated": [[1, 5], [], [3]], "asked": [[], [2], [4, 5]]}
    ids = {name: [list(range(len(row))) for row in rows] for name, rows in ratings.items()}
    task = build()[0].task
    task.check(make_batch(SCHEMA, ids, item_weights=ratings, padding=2))
    ratings[feature][2][-1] = rating
    with pytest.raises(UserError, match=f"{feature!r}: found the rating {rating:g} in row 2, expected 1 to 5"):
        task.check(make_batch(SCHEMA, ids, item_weights=ratings, padding=2))


def test_wrong_features_and_widths() -> None:
    plain = IdListFeature(name="rated", ids=Identity(num_ids=4))
    for schema in (
        Schema(features=(plain, SCHEMA["asked"])),
        Schema(features=(SCHEMA["rated"], IdFeature(name="asked", ids=plain.ids))),
    ):
        with pytest.raises(UserError, match="must be an id_list with `weights`, its ratings"):
            AutoRec(Fields(schema), AutoRecConfig())
    with pytest.raises(UserError, match="unknown feature 'ratd'; did you mean 'rated'"):
        AutoRec(Fields(SCHEMA), AutoRecConfig(rated="ratd"))
    fields = Fields(SCHEMA, {"decoder/*": TableSettings(embedding_dim=8)})
    with pytest.raises(UserError, match="embedding_dim of 'decoder/user' is set, but this model's width"):
        AutoRec(fields, AutoRecConfig())


def test_fresh_rows_that_would_take_the_default_away() -> None:
    scaled = TableSettings(init={"scale": 0.1})
    with pytest.raises(UserError, match=r"'decoder/user' is set to scale 0\.1,.* name `encoder/\*` alone"):
        AutoRec(Fields(SCHEMA, {"*": scaled}), AutoRecConfig())
    tables = AutoRec(Fields(SCHEMA, {"encoder/*": scaled}), AutoRecConfig()).tables
    assert tables["encoder/user"].init.scale == 0.1 and tables["decoder/user"].init.scale == 0
    AutoRec(Fields(SCHEMA, {"*": TableSettings(init={"kind": "normal"})}), AutoRecConfig())


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"rating_range": (5, 1)}, "lower end first"),
        ({"default": 5}, "default is 5, expected a number inside"),
        ({"activation": "sigmid"}, "'sigmoid'"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError, match=line):
        AutoRecConfig(**settings)


def test_maxout_takes_twice_the_rows() -> None:
    model, lookup = build(activation="maxout")
    assert lookup.table("encoder/user").shape[1] == 10 and lookup.table("decoder/user").shape[1] == 6
    assert model(**lookup(ratings_batch(SCHEMA, 4))).values.isfinite().all()
