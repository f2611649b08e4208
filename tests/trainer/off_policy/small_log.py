"""A small log: items with an age and a fit to the user, shown at two positions among candidates of the row's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shardrec.data_pipeline.features.feature_kinds import DenseFeature, DenseSequenceFeature, IdFeature, SequenceFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Label, Schema

ITEMS, USERS = 8, 20
_LISTED: dict[str, Any] = {"place": "candidate", "max_length": ITEMS, "aligned": "candidates"}
SCHEMA = Schema(
    features=(
        IdFeature(name="user", role="user", ids=Identity(num_ids=USERS)),
        IdFeature(name="position", role="context", ids=Identity(num_ids=2)),
        IdFeature(name="item", role="item", ids=Identity(num_ids=ITEMS)),
        DenseFeature(name="age", role="item"),
        DenseFeature(name="fit", role="user_item"),
        SequenceFeature(name="candidates", of="item", table="item", ids=Identity(num_ids=ITEMS), **_LISTED),
        DenseSequenceFeature(name="candidates_fit", of="fit", **_LISTED),
    ),
    labels=(Label(name="click"), Label(name="minutes")),
    propensity="propensity",
    time="time",
)
WITHOUT_CANDIDATES = SCHEMA.model_copy(update={"features": tuple(f for f in SCHEMA.features if f.place == "now")})


def rows(count: int, seed: int = 0, *, uniform: bool = False) -> list[dict[str, Any]]:
    """Rows whose items were drawn with probabilities that the log has; clicks by the fit of item and user."""
    draw = np.random.default_rng(seed)
    made: list[dict[str, Any]] = []
    for i in range(count):
        user, position = int(draw.integers(USERS)), int(draw.integers(2))
        some = list(range(ITEMS)) if uniform else sorted(draw.choice(ITEMS, draw.integers(2, ITEMS), replace=False))
        fit = [float(np.float32(np.cos(user * 1.3 + item))) for item in some]
        chances = np.full(len(some), 1 / len(some)) if uniform else draw.dirichlet(np.full(len(some), 3.0))
        at = int(draw.choice(len(some), p=chances))
        click = float(draw.random() < 0.5 + 0.4 * fit[at])
        made.append(
            {
                "user": user,
                "position": position,
                "item": int(some[at]),
                "age": some[at] / 4,
                "fit": fit[at],
                "candidates": [int(item) for item in some],
                "candidates_fit": fit,
                "click": click,
                "minutes": 3.0 * click,
                "propensity": float(chances[at]),
                "time": 1000 + i,
            }
        )
    return made


def write(folder: Path, made: list[dict[str, Any]], schema: Schema = SCHEMA) -> Path:
    """Writes `folder/schema.yaml` and `folder/log/0.parquet`, in two row groups; returns the folder `log`."""
    (folder / "log").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(made), folder / "log" / "0.parquet", row_group_size=max(1, len(made) // 2))
    schema.save(folder / "schema.yaml")
    return folder / "log"
