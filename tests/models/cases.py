"""A small schema with every kind of pooled feature, random batches of it, and the sums that formulas share."""

from typing import Any

import numpy as np
import torch
from torch import nn

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.features.feature_kinds import (
    DenseFeature,
    DenseSequenceFeature,
    IdFeature,
    IdListFeature,
    SequenceFeature,
)
from shardrec.data_pipeline.features.id_transforms import Cross, Identity
from shardrec.data_pipeline.features.schema import Label, Schema
from tests.models.reference_lookup import ReferenceLookup, ids_of, make_batch

USERS, ITEMS, TAGS = 64, 12, 9


def mixed_schema(dense: int = 3, **more: object) -> Schema:
    """An id, two ids on one table, a bag, a valued bag, a cross, and `dense` numbers."""
    return Schema(
        features=(
            IdFeature(name="user", ids=Identity(num_ids=USERS)),
            IdFeature(name="item", ids=Identity(num_ids=ITEMS)),
            IdFeature(name="last_item", ids=Identity(num_ids=ITEMS), table="item"),
            IdListFeature(name="tags", ids=Identity(num_ids=TAGS)),
            IdListFeature(name="topics", ids=Identity(num_ids=TAGS), weights="topic_weights"),
            IdFeature(name="user_item", ids=Cross(columns=("user", "item"), num_ids=50)),
            *(DenseFeature(name=f"n{i}") for i in range(dense)),
        ),
        **more,  # type: ignore[arg-type]
    )


def mixed_batch(schema: Schema, rows: int, seed: int = 0, *, unique_users: bool = False, padding: int = 0) -> Batch:
    """Random ids (bags of 0 to 3), dense values, labels of 0 and 1."""
    r = np.random.default_rng(seed)
    users = np.arange(rows) % USERS if unique_users else r.integers(0, USERS, rows)
    bags = {name: [list(r.integers(0, TAGS, n)) for n in r.integers(0, 4, rows)] for name in ("tags", "topics")}
    ids = {
        "user": [[u] for u in users],
        "item": [[i] for i in r.integers(0, ITEMS, rows)],
        "last_item": [[i] for i in r.integers(0, ITEMS, rows)],
        **bags,
        "user_item": [[i] for i in r.integers(0, 50, rows)],
    }
    return make_batch(
        schema,
        {f.name: ids[f.name] for f in schema.sparse},
        item_weights={"topics": [list(r.normal(size=len(bag))) for bag in bags["topics"]]},
        dense=r.normal(size=(rows, len(schema.dense))),
        labels=(r.random(rows) < 0.4).astype(np.float32),
        padding=padding,
    )


def ratings_schema(dense: int = 0) -> Schema:
    """Known and asked ratings of one id space; no labels beside them, and never dense features."""
    ids = Identity(num_ids=USERS)
    return Schema(
        features=(
            IdListFeature(name="rated", ids=ids, table="user", weights="rated_ratings"),
            IdListFeature(name="asked", ids=ids, table="user", weights="asked_ratings", weights_are="labels"),
        ),
        labels=(),
    )


def ratings_batch(schema: Schema, rows: int, seed: int = 0, *, padding: int = 0, **ignored: object) -> Batch:
    """Ratings of 1 to 5: 1 to 4 known ones a row, 0 to 4 asked ones."""
    r = np.random.default_rng(seed)
    lengths = {"rated": r.integers(1, 5, rows), "asked": r.integers(0, 5, rows)}
    return make_batch(
        schema,
        {name: [list(r.choice(USERS, n, replace=False)) for n in some] for name, some in lengths.items()},
        item_weights={name: [list(r.integers(1, 6, n)) for n in some] for name, some in lengths.items()},
        padding=padding,
    )


def histories_schema(dense: int = 3, numbers: tuple[str, ...] = ()) -> Schema:
    """A user, an item with its kind and an hour; events that share their tables; negatives of item and kind.

    numbers: dense sequences beside them
    """
    sizes = {"item": ITEMS, "kind": TAGS, "hour": 5}
    ids = {name: Identity(num_ids=n) for name, n in sizes.items()}
    events = [("item_history", "item"), ("kind_history", "kind"), ("hour_history", "hour")]
    events += [("negative_item_history", "item"), ("negative_kind_history", "kind")]
    return Schema(
        features=(
            IdFeature(name="user", ids=Identity(num_ids=USERS), role="user"),
            *(IdFeature(name=name, ids=ids[name], role="item" if name != "hour" else "context") for name in sizes),
            *(
                SequenceFeature(name=name, ids=ids[table], table=table, max_length=6, aligned="history", role="user")
                for name, table in events
            ),
            *(DenseFeature(name=f"n{i}") for i in range(dense)),
            *(DenseSequenceFeature(name=name, max_length=6, aligned="history", role="user") for name in numbers),
        ),
    )


def histories_batch(
    schema: Schema, rows: int, seed: int = 0, *, unique_users: bool = False, padding: int = 0, shortest: int = 0
) -> Batch:
    """Random ids, histories of 0 to 6 events (the shortest first, then one of 6), labels of 0 and 1."""
    r = np.random.default_rng(seed)
    lengths = r.integers(0, 7, rows).clip(shortest)
    lengths[: min(rows, 2)] = [shortest, 6][: min(rows, 2)]
    ids = {}
    for f in schema.sparse:
        many = lengths if isinstance(f, SequenceFeature) else np.ones(rows, np.int64)
        ids[f.name] = [list(r.integers(0, f.num_embeddings, n)) for n in many]
    if unique_users:
        ids["user"] = [[u % USERS] for u in range(rows)]
    return make_batch(
        schema,
        ids,
        dense=r.normal(size=(rows, len(schema.dense))),
        dense_sequences={f.name: r.normal(size=lengths.sum()) for f in schema.dense_sequences},
        labels=(r.random(rows) < 0.4).astype(np.float32),
        padding=padding,
    )


def transitions_schema(dense: int = 3) -> Schema:
    """What a user did with a news item, what followed and what could be shown then; `dense` numbers of each side."""
    ids = {"user": Identity(num_ids=USERS), "hour": Identity(num_ids=5), "news": Identity(num_ids=ITEMS)}
    roles: dict[str, Any] = {"user": "user", "hour": "context", "news": "item"}
    listed: dict[str, Any] = {"place": "next_candidate", "max_length": 6, "aligned": "next_candidates"}
    return Schema(
        features=(
            *(IdFeature(name=name, ids=ids[name], role=role) for name, role in roles.items()),
            *(IdFeature(name=f"next_{n}", ids=ids[n], table=n, place="next", of=n) for n in ("user", "hour")),
            SequenceFeature(name="next_candidates", ids=ids["news"], table="news", of="news", **listed),
            *(DenseFeature(name=f"n{i}", role="user") for i in range(dense)),
            *(DenseFeature(name=f"next_n{i}", place="next", of=f"n{i}") for i in range(dense)),
            *(DenseFeature(name=f"m{i}", role="user_item") for i in range(dense)),
            *(DenseSequenceFeature(name=f"next_candidates_m{i}", of=f"m{i}", **listed) for i in range(dense)),
        ),
        labels=tuple(Label(name=name) for name in ("click", "activeness", "terminal")),
    )


def transitions_batch(
    schema: Schema, rows: int, seed: int = 0, *, unique_users: bool = False, padding: int = 0
) -> Batch:
    """Random transitions with 1 to 6 candidates; the first row is terminal and has none."""
    r = np.random.default_rng(seed)
    lengths = r.integers(1, 7, rows)
    lengths[0] = 0
    ids = {
        f.name: [
            list(r.integers(0, f.num_embeddings, n))
            for n in (lengths if isinstance(f, SequenceFeature) else np.ones(rows, np.int64))
        ]
        for f in schema.sparse
    }
    if unique_users:
        ids["user"] = [[u % USERS] for u in range(rows)]
    terminal = (r.random(rows) < 0.2).astype(np.float32)
    terminal[0] = 1
    batch = make_batch(
        schema,
        ids,
        dense=r.normal(size=(rows, len(schema.dense))),
        dense_sequences={f.name: r.normal(size=lengths.sum()) for f in schema.dense_sequences},
        labels=(r.random(rows) < 0.4).astype(np.float32),
        padding=padding,
    )
    none = torch.zeros(padding)
    batch.labels |= {
        "activeness": torch.cat([torch.as_tensor(r.random(rows), dtype=torch.float32), none]),
        "terminal": torch.cat([torch.as_tensor(terminal), none]),
    }
    return batch


@torch.no_grad()
def randomise(*modules: nn.Module, seed: int = 0) -> None:
    """Fills all parameters with N(0, 0.5^2), so that no term of a formula is 0."""
    generator = torch.Generator().manual_seed(seed)
    for module in modules:
        for parameter in module.parameters():
            parameter.normal_(0, 0.5, generator=generator)


def pooled_rows(lookup: ReferenceLookup, input_name: str, batch: Batch) -> np.ndarray:
    """[B, F, D] float64 by plain loops: sum over a bag of value x row."""
    tables = lookup.inputs[input_name].tables
    result = []
    for feature, table in tables.items():
        ids, rows = ids_of(batch, feature), lookup.table(table.name).detach().double().numpy()
        values = ids.values().tolist()
        weights = ids.weights().double().tolist() if ids.weights_or_none() is not None else [1.0] * len(values)
        offsets = ids.offsets().tolist()
        field = np.zeros((batch.size, table.embedding_dim))
        for b in range(batch.size):
            for position in range(offsets[b], offsets[b + 1]):
                for d in range(table.embedding_dim):
                    field[b, d] += weights[position] * rows[values[position], d]
        result.append(field)
    return np.stack(result, 1)


def pairs_by_loops(v: np.ndarray) -> np.ndarray:
    """[B, F, D] -> [B]: sum over i < j of <v_i, v_j>."""
    y = np.zeros(len(v))
    for b in range(len(v)):
        for i in range(v.shape[1]):
            for j in range(i + 1, v.shape[1]):
                for d in range(v.shape[2]):
                    y[b] += v[b, i, d] * v[b, j, d]
    return y


def linear(layer: nn.Module, dense: np.ndarray) -> np.ndarray:
    """[B] of an `Affine` layer by loops: w0 + sum_i w_i x_i."""
    y = np.zeros(len(dense))
    for b in range(len(dense)):
        y[b] = layer.bias.item() + sum(layer.weight[i].item() * dense[b, i] for i in range(dense.shape[1]))
    return y


def perceptron(layers: nn.Module, x: np.ndarray) -> np.ndarray:
    """[B, out] of linear layers with relu between, by a loop over the layers."""
    linears = [layer for layer in layers.modules() if isinstance(layer, nn.Linear)]
    for i, layer in enumerate(linears):
        x = x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
        x = np.maximum(x, 0) if i < len(linears) - 1 else x
    return x


def hidden_layers(layers: nn.Module, x: np.ndarray) -> np.ndarray:
    """[B, last hidden size] of an MLP without an output layer: relu after every linear layer."""
    for layer in layers.modules():
        if isinstance(layer, nn.Linear):
            x = np.maximum(x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy(), 0)
    return x
