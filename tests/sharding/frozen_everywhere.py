"""What the tests of tables that are only read do in several processes: see `everywhere.py`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from shardrec.models.table_settings import Placement, TableOptimizer
from shardrec.sharding.checkpoints.frozen import read_frozen_tables
from shardrec.sharding.distribution.distribute import Distributed
from shardrec.sharding.distribution.frozen_rows import frozen_inputs
from tests.sharding.cases import Case, Rows, draw_rows, every_case, make, score

FROZEN_RANKS = (1, 2, 3, 4)


def frozen_batch() -> Rows:
    return draw_rows(every_case(), 17, torch.Generator().manual_seed(11))


def frozen_cases(optimizers: Sequence[TableOptimizer]) -> dict[str, Case]:
    """Every table cut into rows, and as it was trained; what is cut into columns or copied is placed otherwise.

    On four ranks, which are two hosts, rows are cut within a host.
    """
    rows: Placement = "table_row_wise" if dist.is_initialized() and dist.get_world_size() == 4 else "row_wise"
    trained = every_case().rotated(("data_parallel", "table_wise", "row_wise", "column_wise"), optimizers=optimizers)
    cases = {"rows": trained.changed(lambda t: replace(t, placement=rows)), "trained": trained}
    return {name: replace(case, inputs=frozen_inputs(case.inputs)) for name, case in cases.items()}


def score_frozen(
    folder: Path, entries: list[dict[str, Any]], optimizers: Sequence[TableOptimizer]
) -> dict[str, dict[str, Any]]:
    """Loss of a batch, whole tables as they are held, and placements, of a checkpoint read into frozen tables."""
    found = {}
    for name, case in frozen_cases(optimizers).items():
        distributed = make(case)
        read_frozen_tables(folder, entries, distributed.tables)
        found[name] = {
            "loss": score(case, distributed, frozen_batch()),
            "rows": _whole(distributed),
            "placements": {table: planned.placement for table, planned in distributed.plan.tables.items()},
            "bytes": distributed.plan.bytes_per_rank,
        }
    return found


def _whole(distributed: Distributed) -> dict[str, Tensor]:
    mine = {name: [(s.row, s.weight.clone()) for s in live.shards] for name, live in distributed.tables.items()}
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    held = {name: dict(shard for part in parts for shard in part[name]) for name in mine}
    return {name: torch.cat([rows for _, rows in sorted(shards.items())]) for name, shards in held.items()}
