"""A small run whose tables have vocabularies, and its checkpoints saved again under other plans."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from shardrec.data_pipeline.features.feature_kinds import IdFeature
from shardrec.data_pipeline.features.id_transforms import Identity, Vocabulary
from shardrec.models.table_settings import Placement, TableOptimizer
from shardrec.sharding.checkpoints.tables import read_tables, write_tables
from shardrec.sharding.planning.planner import plan_tables
from shardrec.sharding.planning.topology import Topology
from shardrec.sharding.tables.live import DTYPES, LiveTable, TableShard
from shardrec.sharding.updates.choose import row_update
from shardrec.trainer.checkpoints.manifest import TOWER_FILE, read_manifest, write_manifest
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.session.blueprint import build_model
from tests.trainer.recorded import train
from tests.trainer.small_run import SCHEMA, run_file, write_data

ITEMS = [f"i{n}" for n in np.random.default_rng(5).permutation(90)]
"""The vocabulary of `item`, in the order of the rows: rows 1 to 90; 0 is unknown, 91 missing."""

USERS = [10_000 + 7 * n for n in range(300)]
"""Raw ids by which `user` was prepared: rows 1 to 300."""

SETTINGS: dict[str, Any] = {
    "data": {"window": 256, "lanes": 4, "global_batch_size": 240},
    "tables": {
        "item": {"dtype": "fp16"},
        "kind": {"optimizer": {"name": "ftrl", "learning_rate": 0.1, "l1": 0.01}},
        "tags": {"optimizer": {"name": "adam", "learning_rate": 0.01}},
        "shelves": {"optimizer": {"name": "rowwise_adagrad", "learning_rate": 0.1}},
    },
    "trainer": {"epochs": 2, "tensorboard": False, "checkpoint": {"every_steps": 2, "keep": 9}},
}


def write_named_data(folder: Path) -> Path:
    """The small data set with strings for items, and users that a vocabulary made rows of."""
    write_data(folder, rows=900)
    for path in folder.rglob("*.parquet"):
        rows = pq.read_table(path)
        names = pa.array([None if n == 96 else f"i{n}" for n in rows["item"].to_pylist()])
        pq.write_table(rows.set_column(1, "item", names), path, row_group_size=500)
    (folder / "vocabularies").mkdir()
    for name, values in (("item", ITEMS), ("user", USERS)):
        pq.write_table(pa.table({"value": values}), folder / f"vocabularies/{name}.parquet")
    user = Identity(num_ids=301, prepared=Vocabulary(path="vocabularies/user.parquet", size=300))
    item = IdFeature(name="item", ids=Vocabulary(path="vocabularies/item.parquet", size=90), missing="row")
    features = (IdFeature(name="user", ids=user), item, *SCHEMA.features[2:])
    SCHEMA.model_copy(update={"features": features, "keys": ()}).save(folder / "schema.yaml")
    return folder


def trained_run(folder: Path, name: str = "run", **changed: Any) -> Path:
    """A finished run on `folder/data` in `folder/name`."""
    path = run_file(folder / f"{name}.yaml", folder / "data", **SETTINGS | changed)
    train(path)
    return path.with_suffix("")


def saved_again(run: Path, step: int, to: Path, world_size: int, placements: dict[str, Placement]) -> Path:
    """The checkpoint of a step as the ranks of another plan write it, in `to`."""
    folder = RunFolder.open(run)
    config, at = folder.config(), folder.checkpoint(step)
    content = read_manifest(at)
    inputs = {}
    for name, given in build_model(config, folder.schema()).inputs.items():
        tables = {f: replace(t, placement=placements.get(t.name)) for f, t in getattr(given, "tables", {}).items()}
        inputs[name] = replace(given, tables=tables) if tables else given
    plan = plan_tables(inputs, config.optimizer.tables, Topology(world_size, world_size, "cpu", 1 << 30))
    entries = []
    for rank in range(world_size):
        live = {}
        for name, planned in plan.tables.items():
            replicated = planned.placement == "data_parallel"
            shards = tuple(_shard(planned.table, s) for s in planned.shards if s.rank == rank)
            live[name] = LiveTable(planned.table, shards if rank == 0 or not replicated else (), replicated)
        read_tables(at, content["tables"], live)
        entries += write_tables(to, live)
    (to / TOWER_FILE).write_bytes((at / TOWER_FILE).read_bytes())
    generators = content["generators"][:1] * world_size
    changed = {"tables": entries, "world_size": world_size, "generators": generators}
    write_manifest(to / "manifest.json", content | changed)
    return to


def _shard(table: Any, shard: Any) -> TableShard:
    assert isinstance(table.optimizer, TableOptimizer)
    tensors = {"weight": torch.zeros(shard.rows, shard.columns, dtype=DTYPES[table.dtype])}
    shapes = row_update(table).state_shapes(shard.rows, shard.columns)
    return TableShard(shard.row, shard.column, tensors | {n: torch.zeros(s) for n, s in shapes.items()})
