"""The plainest lookup there is, in any dtype: what a tower's inputs should be for a batch, on one process."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.features.feature_kinds import IdListFeature
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.base import Recommender
from shardrec.models.inputs import DenseFeatures, Jagged, PooledEmbeddings
from shardrec.models.tables import EmbeddingTable


def fresh_rows(table: EmbeddingTable, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    rows = torch.empty(table.num_embeddings, table.embedding_dim, dtype=dtype)
    if table.init.kind == "normal":
        rows.normal_(0, table.init.scale, generator=generator)
    else:
        rows.uniform_(-table.init.scale, table.init.scale, generator=generator)
    rows[:, : table.zero_columns] = 0
    return rows


class ReferenceLookup(nn.Module):
    """Batch -> the tower's inputs by name; one parameter per table, called as the table with `/` as `|`.

    dense_names: the columns of `batch.dense`; None: every dense input reads all of them.
    """

    def __init__(
        self,
        model: Recommender,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        dense_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.inputs = model.inputs
        self.dense_names = dense_names
        generator = torch.Generator().manual_seed(seed)
        self.rows = nn.ParameterDict(
            {t.name.replace("/", "|"): nn.Parameter(fresh_rows(t, generator, dtype)) for t in model.tables.values()}
        )

    def table(self, name: str) -> Tensor:
        return self.rows[name.replace("/", "|")]

    def forward(self, batch: Batch) -> dict[str, Any]:
        inputs = {name: self._input(given, batch) for name, given in self.inputs.items()}
        return {n: _detached(v) if getattr(self.inputs[n], "detached", False) else v for n, v in inputs.items()}

    def _input(self, given: Any, batch: Batch) -> Any:
        if isinstance(given, DenseFeatures):
            dense = batch.dense.to(next(iter(self.rows.values())).dtype)
            return dense if self.dense_names is None else dense[:, [self.dense_names.index(n) for n in given.features]]
        if isinstance(given, PooledEmbeddings):
            pooled = [self._pool(table, ids_of(batch, feature)) for feature, table in given.tables.items()]
            return torch.cat(pooled, 1) if given.concat else torch.stack(pooled, 1)
        sequences = [ids_of(batch, feature) for feature in given.tables]
        rows = [self.table(t.name)[s.values()] for t, s in zip(given.tables.values(), sequences, strict=True)]
        numbers = [batch.dense_sequences[name].to(rows[0].dtype) for name in given.dense]
        return Jagged(
            torch.stack(rows, 1),
            sequences[0].lengths(),
            sequences[0].offsets(),
            sequences[0].weights_or_none(),
            torch.stack(numbers, 1) if numbers else None,
        )

    def _pool(self, table: EmbeddingTable, ids: JaggedTensor) -> Tensor:
        rows = self.table(table.name)
        weights = ids.weights_or_none()
        return F.embedding_bag(
            ids.values(),
            rows,
            ids.offsets()[:-1],
            mode=table.pooling,
            per_sample_weights=None if weights is None else weights.to(rows.dtype),
        )


def _detached(value: Tensor | Jagged) -> Tensor | Jagged:
    return value._replace(values=value.values.detach()) if isinstance(value, Jagged) else value.detach()


def ids_of(batch: Batch, feature: str) -> JaggedTensor:
    weighted = batch.weighted_ids
    return weighted[feature] if weighted is not None and feature in weighted.keys() else batch.ids[feature]


def make_batch(
    schema: Schema,
    columns: dict[str, Sequence[Sequence[int]]],
    *,
    item_weights: dict[str, Sequence[Sequence[float]]] | None = None,
    dense: np.ndarray | None = None,
    dense_sequences: dict[str, Sequence[float]] | None = None,
    labels: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    padding: int = 0,
) -> Batch:
    """A batch of given ids (feature -> one list a row) and columns, with `padding` rows after them."""
    item_weights = item_weights or {}
    size = len(next(iter(columns.values())))
    total = size + padding

    def column(values: np.ndarray | None, default: float) -> Tensor:
        rows = np.full(size, default) if values is None else np.asarray(values)
        return torch.cat([torch.as_tensor(rows, dtype=torch.float32), torch.zeros(padding)])

    def jagged(names: list[str]) -> KeyedJaggedTensor:
        lists = [row for name in names for row in [*columns[name], *([[]] * padding)]]
        values = [w for name in names for row in item_weights.get(name, []) for w in row]
        return KeyedJaggedTensor(
            keys=names,
            values=torch.tensor([i for row in lists for i in row], dtype=torch.int64),
            lengths=torch.tensor([len(row) for row in lists], dtype=torch.int64),
            weights=torch.tensor(values, dtype=torch.float32) if item_weights.keys() & set(names) else None,
        )

    names = [f.name for f in schema.sparse]
    weighted = [f.name for f in schema.sparse if isinstance(f, IdListFeature) and f.weighted]
    numbers = np.zeros((size, len(schema.dense))) if dense is None else dense
    return Batch(
        dense=torch.cat([torch.as_tensor(numbers, dtype=torch.float32), torch.zeros(padding, len(schema.dense))]),
        ids=jagged([name for name in names if name not in weighted]),
        weighted_ids=jagged(weighted) if weighted else None,
        labels={label.name: column(labels, 0.0) for label in schema.labels[:1]},
        weights=column(weights, 1.0),
        groups=None
        if groups is None
        else torch.cat([torch.as_tensor(groups), torch.zeros(padding, dtype=torch.int64)]),
        rows=torch.cat([torch.arange(size), torch.full((padding,), -1)]).to(torch.int64)[:total],
        dense_sequences={k: torch.as_tensor(v, dtype=torch.float32) for k, v in (dense_sequences or {}).items()},
    )
