"""A small data set and run file that trainer tests share."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from shardrec.data_pipeline.features.feature_kinds import DenseFeature, IdFeature, IdListFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Label, Schema

SCHEMA = Schema(
    features=(
        IdFeature(name="user", ids=Identity(num_ids=301)),
        IdFeature(name="item", ids=Identity(num_ids=97)),
        IdFeature(name="kind", ids=Identity(num_ids=3)),
        IdListFeature(name="tags", ids=Identity(num_ids=40), weights="tag_weights"),
        IdListFeature(name="shelves", ids=Identity(num_ids=11)),
        DenseFeature(name="price"),
    ),
    labels=(Label(),),
    weight="weight",
    keys=("user", "item"),
)


def table(rows: int, seed: int) -> pa.Table:
    """Clicks that depend on whether an item is of the kind asked for, and on the price."""
    draw = np.random.default_rng(seed)
    user, item, kind = draw.integers(0, 301, rows), draw.integers(0, 97, rows), draw.integers(0, 3, rows)
    price = draw.normal(size=rows).astype(np.float32)
    logit = 3.0 * (kind == item % 3) - 1.5 + 0.8 * price
    label = (draw.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    tags, tag_weights, shelves = lists(draw, rows)
    return pa.table(
        {
            "user": user,
            "item": item,
            "kind": kind,
            "tags": tags,
            "tag_weights": tag_weights,
            "shelves": shelves,
            "price": price,
            "label": label,
            "weight": draw.choice(np.float32([0.5, 1, 2]), rows),
        }
    )


def lists(draw: np.random.Generator, rows: int) -> list[pa.ListArray]:
    """Up to 3 tags a row with weights beside them, and up to 2 shelves."""
    tags, shelves = draw.integers(0, 4, rows), draw.integers(0, 3, rows)
    values = (
        (tags, draw.integers(0, 40, tags.sum())),
        (tags, draw.random(tags.sum(), dtype=np.float32)),
        (shelves, draw.integers(0, 11, shelves.sum())),
    )
    starts = [np.concatenate([[0], lengths.cumsum()]).astype(np.int32) for lengths, _ in values]
    return [pa.ListArray.from_arrays(s, pa.array(v)) for s, (_, v) in zip(starts, values, strict=True)]


def write_data(folder: Path, rows: int = 3000) -> Path:
    """`folder` with schema.yaml, two train files in several row groups, a validation and a test file."""
    for split, parts, count in (("train", 2, rows), ("validation", 1, rows // 4), ("test", 1, rows // 4)):
        (folder / split).mkdir(parents=True)
        for part in range(parts):
            made = table(count // parts + part, seed=hash_of(split) + part)
            pq.write_table(made, folder / split / f"{part}.parquet", row_group_size=500)
    SCHEMA.save(folder / "schema.yaml")
    return folder


def hash_of(split: str) -> int:
    return {"train": 0, "validation": 100, "test": 200}[split]


def run_file(path: Path, data_folder: Path, **sections: Any) -> Path:
    """A run file of a small DeepFM; `sections` are merged into it."""
    content: dict[str, Any] = {
        "run": str(path.with_suffix("")),
        "data": {"path": str(data_folder), "global_batch_size": 240, "window": 256, "lanes": 4},
        "model": {"name": "deepfm", "embedding_dim": 4, "mlp": {"hidden": [16, 8], "dropout": 0.1}},
        "optimizer": {
            "tables": {"name": "adagrad", "learning_rate": 0.1, "eps": 1e-3},
            "tower": {"name": "adam", "learning_rate": 0.01},
        },
        "trainer": {"epochs": 2, "log_every_steps": 1, "tensorboard": False},
        "launch": {"threads": 1},
    }
    for name, section in sections.items():
        content[name] = content.get(name, {}) | section if isinstance(section, dict) else section
    path.write_text(yaml.safe_dump(content))
    return path


def write_names_of_layers(folder: Path) -> None:
    """Files of a user's own that are called as our layers are, and must not be imported in their place."""
    for name in ("trainer.py", "sharding.py"):
        (folder / name).write_text("raise ImportError('this is not shardrec')\n")
    for name in ("models", "data_pipeline"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").touch()
