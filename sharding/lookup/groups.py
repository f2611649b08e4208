"""A lookup's tables are grouped by the TorchRec collection that holds them.

- Tables that are only pooled live in one EmbeddingBagCollection; those that features with weights read, in another,
  where ids without weights count 1 (a KeyedJaggedTensor carries weights for all its keys or for none).
- A table that any input reads as a sequence lives in an EmbeddingCollection only, one per dim; pooled inputs on it
  are segment sums afterwards. FBGEMM cannot share a table between the two kinds.
"""

from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from shardrec.data_pipeline.errors import UserError
from shardrec.models.inputs import DenseFeatures, Input, SequenceEmbeddings
from shardrec.models.table_reads import declared_tables
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.lookup.detached import stand_ins
from shardrec.sharding.tables.live import physical_dim
from shardrec.sharding.tables.module_names import feature_key, module_name

Kind = Literal["bags", "weighted_bags", "sequences"]
_DATA_TYPES = {"fp32": DataType.FP32, "fp16": DataType.FP16, "int8": DataType.FP32}  # of vectors


@dataclass(frozen=True)
class Group:
    """A group is the tables that one collection holds, and the features that read each."""

    kind: Kind
    features: Mapping[EmbeddingTable, tuple[str, ...]]

    @property
    def tables(self) -> tuple[EmbeddingTable, ...]:
        """Returns the tables, in the collection's order."""
        return tuple(self.features)

    def key(self, feature: str, table: EmbeddingTable) -> str:
        """Returns TorchRec's key of a feature's vectors: with the table's name where several tables are read by it."""
        key = feature_key(feature)
        return f"{key}@{module_name(table.name)}" if self._readers[feature] > 1 else key

    @cached_property
    def _readers(self) -> Counter[str]:
        """Counts the tables that each feature reads."""
        return Counter(feature for features in self.features.values() for feature in features)

    def only(self, names: set[str]) -> "Group":
        """Returns the group with some of its tables."""
        return Group(self.kind, {t: f for t, f in self.features.items() if t.name in names})

    def collection(self, device: torch.device) -> EmbeddingBagCollection | EmbeddingCollection:
        """Returns TorchRec's unsharded module for the group."""
        common = [
            dict(
                name=module_name(table.name),
                num_embeddings=table.num_embeddings,
                embedding_dim=physical_dim(table),
                feature_names=[feature_key(feature) for feature in features],
                data_type=_DATA_TYPES[table.dtype],
                init_fn=_leave,
            )
            for table, features in self.features.items()
        ]
        with _Undrawn() if device.type == "meta" else nullcontext():
            if self.kind == "sequences":
                return EmbeddingCollection(tables=[EmbeddingConfig(**c) for c in common], device=device)
            bags = [EmbeddingBagConfig(pooling=PoolingType.SUM, **c) for c in common]
            return EmbeddingBagCollection(tables=bags, is_weighted=self.kind == "weighted_bags", device=device)


class _Undrawn(TorchFunctionMode):
    """Tensors are not drawn while this lasts: on the meta device that means nothing and takes 0.3 ms a table."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if func is nn.init.normal_ and not args else func(*args, **kwargs)


def _leave(weight: Tensor) -> None:
    """Does nothing: rows are filled by `first_values.py`."""


def group_tables(inputs: Mapping[str, Input], weighted: frozenset[str]) -> list[Group]:
    """Returns the collections that the inputs' tables live in. Raises UserError for sequences of unequal dims.

    Detached features that stand under another's key are not among them.
    """
    declared_tables(inputs)
    keys = stand_ins(inputs, weighted)
    features: dict[EmbeddingTable, dict[str, None]] = {}
    sequential: set[EmbeddingTable] = set()
    for name, declared in inputs.items():
        if isinstance(declared, DenseFeatures):
            continue
        for feature, table in declared.tables.items():
            features.setdefault(table, {})
            if keys.get(feature, feature) == feature or not getattr(declared, "detached", False):
                features[table][feature] = None
        if isinstance(declared, SequenceEmbeddings):
            sequential |= set(declared.tables.values())
            if len({t.embedding_dim for t in declared.tables.values()}) > 1:
                dims = ", ".join(f"{t.name} {t.embedding_dim}" for t in declared.tables.values())
                raise UserError(f"input {name!r} stacks sequences of unequal embedding_dim ({dims}); make them equal")
    grouped: dict[tuple[Kind, int], dict[EmbeddingTable, tuple[str, ...]]] = {}
    for table, read_by in features.items():
        kind: Kind = "bags" if weighted.isdisjoint(read_by) else "weighted_bags"
        where: tuple[Kind, int] = (kind, 0)
        if table in sequential:
            where = ("sequences", physical_dim(table))
        grouped.setdefault(where, {})[table] = tuple(read_by)
    return [Group(kind, tables) for (kind, _), tables in sorted(grouped.items(), key=lambda item: item[0])]
