"""How rows are updated: which optimizers a device has, and each one's rule.

FBGEMM fuses the update into its backward pass. Its CPU kernels ignore weight decay for SGD and AdaGrad and average it
differently for row-wise AdaGrad, so that tables with `weight_decay`, and data-parallel ones, are updated by
`RowUpdate`, the same rules in torch operations. Both keep rows that no id of the batch names exactly as they are.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import Tensor

from data_pipeline.errors import UserError
from models.inputs import EmbeddingTable
from sharding.tables import DTYPES, physical_dim

OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "cpu": ("sgd", "adagrad", "rowwise_adagrad"),
    "cuda": ("sgd", "adagrad", "rowwise_adagrad"),
}
TABLE_DTYPES: dict[str, tuple[str, ...]] = {"cpu": ("fp32", "fp16"), "cuda": ("fp32", "fp16")}
_FUSED = {
    "sgd": EmbOptimType.EXACT_SGD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
}


def check_table(table: EmbeddingTable, device: str) -> None:
    """Raises UserError for an optimizer or a dtype that the device's kernels do not have."""
    assert table.optimizer is not None
    if table.optimizer.name not in OPTIMIZERS[device]:
        raise UserError(
            f"table {table.name!r}: optimizer {table.optimizer.name!r} is not one that {device} has for tables; "
            f"choose one of {', '.join(OPTIMIZERS[device])}"
        )
    if table.dtype not in TABLE_DTYPES[device]:
        raise UserError(
            f"table {table.name!r}: dtype {table.dtype} is not one that {device} has kernels for; "
            f"choose one of {', '.join(TABLE_DTYPES[device])}"
        )


def state_shapes(optimizer: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the state that an optimizer keeps for [rows, columns] weights, fp32 each."""
    if optimizer == "adagrad":
        return {"accumulator": (rows, columns)}
    return {"accumulator": (rows,)} if optimizer == "rowwise_adagrad" else {}


@dataclass(frozen=True)
class RowUpdate:
    """One table's rule. With g the gradient of a row summed over the batch, plus `weight_decay` w:

    sgd              w -= lr g
    adagrad          n += g^2           w -= lr g / (sqrt(n) + eps)      (Duchi et al. 2011)
    rowwise_adagrad  n += mean(g^2)     w -= lr g / (sqrt(n) + eps)      (one n a row)

    The mean runs over the physical columns, as FBGEMM's does. With k = embedding_dim / physical_dim it is k times the
    mean over the logical ones, so that lr and eps are multiplied by sqrt(k), which makes the update the logical one.
    """

    name: str
    learning_rate: float
    eps: float
    weight_decay: float

    @classmethod
    def of(cls, table: EmbeddingTable) -> "RowUpdate":
        """The rule of a table whose optimizer is resolved."""
        o = table.optimizer
        assert o is not None
        k = table.embedding_dim / physical_dim(table.embedding_dim) if o.name == "rowwise_adagrad" else 1.0
        return cls(o.name, o.learning_rate * math.sqrt(k), o.eps * math.sqrt(k), o.weight_decay)

    @property
    def fused(self) -> bool:
        """Whether FBGEMM's kernels do exactly this."""
        return self.weight_decay == 0

    def fbgemm(self) -> dict[str, Any]:
        """FBGEMM's parameters for this rule."""
        return {"optimizer": _FUSED[self.name], "learning_rate": self.learning_rate, "eps": self.eps}

    def state(self, weight: Tensor) -> dict[str, Tensor]:
        """Fresh state for `weight` [rows, columns]."""
        shapes = state_shapes(self.name, weight.shape[0], weight.shape[1])
        return {name: torch.zeros(shape, device=weight.device) for name, shape in shapes.items()}

    @torch.no_grad()
    def apply(
        self, weight: Tensor, state: Mapping[str, Tensor], rows: Tensor, gradient: Tensor, factor: float = 1.0
    ) -> None:
        """Updates distinct `rows` [n] of `weight` by `gradient` [n, columns] fp32; `factor` scales the learning rate.

        Weights of less precision are computed in fp32 and rounded to nearest.
        """
        row = weight.index_select(0, rows).float()
        if self.weight_decay:
            gradient = gradient + self.weight_decay * row
        step = gradient
        if self.name != "sgd":
            square = gradient.square()
            total = state["accumulator"].index_select(0, rows)
            total += square if self.name == "adagrad" else square.mean(1)
            state["accumulator"].index_copy_(0, rows, total)
            denominator = total.sqrt_().add_(self.eps)
            step = gradient / (denominator if self.name == "adagrad" else denominator.unsqueeze(1))
        weight.index_copy_(0, rows, row.sub_(step, alpha=self.learning_rate * factor).to(weight.dtype))


def torch_dtype(table: EmbeddingTable) -> torch.dtype:
    return DTYPES[table.dtype]
