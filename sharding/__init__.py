"""Where table rows live: plan, lookup, update, checkpoint. Knows no particular model.

- `Topology` (topology.py) and `plan_tables` (planner.py) -> `Plan` (plan.py), whose `report()` is for people
- `EmbeddingLookup` (lookup.py): batch -> a tower's inputs; unsharded it is the reference
- `distribute` (distribute.py) applies a plan to a step and gives a `Distributed`
- `write_tables`, `read_tables` (checkpoint.py): tables to and from files, under any plan
- `copy_tables` (warm_start.py): columns of another run's tables, scaled, into tables of this one
- `ProcessGroupCollective` (collective.py): what metrics need from other ranks

Inside: `torchrec_hooks.py` (all that leans on TorchRec's private parts), `row_updates.py` and `replicas.py` (our own
kernel and data-parallel tables), `optimizers.py`, `row_rules.py` and `ftrl.py` (which optimizer a table gets, and their
rules), `rounding.py` and `draws.py` (fp16 rows), `frequency.py` (the counts of mini-batch-aware L2), `initialize.py`,
`assemble.py`, `columns.py`, `tables.py`; `placements.py`, `spread.py` and `fit.py` (what the planner chooses from, how,
and whether it fits), `cost.py` and `advice.py` (what a step is estimated to take, and what would change it),
`benchmark.py` (what it takes) and `checkpoint_benchmark.py` (what checkpoints take); `saved_tables.py` and
`replaced_rows.py` (a checkpoint's tables read, and copied with other rows, without live ones).
"""

from shardrec.sharding.checkpoints.copy_columns import SourceColumns, copy_tables
from shardrec.sharding.checkpoints.tables import read_tables, write_tables
from shardrec.sharding.distribution.distribute import Distributed, distribute
from shardrec.sharding.lookup.lookup import EmbeddingLookup
from shardrec.sharding.planning.plan import Plan, TablePlan
from shardrec.sharding.planning.planner import PlanError, plan_tables
from shardrec.sharding.planning.topology import Topology
from shardrec.sharding.tables.collective import ProcessGroupCollective
from shardrec.sharding.tables.live import LiveTable, TableShard

__all__ = [
    "Distributed",
    "EmbeddingLookup",
    "LiveTable",
    "Plan",
    "PlanError",
    "ProcessGroupCollective",
    "SourceColumns",
    "TablePlan",
    "TableShard",
    "Topology",
    "copy_tables",
    "distribute",
    "plan_tables",
    "read_tables",
    "write_tables",
]
