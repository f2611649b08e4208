"""`shardrec tables` says how well the tables of a checkpoint are used, read front to back in constant memory.

Collisions of hashed ids are estimated, as nobody counts distinct values. n distinct ids that a hash deals to m rows
leave a row unnamed with probability (1 - 1/m)^n, nearly e^(-n/m), so that from the share u of rows that training has
updated

    n = -m ln(1 - u),

with a standard deviation of sqrt(m (e^t - t - 1)), t = n/m: linear counting (Whang, Vander-Zanden and Taylor, "A
Linear-Time Probabilistic Counting Algorithm for Database Applications", TODS 15 (2), 1990). An id has its row for
itself if the n - 1 others miss it; the share of ids that do not is 1 - (1 - 1/m)^(n - 1), nearly u. Where all rows were
updated, n is only known to be large: the table is saturated.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shardrec.data_pipeline.features.feature_kinds import FeatureCross, SparseFeature
from shardrec.data_pipeline.features.id_transforms import Cross, Hash
from shardrec.data_pipeline.features.same_rows import made_by
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.inputs import EmbeddingTable
from shardrec.sharding.checkpoints.id_maps import SavedIdMap
from shardrec.sharding.checkpoints.saved_tables import SavedTable
from shardrec.sharding.tables.first_values import block_rows, draw_block
from shardrec.trainer.checkpoints.id_map_facts import id_map_facts
from shardrec.trainer.checkpoints.saved_model import DeclaredTable, SavedModel
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.tables.row_norms import RowNorms

MOVED_BY_ANY_GRADIENT = ("steps", "accumulator", "n", "mean_square", "momentum")
"""These kinds of optimizer state are 0 in rows that were never updated, and in no others; the smallest first."""


def table_report(
    run_folder: Path,
    step: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
    only: Callable[[str], bool] = lambda name: True,
) -> dict[str, Any]:
    """Returns what `shardrec tables --json` prints of a checkpoint (`step` of None: the newest): `tables`, `id_maps`.

    progress: is told which one is read. only: says of a table's name, and of `id map NAME`, whether to read it.
    Raises UserError where there is no such checkpoint, or it is damaged.
    """
    folder = RunFolder.open(run_folder)
    saved, config, schema = SavedModel.of(folder, step, newest=True), folder.config(), folder.schema()
    declared = DeclaredTable.all(folder, saved.tables)
    id_maps = {}
    for name, id_map in saved.id_maps.items():
        if not only(f"id map {name}"):
            continue
        progress(f"reading the id map of {name}")
        sharing = [table.name for table in saved.tables.values() if table.dynamic == name]
        id_maps[name] = {"tables": sharing, **id_map_facts(id_map, saved.content["position"]["step"])}
    tables = {}
    for name, table in saved.tables.items():
        if not only(name):
            continue
        progress(f"reading table {name}")
        tables[name] = _table_facts(table, declared[name], schema, saved.id_map(table), config)
    return {"checkpoint": str(saved.path), "step": saved.step, "tables": tables, "id_maps": id_maps}


def collisions(rows: int, updated: int) -> dict[str, float | None]:
    """Estimates the ids that were hashed to `rows` rows, of which `updated` were updated, by this module's formulas.

    distinct_ids, deviation: how many ids there are, None where all rows were updated. shared: the share of them that
    has its row with another.
    """
    if updated == rows:
        return {"distinct_ids": None, "deviation": None, "shared": 1.0}
    load = -math.log1p(-updated / rows)
    ids = rows * load
    alone = math.exp((ids - 1) * math.log1p(-1 / rows)) if ids > 1 else 1.0
    deviation = math.sqrt(rows * (math.expm1(load) - load))
    return {"distinct_ids": ids, "deviation": deviation, "shared": 1 - alone}


def hashed_rows(features: list[SparseFeature]) -> int | None:
    """Returns how many rows the hash functions of a table's features deal ids to; None where a feature has none."""
    row_counts = set()
    for feature in features:
        ids = made_by(feature)
        if not isinstance(ids, Hash | Cross | FeatureCross):
            return None
        row_counts.add(ids.num_rows)
    return max(row_counts)


# ---------------------------------------------------------------- tables


def _table_facts(
    table: SavedTable, declared: DeclaredTable, schema: Schema, id_map: SavedIdMap | None, config: RunConfig
) -> dict[str, Any]:
    """Returns what is reported of a table; `updated` rows are those that training has changed, `dead` ones the others.

    judged_by: what tells them apart, or why nothing does: both are None then. Rows of a dynamic table are updated if an
    id has them, dead if they are free; the default row is neither. norms: of the updated rows, or of all.
    """
    features = [schema[feature] for feature in declared.features]
    step = block_rows(table.embedding_dim)
    judged_by, is_updated = _judge(table, declared.table, id_map, config, step)
    row_count = id_map.rows.num_embeddings if id_map else table.num_embeddings
    hashed = None if id_map or is_updated is None else hashed_rows(features)
    updated = updated_hashed = 0
    norms = RowNorms()
    for start, weight in table.blocks("weight", step, last=row_count):
        if is_updated is None:
            norms.add(weight)
            continue
        chosen = is_updated(weight)
        updated += int(chosen.sum())
        updated_hashed += int(chosen[: max(0, (hashed or 0) - start)].sum())
        norms.add(weight[chosen])
    return {
        "rows": table.num_embeddings,
        "dim": table.embedding_dim,
        "ids": " and ".join(sorted({made_by(feature).kind for feature in features})),
        "dynamic": table.dynamic,
        "updated": None if is_updated is None else updated,
        "dead": None if is_updated is None else row_count - updated,
        "judged_by": judged_by,
        "collisions": collisions(hashed, updated_hashed) if hashed else None,
        "norms": norms.facts(),
    }


def _judge(
    table: SavedTable, declared: EmbeddingTable, id_map: SavedIdMap | None, config: RunConfig, step: int
) -> tuple[str, Callable[[Tensor], Tensor] | None]:
    """Says how updated rows are known, and returns what tells them [n] of each block of `step` weights [n, columns]."""
    optimizer = declared.optimizer
    assert optimizer is not None
    if id_map is not None:
        counts = id_map.rows.blocks("count", step)
        return "its id map", lambda _: next(counts)[1] > 0
    if optimizer.decay == "table" and optimizer.weight_decay:
        return "its optimizer decays all rows in every step", None
    if kept := [name for name in MOVED_BY_ANY_GRADIENT if name in table.tensors]:
        state = table.blocks(kept[0], step)
        return f"the optimizer's {kept[0]}", lambda weight: next(state)[1].reshape(len(weight), -1).any(1)
    if config.init_from:
        return "its first values were another run's", None
    fresh = _first_values(declared, config.trainer.seed)
    return "their first values", lambda weight: (weight != next(fresh)[: len(weight)].to(weight.dtype)).any(1)


def _first_values(table: EmbeddingTable, seed: int) -> Iterator[Tensor]:
    """Yields blocks of `block_rows` rows with the values that fixed tables start with."""
    for block in itertools.count():
        yield torch.from_numpy(draw_block(table, seed, block))
