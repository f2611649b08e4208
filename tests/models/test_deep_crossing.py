"""Deep Crossing against its equation, by loops; both scorings."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from shardrec.data_pipeline.errors import UserError
from shardrec.models.deep_crossing import DeepCrossing, DeepCrossingConfig
from shardrec.models.fields import Fields
from shardrec.models.table_settings import TableSettings
from shardrec.models.tasks import MultiClass
from tests.models.cases import mixed_batch, mixed_schema, pooled_rows, randomise
from tests.models.reference_lookup import ReferenceLookup


@pytest.mark.parametrize(
    ("dense", "classes", "embedding"), [(0, None, "linear"), (3, 4, "linear"), (3, None, "relu"), (0, 4, "relu")]
)
def test_equals_the_equation(dense: int, classes: int | None, embedding: str) -> None:
    """With `embedding: relu` each field has a bias of its own, two on one table too; dense features bypass it."""
    schema = mixed_schema(dense)
    config = DeepCrossingConfig(embedding_dim=4, units=(7, 5), classes=classes, embedding=embedding)
    model = DeepCrossing(Fields(schema), config).double()
    lookup = ReferenceLookup(model, dtype=torch.float64)
    randomise(model, lookup)
    batch = mixed_batch(schema, 6)
    field = pooled_rows(lookup, "field", batch)
    if embedding == "relu":
        field = np.maximum(field + model.bias.detach().numpy().reshape(6, 4), 0)
    stacked = np.concatenate([field.reshape(6, -1), batch.dense.double().numpy()], 1)
    scores = []
    for x in stacked:
        for unit in model.units:
            w0, b0, w1, b1 = (p.detach().numpy() for p in unit.parameters())
            x = np.maximum(w1 @ np.maximum(w0 @ x + b0, 0) + b1 + x, 0)
        scores.append(model.output.weight.detach().numpy() @ x + model.output.bias.detach().numpy())
    output, expected = model(**lookup(batch)), torch.from_numpy(np.stack(scores))
    torch.testing.assert_close(output, expected if classes else expected[:, 0], rtol=1e-12, atol=1e-12)
    prediction = model.task.prediction(output)
    if classes:
        assert prediction.shape == (6, 4)
        torch.testing.assert_close(prediction.sum(1), torch.ones(6, dtype=torch.float64))
    else:
        torch.testing.assert_close(prediction, torch.sigmoid(expected[:, 0]))


def test_learns_classes() -> None:
    """The class is one of three by user and item: nothing that a number alone could rank."""
    schema = mixed_schema()
    torch.manual_seed(0)
    model = DeepCrossing(Fields(schema), DeepCrossingConfig(embedding_dim=8, units=(32,), classes=3))
    lookup = ReferenceLookup(model)
    batch = mixed_batch(schema, 500)
    users, items = (batch.ids[name].values() for name in ("user", "item"))
    batch.labels["label"] = ((users + items) % 3).float()
    model.task.check(batch)
    optimizer = torch.optim.Adam([*model.parameters(), *lookup.parameters()], lr=0.02)
    for _ in range(100):
        term = model.task.loss(model(**lookup(batch)), batch)["log_loss"]
        optimizer.zero_grad()
        (term.total / term.count).backward()
        optimizer.step()
    metrics = model.task.metrics()
    metrics.update(model(**lookup(batch)), batch)
    values = metrics.compute()
    assert values["accuracy"] > 0.95 and values["log_loss"] < 0.2 and values["rows"] == 500


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"classes": 1}, "greater than or equal to 2"),
        ({"classes": 3, "task": "regression"}, "classes 3 is not for task: regression"),
        ({"classes": 3, "top_k": [5]}, "top_k is of two classes, found it beside classes: 3"),
        ({"classes": 3, "threshold": 0.4}, "threshold is of two classes, found it beside classes: 3"),
    ],
)
def test_classes_that_do_not_fit_are_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError, match=line):
        DeepCrossingConfig.model_validate(settings)


def test_classes_need_a_label_of_the_schema() -> None:
    task = DeepCrossingConfig(classes=3).build_task(mixed_schema())
    assert isinstance(task, MultiClass) and (task.label, task.classes) == ("label", 3)
    with pytest.raises(UserError, match="unknown label 'lable'"):
        DeepCrossingConfig(classes=3, label="lable").build_task(mixed_schema())
    with pytest.raises(UserError, match=r"classes: 3, but the schema's negative_rate is 0\.1"):
        DeepCrossingConfig(classes=3).build_task(mixed_schema(negative_rate=0.1))
    DeepCrossingConfig().build_task(mixed_schema(negative_rate=0.1))


@pytest.mark.parametrize("embedding", ["linear", "relu"])
def test_dims_may_differ(embedding: str) -> None:
    schema = mixed_schema()
    fields = Fields(schema, {"item": TableSettings(embedding_dim=2)})
    model = DeepCrossing(fields, DeepCrossingConfig(embedding_dim=5, units=(4,), embedding=embedding))
    assert model.output.in_features == 4 * 5 + 2 * 2 + 3
    biases = {name: len(p) for name, p in model.named_parameters() if name == "bias"}
    assert biases == ({"bias": 4 * 5 + 2 * 2} if embedding == "relu" else {})
