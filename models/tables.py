"""A table holds rows of embeddings; a model declares it, and where its rows lie is decided elsewhere."""

from dataclasses import dataclass, field

from shardrec.models.dynamic_ids import DynamicIds
from shardrec.models.table_settings import Dtype, Memory, Placement, Pooling, Rounding, TableInit, TableOptimizer


@dataclass(frozen=True, kw_only=True)
class EmbeddingTable:
    """A table of [num_embeddings, embedding_dim] weights; two inputs share it by using equal objects of one name.

    embedding_dim: all columns, the zero ones included.
    zero_columns: so many leading columns start at 0 (an FM's first-order weight beside its factors).
    dynamic: rows are given to ids as they come; None: an id is the number of its row.
    memory: of a GPU's rows; cache_share: of them those that `cached` ones have device memory for.
    frozen: rows are only read, so that there is no optimizer state; only such a table's dtype may be int8.
    optimizer: None takes the run's default. placement: None lets the planner choose. rounding: of fp16 rows.
    """

    name: str
    num_embeddings: int
    embedding_dim: int
    dtype: Dtype = "fp32"
    rounding: Rounding = "stochastic"
    init: TableInit = field(default_factory=TableInit)
    zero_columns: int = 0
    optimizer: TableOptimizer | None = None
    pooling: Pooling = "sum"
    placement: Placement | None = None
    memory: Memory = "device"
    cache_share: float = 0.2
    dynamic: DynamicIds | None = None
    frozen: bool = False
