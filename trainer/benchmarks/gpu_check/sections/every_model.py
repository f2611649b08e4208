"""Every model has a small run here, on data of its kind.

Rows are few and ids fewer, so that two ranks meet the same id in a batch, a bag holds it twice, and the last batch pads
a rank.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from shardrec.data_pipeline.features.feature_kinds import (
    DenseFeature,
    DenseSequenceFeature,
    IdFeature,
    IdListFeature,
    SequenceFeature,
)
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Label, Schema
from shardrec.models import MODELS, config_class

STEPS, BATCH = 10, 60
ROWS = STEPS * BATCH - 9  # the last batch has 51 rows
USERS, ITEMS, TAGS = 41, 23, 7

CLICKS = Schema(
    features=(
        IdFeature(name="user", ids=Identity(num_ids=USERS), role="user"),
        IdFeature(name="last_item", ids=Identity(num_ids=ITEMS), role="user", table="item"),
        IdFeature(name="item", ids=Identity(num_ids=ITEMS), role="item"),
        IdListFeature(name="tags", ids=Identity(num_ids=TAGS), role="item"),
        IdListFeature(name="topics", ids=Identity(num_ids=TAGS), role="item", weights="topic_weights"),
        DenseFeature(name="age", role="user"),
        DenseFeature(name="price", role="item"),
    )
)
RATINGS = Schema(
    features=(
        IdListFeature(name="rated", ids=Identity(num_ids=ITEMS), table="item", weights="rated_ratings"),
        IdListFeature(
            name="asked", ids=Identity(num_ids=ITEMS), table="item", weights="asked_ratings", weights_are="labels"
        ),
    ),
    labels=(),
)
HISTORIES = Schema(
    features=(
        *(f for f in CLICKS.features if f.name in ("user", "item", "price")),
        IdFeature(name="kind", ids=Identity(num_ids=TAGS), role="item"),
        *(
            SequenceFeature(name=f"{name}_history", ids=ids, table=table, max_length=5, aligned="history", role="user")
            for name, table, ids in (
                ("item", "item", Identity(num_ids=ITEMS)),
                ("kind", "kind", Identity(num_ids=TAGS)),
                ("negative_item", "item", Identity(num_ids=ITEMS)),
            )
        ),
        *(
            DenseSequenceFeature(name=f"{name}_history", max_length=5, aligned="history", role="user")
            for name in ("price", "age")
        ),
        # of what followed, for which the data have no columns: no model reads it unasked
        IdFeature(name="next_item", ids=Identity(num_ids=ITEMS), table="item", place="next", of="item"),
        DenseFeature(name="next_price", place="next", of="price"),
    )
)
NEXT: dict[str, Any] = {"place": "next_candidate", "max_length": 6, "aligned": "next_candidates"}
TRANSITIONS = Schema(
    features=(
        *(f for f in CLICKS.features if f.name in ("user", "item", "age")),
        DenseFeature(name="match", role="user_item"),
        IdFeature(name="next_user", ids=Identity(num_ids=USERS), table="user", place="next", of="user"),
        DenseFeature(name="next_age", place="next", of="age"),
        SequenceFeature(name="next_items", ids=Identity(num_ids=ITEMS), table="item", of="item", **NEXT),
        DenseSequenceFeature(name="next_matches", of="match", **NEXT),
    ),
    labels=tuple(Label(name=name) for name in ("click", "activeness", "terminal")),
)
RATES = ("autorec",)  # models of ratings
NO_USERS = (*RATES, "sasrec")  # models without a table of users
READ_HISTORIES = ("pooled_history", "din", "dien", "bst", "simplex", "youtube_dnn", "sasrec")
READ_TRANSITIONS = ("drn",)
# of models whose output grows fast with their rows: small steps
STEEP = ("lr", "fm", "ffm", "deepfm", "wide_deep", "nfm", "afm", "autoint", "autorec")
SMALL: dict[str, Any] = {"embedding_dim": 4, "mlp": {"hidden": [8, 4], "activation": "tanh"}}  # where a model has these
SETTINGS: dict[str, dict[str, Any]] = {
    "afm": {"attention_size": 4},
    "deep_crossing": {"units": [8, 4]},
    "dcn_v2": {"low_rank": 2, "experts": 2},
    "dlrm": {"bottom": {"hidden": [8]}},
    "autoint": {"layers": 2, "head_dim": 4},
    "two_tower": {"vector_dim": 4},
    "autorec": {"hidden": 8},
    **{name: {"task": "binary"} for name in ("simplex", "youtube_dnn")},  # to retrieve: test_retrieval.py
    "sasrec": {"task": "binary", "dropout": 0.0},
    "din": {"attention": {"hidden": [8], "activation": "dice"}, "target": {"price_history": "price"}},
    "drn": {"rewards": {"click": 1.0, "activeness": 0.05}, "target": {"every": 7, "by": "swap"}},
}


def schema_of(name: str) -> Schema:
    """Returns the schema of a model's data."""
    if name in READ_TRANSITIONS:
        return TRANSITIONS
    return RATINGS if name in RATES else HISTORIES if name in READ_HISTORIES else CLICKS


def bags(draw: np.random.Generator, num_ids: int, fewest: int, most: int) -> tuple[pa.ListArray, pa.ListArray]:
    """Returns a bag of ids for each row, some of them twice in it, and a number beside each."""
    lengths = draw.integers(fewest, most + 1, ROWS)
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    ids, numbers = draw.integers(0, num_ids, lengths.sum()), draw.integers(1, 6, lengths.sum()).astype(np.float32)
    return pa.ListArray.from_arrays(offsets, pa.array(ids)), pa.ListArray.from_arrays(offsets, pa.array(numbers))


def write(folder: Path, schema: Schema, columns: dict[str, Any]) -> Path:
    """Writes training rows with their schema; returns their folder."""
    (folder / "train").mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "train" / "0.parquet", row_group_size=300)
    schema.save(folder / "schema.yaml")
    return folder


def clicks(folder: Path) -> Path:
    """Writes clicks, which depend on whether user and item are alike."""
    draw = np.random.default_rng(0)
    columns = {name: draw.integers(0, n, ROWS) for name, n in (("user", USERS), ("last_item", ITEMS), ("item", ITEMS))}
    tags, _ = bags(draw, TAGS, 0, 3)
    topics, numbers = bags(draw, TAGS, 0, 3)
    columns |= {"tags": tags, "topics": topics, "topic_weights": numbers}
    columns |= {name: draw.normal(size=ROWS).astype(np.float32) for name in ("age", "price")}
    label = (draw.random(ROWS) < 0.2 + 0.6 * (columns["user"] % 2 == columns["item"] % 2)).astype(np.float32)
    return write(folder, CLICKS, columns | {"label": label})


def histories(folder: Path) -> Path:
    """Writes histories of 0 to 5 events; a user is likelier to take an item whose kind is among them."""
    draw = np.random.default_rng(0)
    columns: dict[str, Any] = {name: draw.integers(0, n, ROWS) for name, n in (("user", USERS), ("item", ITEMS))}
    columns |= {"kind": columns["item"] % TAGS, "price": draw.normal(size=ROWS).astype(np.float32)}
    items, _ = bags(draw, ITEMS, 0, 5)
    kinds = pa.ListArray.from_arrays(items.offsets, pa.array(items.values.to_numpy() % TAGS))
    others = pa.ListArray.from_arrays(items.offsets, pa.array(draw.integers(0, ITEMS, len(items.values))))
    columns |= {"item_history": items, "kind_history": kinds, "negative_item_history": others}
    for name in ("price", "age"):
        numbers = np.random.default_rng(len(name)).normal(size=len(items.values)).astype(np.float32)
        columns[f"{name}_history"] = pa.ListArray.from_arrays(items.offsets, pa.array(numbers))
    known = np.array([kind in row for kind, row in zip(columns["kind"], kinds.to_pylist(), strict=True)])
    label = (draw.random(ROWS) < 0.2 + 0.6 * known).astype(np.float32)
    return write(folder, HISTORIES, columns | {"label": label})


def ratings(folder: Path) -> Path:
    """Writes ratings that are known, and others that are asked for."""
    draw = np.random.default_rng(0)
    (rated, known), (asked, wanted) = bags(draw, ITEMS, 0, 4), bags(draw, ITEMS, 0, 4)
    return write(folder, RATINGS, {"rated": rated, "rated_ratings": known, "asked": asked, "asked_ratings": wanted})


def transitions(folder: Path) -> Path:
    """Writes transitions; those that are terminal have no candidates."""
    draw = np.random.default_rng(0)
    names = (("user", USERS), ("next_user", USERS), ("item", ITEMS))
    columns: dict[str, Any] = {name: draw.integers(0, n, ROWS) for name, n in names}
    columns |= {n: draw.normal(size=ROWS).astype(np.float32) for n in ("age", "next_age", "match")}
    items, numbers = bags(draw, ITEMS, 0, 6)
    click = (draw.random(ROWS) < 0.2 + 0.6 * (columns["user"] % 2 == columns["item"] % 2)).astype(np.float32)
    terminal = np.diff(items.offsets.to_numpy()) == 0
    columns |= {"next_items": items, "next_matches": numbers, "terminal": terminal.astype(np.float32)}
    return write(folder, TRANSITIONS, columns | {"click": click, "activeness": draw.random(ROWS)})


def run_files_of_every_model(folder: Path) -> dict[str, str]:
    """Writes data and run files into `folder`; returns the run file of each model."""
    own = dict.fromkeys(RATES, ratings(folder / "ratings")) | dict.fromkeys(
        READ_HISTORIES, histories(folder / "histories")
    )
    own |= dict.fromkeys(READ_TRANSITIONS, transitions(folder / "transitions"))
    shared = clicks(folder / "clicks")
    run_files = {}
    for name, model in MODELS.items():
        known = config_class(model).model_fields
        content = {
            "run": str(folder / "unused"),
            "data": {"path": str(own.get(name, shared)), "global_batch_size": BATCH, "prefetch": 1},
            "model": {"name": name} | {k: v for k, v in SMALL.items() if k in known} | SETTINGS.get(name, {}),
            # rows of some size, so that what one step does to them shows in the next step's loss
            "tables": {
                ("encoder/*" if name in RATES else "*"): {"init": {"kind": "normal", "scale": 0.5}},
                "*item": {"placement": "row_wise"},
            }
            | ({} if name in NO_USERS else {"*user": {"placement": "data_parallel"}}),
            "optimizer": {
                "tables": {"name": "sgd", "learning_rate": 0.3 if name in STEEP else 3.0},
                "tower": {"name": "sgd", "learning_rate": 0.1},
            },
            "trainer": {"matmul_precision": "highest", "tensorboard": False},
            "launch": {"threads": 1},
        }
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        run_files[name] = str(path)
    return run_files
