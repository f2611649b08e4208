"""Losses of retrieval against plain loops in float64: which items rows are told from, corrected and struck out."""

from dataclasses import replace
from math import exp, log, log1p
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from shardrec.data_pipeline.batch import Alternatives, Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.models import MODELS, config_class
from shardrec.models.fields import Fields
from shardrec.models.layers.moments import live_rows
from shardrec.models.retrieval import Retrieval, RetrievalLoss
from shardrec.models.shared_space import Vectors, unit
from tests.models.cases import mixed_schema
from tests.models.reference_lookup import make_batch

ROWS, PADDING, SHARED, ITEMS = 5, 2, 4, 3
ITEM = np.array([0, 1, 2, 0, 1])
DRAWN = np.array([2, 0, 2, -1])  # the last is padding
WEIGHTS = np.array([1.0, 2.0, 0.5, 0.0, 3.0])


def some_batch(schema: Any = None, **more: Any) -> Batch:
    schema = schema or mixed_schema(0)
    columns = {f.name: [[0]] * ROWS for f in schema.sparse}
    batch = make_batch(schema, columns, weights=WEIGHTS, padding=PADDING + len(more.get("shared", ())))
    draw = torch.Generator().manual_seed(1)
    given = {
        "items": torch.tensor([*ITEM, *[-1] * PADDING]),
        "log_q": torch.randn(ROWS + PADDING, generator=draw),
        "shared": torch.zeros(0, dtype=torch.int64),
        "shared_log_q": torch.randn(len(more.get("shared", ())), generator=draw),
    }
    return replace(batch, alternatives=Alternatives(**(given | more)))


def vectors(batch: Batch, cosine: bool) -> Vectors:
    draw = torch.Generator().manual_seed(0)
    user = torch.randn(ROWS + PADDING, 6, generator=draw, dtype=torch.float64)
    item = torch.randn(len(batch.rows), 6, generator=draw, dtype=torch.float64)
    return Vectors(unit(user), unit(item)) if cosine else Vectors(user, item)


def by_loops(loss: RetrievalLoss, output: Vectors, batch: Batch) -> float:
    """The weighted mean of rows' losses: sums over j in words."""
    alternatives = batch.alternatives
    assert alternatives is not None
    user, item = output.user.numpy(), output.item.numpy()
    log_q = [*alternatives.log_q.tolist(), *alternatives.shared_log_q.tolist()]
    ids = [*alternatives.items.tolist(), *alternatives.shared.tolist()]
    pool = [j for j in range(len(ids)) if ids[j] >= 0 and (alternatives.in_batch or j >= ROWS + PADDING)]
    total = 0.0
    for b in range(ROWS):
        positive = sum(user[b] * item[b]) / loss.divisor
        others = [(sum(user[b] * item[j]) / loss.divisor, log_q[j]) for j in pool if ids[j] != ids[b]]
        if loss.name == "softmax":
            q = 1.0 if loss.log_q is not False else 0.0
            logits = [s - q * other for s, other in others]
            own = positive - q * log_q[b]
            value = -own + log(exp(own) + sum(exp(x) for x in logits))
        elif loss.name == "bpr":
            value = sum(log1p(exp(s - positive)) for s, _ in others) / len(others)
        else:
            hinge = sum(max(0.0, s - loss.margin) for s, _ in others) / len(others)
            value = 1 - positive + loss.negative_weight * hinge
        squares = [sum(x * x) for x in (user[b], item[b])]
        squares.append(np.mean([sum(item[j] * item[j]) for j in pool]))
        total += WEIGHTS[b] * (value + loss.l2 * sum(squares) / 2)
    return total / WEIGHTS.sum()


LOSSES = [
    RetrievalLoss(),
    RetrievalLoss(log_q=False, temperature=0.7),
    RetrievalLoss(l2=0.3),
    RetrievalLoss(cosine=True),
    RetrievalLoss(name="bpr"),
    RetrievalLoss(name="bpr", cosine=True, temperature=0.5),
    RetrievalLoss(name="ccl", margin=0.1, negative_weight=3.0),
]
POOLS: list[dict[str, Any]] = [
    {"shared": torch.from_numpy(DRAWN)},
    {"in_batch": True},
    {"in_batch": True, "shared": torch.from_numpy(DRAWN)},
]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_equals_loops(loss: RetrievalLoss, pool: dict[str, Any]) -> None:
    """A row's own item is nobody's negative, also where another row or draw has it; padding counts nowhere."""
    batch, task = some_batch(**pool), Retrieval(loss)
    output = task.completed(vectors(batch, loss.of_cosines), batch)
    found = sum(float(term.total / term.count) for term in task.loss(output, batch).values())
    assert found == pytest.approx(by_loops(loss, output, batch), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_gradients_are_those_of_the_loss(loss: RetrievalLoss) -> None:
    """Also where scores are struck out in place, and at the vectors of padding, which get none."""
    batch, task = some_batch(**POOLS[2]), Retrieval(loss)
    of_batch = [x.clone().requires_grad_() for x in vectors(batch, loss.of_cosines)[:2]]

    def total(user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        output = task.completed(Vectors(user, item), batch)
        return sum((term.total for term in task.loss(output, batch).values()), torch.zeros(()))

    assert torch.autograd.gradcheck(total, of_batch)
    total(*of_batch).backward()
    assert not of_batch[0].grad[ROWS:].any() and not of_batch[1].grad[ROWS : ROWS + PADDING].any()
    assert not of_batch[1].grad[-1].any()


@pytest.mark.parametrize("name", ["softmax", "bpr", "ccl"])
def test_negatives_of_rows_themselves(name: Any) -> None:
    rows, each, loss = 3, 2, RetrievalLoss(name=name, **({"margin": 0.0} if name == "ccl" else {"l2": 0.5}))
    batch = make_batch(mixed_schema(0), {f.name: [[0]] * rows * (1 + each) for f in mixed_schema(0).sparse}, padding=1)
    batch = replace(batch, alternatives=Alternatives.own(rows, each))
    draw = torch.Generator().manual_seed(0)
    user, item = (torch.randn(n, 4, generator=draw, dtype=torch.float64) for n in (rows, rows * (1 + each) + 1))
    task = Retrieval(loss)
    terms = task.loss(task.completed(Vectors(user, item), batch), batch).values()
    score = [[float(user[b] @ item[n * rows + b]) for n in range(1 + each)] for b in range(rows)]
    if name == "softmax":
        expected = [log(sum(exp(s) for s in row)) - row[0] for row in score]
    elif name == "bpr":
        expected = [sum(log1p(exp(s - row[0])) for s in row[1:]) / each for row in score]
    else:
        expected = [1 - row[0] + 150 * sum(max(0.0, s) for s in row[1:]) / each for row in score]
    squares = (user.square().sum() + item[:rows].square().sum() + item[rows:-1].square().sum() / each) / rows
    found = sum(float(term.total / term.count) for term in terms)
    assert found == pytest.approx(np.mean(expected) + loss.l2 / 2 * float(squares), rel=1e-6)


def test_the_whole_catalogue_makes_the_full_softmax() -> None:
    """Each item is expected once, so that nothing is corrected."""
    catalogue = torch.arange(ITEMS)
    none = torch.zeros(ROWS + PADDING)
    batch = some_batch(shared=catalogue, shared_log_q=torch.zeros(ITEMS), log_q=none)
    task, output = Retrieval(RetrievalLoss()), vectors(batch, False)
    table = output.item[ROWS + PADDING :]
    own = torch.cat([table[torch.from_numpy(ITEM)], output.item[ROWS : ROWS + PADDING], table])
    found = task.loss(task.completed(Vectors(output.user, own), batch), batch)["loss"]
    full = torch.log_softmax(output.user[:ROWS] @ table.T, 1)[torch.arange(ROWS), ITEM]
    torch.testing.assert_close(found.total, -(torch.from_numpy(WEIGHTS) * full).sum())


def test_ranks_share_what_they_gather() -> None:
    """Two ranks of equal vectors: each row has its own rank's items and the other's, which are the same once more."""
    batch, task = some_batch(**POOLS[2]), Retrieval(RetrievalLoss(name="bpr"))
    alone = task.completed(vectors(batch, False), batch)
    with live_rows(batch.live, gather=lambda x: torch.cat([x, x])):
        both = task.completed(vectors(batch, False), batch)
    assert both.others is not None and alone.others is not None
    assert both.others.ids.tolist() == 2 * alone.others.ids.tolist()
    assert torch.equal(both.others.log_q, alone.others.log_q.repeat(2))
    found, expected = (task.loss(output, batch)["loss"].total for output in (both, alone))
    torch.testing.assert_close(found, expected)
    fixed = replace(batch, alternatives=replace(batch.alternatives, dealt=False))
    with live_rows(batch.live, gather=lambda x: torch.cat([x, x])):
        assert len(task.completed(vectors(batch, False), fixed).others.ids) == len(alone.others.ids)


def test_metrics_are_the_mean_loss_of_positives() -> None:
    task, batch = Retrieval(RetrievalLoss()), some_batch(**POOLS[0])
    batch.labels["label"][:] = torch.tensor([1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0.0])
    output = task.completed(vectors(batch, False), batch)
    metrics = task.metrics()
    metrics.update(output, batch)
    found = metrics.compute()
    loss = task.row_loss(output, batch.alternatives)[:ROWS]
    weight = torch.from_numpy(WEIGHTS) * torch.tensor([1, 1, 0, 1, 1])
    assert found == pytest.approx({"loss": float((loss * weight).sum() / weight.sum()), "rows": ROWS})
    metrics = task.metrics()
    metrics.update(output, replace(batch, alternatives=None))
    assert np.isnan(metrics.compute()["loss"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "ccl", "temperature": 0.1}, "temperature is of loss softmax and bpr, not of ccl"),
        ({"name": "bpr", "margin": 0.5}, "margin is of loss ccl, not of bpr"),
        ({"name": "bpr", "log_q": True}, "log_q is of loss softmax, not of bpr"),
        ({"name": "ccl", "cosine": False}, "ccl is a loss of cosines"),
        ({"cosine": True, "l2": 0.1}, "l2 is of the lengths of vectors, and cosines have none"),
    ],
)
def test_settings_of_another_loss_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RetrievalLoss(**settings)


def test_models_that_cannot_retrieve_say_so() -> None:
    for name, schema in (("deepfm", mixed_schema()), ("dien", None), ("ncf_mlp", mixed_schema())):
        config = config_class(MODELS[name]).model_validate({"task": "retrieval"})
        with pytest.raises(UserError, match="task: retrieval needs a model whose users and items share a space"):
            config.build_task(schema)
    with pytest.raises(ValidationError, match="loss is for task: retrieval; found task: binary"):
        config_class(MODELS["mf"]).model_validate({"loss": {"name": "bpr"}})


@pytest.mark.parametrize("name", ["mf", "gmf", "two_tower"])
def test_no_label_is_needed_and_each_parameter_learns(name: str) -> None:
    schema = mixed_schema().model_copy(update={"labels": ()})
    sides = {"user": "user", "item": "item"} if name != "two_tower" else {"user": ["user"], "item": ["item"]}
    config = config_class(MODELS[name]).model_validate({"task": "retrieval", **sides})
    model = MODELS[name](Fields(schema), config)
    batch = some_batch(mixed_schema(), in_batch=True)
    inputs = {n: torch.randn(ROWS + PADDING, _width(i), requires_grad=True) for n, i in model.inputs.items()}
    output = model(**inputs)
    model.task.loss(model.task.completed(output, batch), batch)["loss"].total.backward()
    for key, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad.abs().sum() > 0, key
    assert model.task.prediction(output).shape == (ROWS + PADDING,)
    with pytest.raises(UserError, match=r"told? .* there are none; set data\.negatives|there are none"):
        model.task.loss(output, replace(batch, alternatives=None))


def _width(source: Any) -> int:
    return source.width if hasattr(source, "width") else len(source.features)
