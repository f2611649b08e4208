"""User towers that read histories, against their equations row by row in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import IdFeature, SequenceFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.base import Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import Jagged, Padded
from shardrec.models.sasrec import SASRec, SASRecConfig
from shardrec.models.shared_space import Vectors
from shardrec.models.simplex import SimpleX, SimpleXConfig
from shardrec.models.youtube_dnn import YoutubeDNN, YoutubeDNNConfig
from tests.models.behaviour import permuted
from tests.models.cases import histories_batch, histories_schema, perceptron, randomise
from tests.models.reference_lookup import ReferenceLookup

SCHEMA = histories_schema(2)
ROWS = 9
MODELS: list[tuple[Any, Any]] = [
    (SimpleX, SimpleXConfig()),
    (SASRec, SASRecConfig(heads=2)),
    (YoutubeDNN, YoutubeDNNConfig()),
]


def build(model_class: Any, config: Any, schema: Schema = SCHEMA) -> tuple[Any, dict[str, Any]]:
    """In float64, with parameters of some size, in evaluation mode; and inputs of random rows."""
    model = model_class(Fields(schema), config).double().eval()
    names = [f.name for f in schema.dense]
    lookup = ReferenceLookup(model, dtype=torch.float64, dense_names=names)
    randomise(model, lookup)
    return model, lookup(histories_batch(schema, ROWS))


def events(history: Jagged) -> list[np.ndarray]:
    return np.split(history.values.detach().flatten(1).numpy(), history.offsets[1:-1].tolist())


def mean(rows: np.ndarray, dim: int) -> np.ndarray:
    return sum(rows) / len(rows) if len(rows) else np.zeros(dim)


def user_vectors(model: Recommender, inputs: dict[str, Any]) -> Tensor:
    output = model(**inputs)
    assert isinstance(output, Vectors)
    assert torch.equal(output.item, inputs["item"]) or model.task.settings.of_cosines  # type: ignore[attr-defined]
    return output.user


def test_simplex_equals_the_equation() -> None:
    """Its loss is of cosines: vectors have length 1."""
    model, inputs = build(SimpleX, SimpleXConfig(embedding_dim=4, gate=0.3, dropout=0.5))
    assert model.task.settings.name == "ccl"
    v, e = model.of_items.weight.detach().numpy(), inputs["user"].detach().numpy()
    expected = [0.3 * e[b] + 0.7 * v @ mean(rows, 4) for b, rows in enumerate(events(inputs["history"]))]
    expected = [x / np.sqrt(x @ x) for x in expected]
    torch.testing.assert_close(user_vectors(model, inputs), torch.tensor(np.stack(expected)), rtol=0, atol=1e-12)
    model.train()
    assert not torch.equal(user_vectors(model, inputs), user_vectors(model, inputs))


def test_youtube_dnn_equals_the_equation() -> None:
    numbers = tuple(f.model_copy(update={"role": "user"}) for f in SCHEMA.dense)
    schema = SCHEMA.model_copy(update={"features": (*SCHEMA.sparse, *numbers)})
    model, inputs = build(YoutubeDNN, YoutubeDNNConfig(embedding_dim=4, mlp={"hidden": [5]}), schema)
    beside = torch.cat([inputs["user"], inputs["dense"]], 1).detach().numpy()
    means = np.stack([mean(rows, 4) for rows in events(inputs["history"])])
    expected = perceptron(model.mlp, np.concatenate([means, beside], 1))
    torch.testing.assert_close(user_vectors(model, inputs), torch.from_numpy(expected), rtol=0, atol=1e-12)
    alone = YoutubeDNN(Fields(SCHEMA), YoutubeDNNConfig(user=()))
    assert list(alone.inputs) == ["history", "item"]


def block_of_one_row(block: Any, x: Tensor) -> Tensor:
    """[n, E] -> [n, E], event by event: each looks at those up to itself."""
    normed = block.attended_norm(x)
    attended = []
    for t in range(len(x)):
        heads = []
        parts = (block.query(normed[t]), block.key(normed[: t + 1]), block.value(normed[: t + 1]))
        for q, k, v in zip(*(part.chunk(block.heads, -1) for part in parts), strict=True):
            heads.append(torch.softmax(k @ q / len(q) ** 0.5, 0) @ v)
        attended.append(torch.cat(heads))
    x = x + block.output(torch.stack(attended))
    return x + block.down(torch.relu(block.up(block.norm(x))))


@pytest.mark.parametrize(("blocks", "heads"), [(1, 1), (2, 2)])
def test_sasrec_equals_blocks_row_by_row(blocks: int, heads: int) -> None:
    model, inputs = build(SASRec, SASRecConfig(embedding_dim=4, blocks=blocks, heads=heads, dropout=0.5))
    expected = []
    for rows in events(inputs["history"]):
        x = torch.as_tensor(rows) + model.position.weight[torch.arange(len(rows) - 1, -1, -1)]
        for block in model.blocks:
            x = block_of_one_row(block, x) if len(x) else x
        expected.append(model.norm(x[-1] if len(x) else torch.zeros(4, dtype=torch.float64)))
    torch.testing.assert_close(user_vectors(model, inputs), torch.stack(expected), rtol=0, atol=1e-12)
    changed = user_vectors(model, inputs | {"history": permuted(inputs["history"])}) - user_vectors(model, inputs)
    several = inputs["history"].lengths > 1
    assert (changed[several].abs().sum(1) > 1e-6).all() and not changed[~several].abs().gt(1e-12).any()


def test_rows_without_any_event() -> None:
    for model_class, config in MODELS:
        model, inputs = build(model_class, config)
        none = torch.zeros(ROWS, dtype=torch.int64)
        empty = Jagged(inputs["history"].values[:0], none, torch.zeros(ROWS + 1, dtype=torch.int64))
        assert user_vectors(model, inputs | {"history": empty}).isfinite().all()


@pytest.mark.parametrize(("model_class", "config"), MODELS)
def test_padded_histories_are_as_jagged_ones(model_class: Any, config: Any) -> None:
    model, inputs = build(model_class, config)
    rows = events(inputs["history"])
    slots = np.full((ROWS, max(map(len, rows)), 1, model.dim), 7.0)
    for b, row in enumerate(rows):
        slots[b, : len(row), 0] = row
    padded = Padded(torch.from_numpy(slots), inputs["history"].lengths)
    found = model.padded(**inputs | {"history": padded})
    torch.testing.assert_close(found.user, user_vectors(model, inputs), rtol=0, atol=1e-12)


IDS = Identity(num_ids=5)
USER, ITEM = IdFeature(name="user", ids=IDS, role="user"), IdFeature(name="item", ids=IDS, role="item")


@pytest.mark.parametrize(
    ("features", "settings", "message"),
    [
        ((USER, ITEM), {}, "history has to be a sequence on the item's table 'item', and there is none"),
        (
            (USER, ITEM, SequenceFeature(name="seen", ids=IDS, max_length=3)),
            {"history": "seen"},
            "'seen' looks up table 'seen'; declare one by `kind: sequence, table: item`",
        ),
        (
            (USER, ITEM, SequenceFeature(name="seen", ids=IDS, table="item", max_length=3)),
            {"history": "sene"},
            "did you mean 'seen'",
        ),
        ((USER,), {}, "no id feature of the schema has role: item"),
    ],
)
def test_what_lacks_a_history_is_one_line(features: tuple[Any, ...], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        SimpleX(Fields(Schema(features=features)), SimpleXConfig(**settings))
    assert "\n" not in str(raised.value)
