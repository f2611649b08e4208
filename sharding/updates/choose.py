"""A table's settings choose its `RowUpdate`, and whether FBGEMM's kernels have it fused.

FBGEMM fuses SGD, AdaGrad and row-wise AdaGrad into its backward pass. Its CPU kernels ignore weight decay for SGD and
AdaGrad and average it differently for row-wise AdaGrad; tables with `weight_decay`, those of any other optimizer,
data-parallel ones, and on CPU fp16 ones that are rounded stochastically, are updated by our own kernel
(`row_tables.py`), on every device alike.
"""

import math
from collections.abc import Iterable
from typing import Any

from fbgemm_gpu.split_embedding_configs import EmbOptimType

from shardrec.data_pipeline.errors import UserError
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.tables.live import LiveTable, physical_dim, starts_at_zero
from shardrec.sharding.updates.ftrl import Ftrl
from shardrec.sharding.updates.rules import AdaGrad, Adam, RmsProp, RowUpdate, RowwiseAdaGrad, Sgd

_FUSED = {
    "sgd": EmbOptimType.EXACT_SGD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
}


def check_table(table: EmbeddingTable) -> None:
    """Raises UserError for a table that the optimizer that it gets cannot train."""
    if table.frozen:
        return
    if table.dtype == "int8":
        raise UserError(
            f"table {table.name!r}: int8 rows cannot be trained; train with dtype fp32 or fp16, and score with "
            "`shardrec evaluate --rows int8` or `shardrec predict --rows int8`"
        )
    if table.dtype != "fp32" and table.optimizer is not None and table.optimizer.name == "ftrl":
        raise UserError(
            f"table {table.name!r}: ftrl computes each weight anew from the last one, which rounding to {table.dtype} "
            "would hold in place; choose dtype fp32, or another optimizer"
        )
    if table.dynamic and table.optimizer is not None and table.optimizer.decay == "frequency":
        raise UserError(
            f"table {table.name!r}: decay: frequency counts the rows of the training data before the first step, but a "
            "dynamic table's rows are given to ids as they come; choose decay: batch"
        )


def row_update(table: EmbeddingTable) -> RowUpdate:
    """Returns the rule of a table, whose optimizer is given.

    Row-wise AdaGrad's mean runs over the physical columns. With k = embedding_dim / physical_dim it is k times the
    mean over the logical ones, so that lr and eps are multiplied by sqrt(k), which makes the update the logical one.
    """
    o = table.optimizer
    assert o is not None
    common: dict[str, Any] = {
        "learning_rate": o.learning_rate,
        "weight_decay": o.weight_decay,
        "every_row": o.decay == "table",
        "by_frequency": o.decay == "frequency",
    }
    match o.name:
        case "sgd":
            return Sgd(**common, momentum=o.momentum)
        case "adagrad":
            return AdaGrad(**common, eps=o.eps)
        case "rowwise_adagrad":
            k = math.sqrt(table.embedding_dim / physical_dim(table))
            return RowwiseAdaGrad(**common | {"learning_rate": o.learning_rate * k}, eps=o.eps * k)
        case "rmsprop":
            return RmsProp(**common, eps=o.eps, smoothing=o.smoothing)
        case "adam":
            return Adam(**common, eps=o.eps, betas=o.betas)
        case "ftrl":
            return Ftrl(**common, beta=o.beta, l1=o.l1, l2=o.l2)


def fbgemm_parameters(table: EmbeddingTable) -> dict[str, Any]:
    """Returns FBGEMM's parameters for the rule of a table that is fused."""
    assert table.optimizer is not None
    update = row_update(table)
    eps = {"eps": update.eps} if isinstance(update, AdaGrad | RowwiseAdaGrad) else {}
    return {"optimizer": _FUSED[table.optimizer.name], "learning_rate": update.learning_rate, **eps}


def start_tables(tables: Iterable[LiveTable]) -> None:
    """Sets the optimizer state that goes with drawn weights in this rank's shards, where that is not 0, in place."""
    for table in tables:
        if row_update(table.table).holds_weights and not starts_at_zero(table.table):
            warm_start_tables([table])


def warm_start_tables(tables: Iterable[LiveTable]) -> None:
    """Sets the optimizer state that goes with weights copied into this rank's shards, in place.

    All state is that of a first step; FTRL's z is such that a gradient of 0 leaves the weights.
    """
    for table in tables:
        update = row_update(table.table)
        for shard in table.shards:
            state = {name: tensor for name, tensor in shard.tensors.items() if name != "weight"}
            update.warm_start(shard.weight, state)
