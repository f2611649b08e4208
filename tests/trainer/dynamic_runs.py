"""A small run whose users and items are raw ids: a Wide&Deep, so that an id has its row in two tables."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load_file
from torch import Tensor

from shardrec.data_pipeline.features.feature_kinds import IdFeature, IdListFeature
from shardrec.data_pipeline.features.id_transforms import Hash, Identity, Raw
from tests.trainer.recorded import train, whole_tables
from tests.trainer.small_run import SCHEMA, write_data
from tests.trainer.stage_files import WIDE_DEEP, written

LAST = 4
"""Steps of the run, whose checkpoints are of steps 2 and 4."""

HASHED_ROWS = 256
TAGS = 55
"""Rows of `tags`, of which the data name 40."""

SETTINGS: dict[str, Any] = {
    "model": WIDE_DEEP,
    "tables": {
        "*/user": {"dynamic": {"rows": 600}},
        "*/item": {"dynamic": {"rows": 24, "after": 2, "evict": "lru"}},
        "*/tags": {"optimizer": {"name": "sgd", "learning_rate": 0.5}},
        "wide/item": {"optimizer": {"name": "ftrl"}},
        "deep/user": {"dtype": "fp16"},
    },
    "trainer": {"epochs": 1, "checkpoint": {"every_steps": 2, "keep": 9}},
}


def raw_users(users: np.ndarray) -> np.ndarray:
    """Numbers all over int64; the first ones are its ends, 0 and -1."""
    spread = (users.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)).view(np.int64)
    for user, extreme in enumerate((-(2**63), 2**63 - 1, 0, -1)):
        spread[users == user] = extreme
    return spread


def write_raw_data(folder: Path) -> Path:
    """The small data set with 64-bit users, hashed once more as `visitor`, and strings for items."""
    write_data(folder, rows=900)
    for path in folder.rglob("*.parquet"):
        rows = pq.read_table(path)
        rows = rows.set_column(0, "user", pa.array(raw_users(rows["user"].to_numpy())))
        names = pa.array([f"item {n}" for n in rows["item"].to_pylist()])
        pq.write_table(rows.set_column(1, "item", names), path, row_group_size=500)
    features = (
        IdFeature(name="user", ids=Raw()),
        IdFeature(name="item", ids=Raw()),
        IdFeature(name="visitor", column="user", ids=Hash(num_ids=HASHED_ROWS), missing="row"),
        IdListFeature(name="tags", ids=Identity(num_ids=TAGS), weights="tag_weights"),
        SCHEMA["price"],
    )
    SCHEMA.model_copy(update={"features": features, "keys": ()}).save(folder / "schema.yaml")
    return folder


def dynamic_run(folder: Path, name: str = "run", **changed: Any) -> Path:
    """A finished run on `folder/data` in `folder/name`."""
    path = written(folder, name, **SETTINGS | changed)
    train(path)
    return path.with_suffix("")


def ids_of(run: Path, space: str, step: int = LAST) -> dict[str, Tensor]:
    """An id map's columns, as safetensors reads them."""
    (path,) = (run / f"checkpoints/step-{step}/id_maps").glob(f"{space}.rows.*")
    return load_file(path)


def rows_by_id(run: Path, space: str, step: int = LAST) -> dict[int, int]:
    columns = ids_of(run, space, step)
    held = columns["count"].nonzero().squeeze(1)
    return dict(zip(columns["id"][held].tolist(), held.tolist(), strict=True))


def tables(run: Path, step: int = LAST) -> dict[str, dict[str, Tensor]]:
    return whole_tables(run / f"checkpoints/step-{step}")


def trained_on(run: Path, column: str) -> list[Any]:
    return pq.read_table(sorted((run.parent / "data/train").iterdir()), columns=[column])[column].to_pylist()
