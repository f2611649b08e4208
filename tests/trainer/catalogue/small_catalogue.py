"""A small shop: users and items in three genres, with held-out pairs, and items that training lacks."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from shardrec.data_pipeline.features.feature_kinds import DenseFeature, IdFeature, SequenceFeature
from shardrec.data_pipeline.features.id_transforms import Hash, Identity
from shardrec.data_pipeline.features.schema import Schema

USERS, ITEMS, NEW, GENRES = 40, 30, 6, 3

SCHEMA = Schema(
    features=(
        IdFeature(name="user", ids=Identity(num_ids=USERS), role="user"),
        IdFeature(name="item", ids=Hash(num_ids=64), role="item"),
        IdFeature(name="genre", ids=Identity(num_ids=GENRES), role="item"),
        DenseFeature(name="price", role="item"),
        SequenceFeature(name="history", ids=Hash(num_ids=64), table="item", role="user", max_length=5),
    ),
    group="user",
    keys=("user", "item"),
)


def genre(item: np.ndarray) -> np.ndarray:
    return item % GENRES


def name(item: np.ndarray) -> pa.Array:
    return pa.array([f"i{i:02d}" for i in item])


def rows(user: np.ndarray, item: np.ndarray, label: float = 1.0) -> pa.Table:
    history = [[f"i{(u * 7 + k) % ITEMS:02d}" for k in range(u % 4)] for u in user]
    return pa.table(
        {
            "user": user,
            "item": name(item),
            "genre": genre(item),
            "price": (item / ITEMS).astype(np.float32),
            "history": pa.array(history, pa.list_(pa.string())),
            "label": np.full(len(user), label, np.float32),
        }
    )


def pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(user, item) of each split: a user likes one genre; test has items that training lacks."""
    draw = np.random.default_rng(5)
    every = [(u, i) for u in range(USERS) for i in range(ITEMS + NEW) if i % GENRES == u % GENRES]
    draw.shuffle(every)
    user, item = np.array(every).T
    old = item < ITEMS
    split = draw.choice(3, len(user), p=[0.6, 0.15, 0.25])
    split[~old & (split < 2)] = 3  # nobody's yet
    return {s: (user[split == n], item[split == n]) for n, s in enumerate(("train", "validation", "test"))}


def odd_rows(split: str) -> list[pa.Table]:
    """Rows that are no pairs, pairs that training has already, and one twice of an item that no file lists."""
    user, item = (side[:3] for side in pairs()["train"])
    if split == "train":
        return [rows(np.array([USERS - 1, 3]), np.array([0, 1]), label=0.0)]
    if split == "test":
        nowhere = rows(user, np.full(3, 90))
        return [rows(user, item), nowhere, nowhere, rows(np.array([7]), np.array([2]), label=0.0)]
    return []


def write_shop(folder: Path) -> Path:
    for split, (user, item) in pairs().items():
        (folder / split).mkdir(parents=True)
        table = pa.concat_tables([*odd_rows(split), rows(user, item)])
        pq.write_table(table, folder / split / "0.parquet", row_group_size=50)
    items = np.arange(20, ITEMS + NEW)
    pq.write_table(rows(items, items).select(["item", "genre", "price"]), folder / "items.parquet")
    SCHEMA.save(folder / "schema.yaml")
    return folder


def run_file(path: Path, shop: Path, **sections: Any) -> Path:
    declared: dict[str, Any] = {
        "run": str(path.parent / "run"),
        "data": {"path": str(shop), "global_batch_size": 64, "catalogue": str(shop / "items.parquet")},
        "model": {"name": "two_tower", "embedding_dim": 4, "vector_dim": 6, "mlp": {"hidden": [8]}},
        "optimizer": {"tables": {"name": "adagrad", "learning_rate": 0.1}},
        "trainer": {"epochs": 2, "tensorboard": False},
        "launch": {"threads": 1, "device": "cpu"},
    }
    for section, settings in sections.items():
        declared[section] = {**declared.get(section, {}), **settings} if isinstance(settings, dict) else settings
    path.write_text(yaml.safe_dump(declared))
    return path
