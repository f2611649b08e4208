"""A lookup's last step makes a tower's named inputs of the collections' outputs; it knows no ranks or placements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from shardrec.data_pipeline.batch import Batch
from shardrec.models.inputs import DenseFeatures, Input, Jagged, PooledEmbeddings, SequenceEmbeddings
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.lookup.columns import ColumnBlock, ColumnLayout, Piece, assemble_columns, stack_vectors


@dataclass(frozen=True)
class Route:
    """A route says where a feature's rows of a table come out: of which of the lookup's parts, by which key."""

    part: int
    key: str
    sequence: bool


class Assemble(nn.Module):
    """Inputs are assembled from the parts' outputs and a batch: {input name: Tensor or Jagged}.

    Those that are not read are left out: of a batch that is not trained on, and of one without labels, which is to be
    predicted.
    """

    def __init__(
        self,
        inputs: Mapping[str, Input],
        routes: Mapping[tuple[str, str], Route],
        dense_names: Sequence[str],
        weighted: frozenset[str],
    ) -> None:
        super().__init__()
        self._inputs = dict(inputs)
        self._routes = dict(routes)
        self._weighted = weighted
        self._dense = {name: _dense_columns(i, dense_names) for name, i in inputs.items() if _is_dense(i)}
        self._columns: ColumnLayout | None = None
        self._keys: list[list[str]] | None = None
        sequences = {place for place, route in routes.items() if route.sequence}
        pooled = {name: i for name, i in inputs.items() if isinstance(i, PooledEmbeddings)}
        self._mixed = {  # any of whose tables lives in a sequence collection, whose rows are summed here
            name: any((f, t.name) in sequences for f, t in declared.tables.items()) for name, declared in pooled.items()
        }
        self._means = {n: any(t.pooling != "sum" for t in declared.tables.values()) for n, declared in pooled.items()}
        self._sources = sorted({r.part for r in routes.values() if not r.sequence})

    @property
    def parts(self) -> frozenset[int]:
        """Returns which of the parts the inputs are made of."""
        return frozenset(route.part for route in self._routes.values())

    def read(self, batch: Batch) -> list[str]:
        """Returns the names of the inputs that are read of a batch."""
        when = ["always"]
        if self.training or batch.labels:
            when.append("labelled")
        if self.training:
            when.append("training")
        return [name for name, declared in self._inputs.items() if declared.read in when]

    def forward(self, outputs: list[Any], batch: Batch) -> dict[str, Tensor | Jagged]:
        """Returns the tower's inputs by name, made of the collections' outputs and the batch's dense columns."""
        self._check_keys([ids.keys() for ids in (batch.ids, batch.weighted_ids) if ids is not None])
        pooled = self._pooled(outputs, batch)
        assembled: dict[str, Tensor | Jagged] = {}
        for name in self.read(batch):
            declared = self._inputs[name]
            if isinstance(declared, PooledEmbeddings):
                assembled[name] = pooled[name]
            elif isinstance(declared, SequenceEmbeddings):
                assembled[name] = self._sequences(declared, outputs, batch)
            else:
                assembled[name] = batch.dense[:, self._dense[name]]
        return assembled

    def _check_keys(self, keys: list[list[str]]) -> None:
        """Raises ValueError where keys are not the first batch's: collections go by the order that they saw first."""
        if self._keys is None:
            self._keys = keys
        elif keys != self._keys:
            raise ValueError(f"a batch's features come as {keys}, but the first batch's came as {self._keys}")

    def _ids(self, feature: str, batch: Batch) -> KeyedJaggedTensor:
        ids = batch.weighted_ids if feature in self._weighted else batch.ids
        assert ids is not None, f"the batch has no weighted ids, but {feature!r} is declared with weights"
        return ids

    # ---------------------------------------------------------------- pooled inputs

    def _pooled(self, outputs: list[Any], batch: Batch) -> dict[str, Tensor]:
        if self._columns is None:
            self._columns = self._lay_out(outputs)
        sources = [outputs[part].values().float() for part in self._sources]  # unsharded fp16 tables give fp16
        columns = iter(assemble_columns(self._columns, sources) if sources else ())
        pooled = {}
        for name, declared in self._inputs.items():
            if not isinstance(declared, PooledEmbeddings):
                continue
            if not self._mixed[name]:
                vectors = next(columns)
            else:
                of_features = [
                    self._segment_sum(f, t, outputs, batch) if self._routes[f, t.name].sequence else next(columns)
                    for f, t in declared.tables.items()
                ]
                vectors = torch.cat(of_features, dim=1) if declared.concat else torch.stack(of_features, dim=1)
            pooled[name] = self._averaged(declared, vectors, batch) if self._means[name] else vectors
        return pooled

    def _lay_out(self, outputs: list[Any]) -> ColumnLayout:
        """Returns the layout of all pooled inputs, once the collections' column order is known."""
        places: dict[tuple[int, str], tuple[int, int, int]] = {}
        for source, part in enumerate(self._sources):
            start = 0
            for key, length in zip(outputs[part].keys(), outputs[part].length_per_key(), strict=True):
                places[part, key] = (source, start, length)
                start += length

        def piece(feature: str, table: EmbeddingTable) -> Piece:
            route = self._routes[feature, table.name]
            source, start, stored = places[route.part, route.key]
            return Piece(source, start, table.embedding_dim, stored)

        blocks = []
        for name, declared in self._inputs.items():
            if not isinstance(declared, PooledEmbeddings):
                continue
            if not self._mixed[name]:
                blocks.append(ColumnBlock(tuple(piece(f, t) for f, t in declared.tables.items()), declared.concat))
                continue
            for f, t in declared.tables.items():
                if not self._routes[f, t.name].sequence:
                    blocks.append(ColumnBlock((piece(f, t),), concat=True))
        sources = [outputs[part].values() for part in self._sources]
        device = sources[0].device if sources else torch.device("cpu")
        return ColumnLayout(blocks, [source.shape[1] for source in sources], device)

    def _segment_sum(self, feature: str, table: EmbeddingTable, outputs: list[Any], batch: Batch) -> Tensor:
        """Sums a sequence table's rows of a feature by row of the batch: [B, D]."""
        values, lengths = self._values(feature, table, outputs), self._ids(feature, batch)[feature].lengths()
        if feature in self._weighted:
            values = values * self._ids(feature, batch)[feature].weights().unsqueeze(1)
        on_host = batch.host_lengths.get(feature)
        if on_host is not None and (on_host == 1).all():
            return values
        row = torch.arange(len(lengths), device=values.device).repeat_interleave(lengths, output_size=len(values))
        return values.new_zeros(len(lengths), values.shape[1]).index_add(0, row, values)

    def _averaged(self, declared: PooledEmbeddings, vectors: Tensor, batch: Batch) -> Tensor:
        """Divides the features whose table pools by mean."""
        scale = []
        for feature, table in declared.tables.items():
            columns = table.embedding_dim if declared.concat else 1
            if table.pooling == "sum":
                scale.append(vectors.new_ones(len(vectors), columns))
                continue
            total = self._total(feature, batch)
            share = torch.where(total == 0, 0.0, 1.0 / torch.where(total == 0, 1.0, total))
            scale.append(share.unsqueeze(1).expand(-1, columns))
        factors = torch.cat(scale, dim=1)
        return vectors * (factors if declared.concat else factors.unsqueeze(2))

    def _total(self, feature: str, batch: Batch) -> Tensor:
        """Returns the number of a feature's ids, or the sum of their weights: [B]."""
        ids = self._ids(feature, batch)[feature]
        if feature not in self._weighted:
            return ids.lengths().float()
        row = torch.arange(len(ids.lengths()), device=ids.values().device)
        row = row.repeat_interleave(ids.lengths(), output_size=len(ids.values()))
        return ids.weights().new_zeros(len(ids.lengths())).index_add_(0, row, ids.weights())

    # ---------------------------------------------------------------- sequences

    def _values(self, feature: str, table: EmbeddingTable, outputs: list[Any]) -> Tensor:
        route = self._routes[feature, table.name]
        values = outputs[route.part][route.key].values().float()
        # a slice of all columns would still cost a zero-filled copy in backward
        return values if values.shape[1] == table.embedding_dim else values[:, : table.embedding_dim]

    def _sequences(self, declared: SequenceEmbeddings, outputs: list[Any], batch: Batch) -> Jagged:
        values = [self._values(f, t, outputs) for f, t in declared.tables.items()]
        first = next(iter(declared.tables))
        ids = self._ids(first, batch)[first]
        stacked = stack_vectors(values)
        offsets = torch.ops.fbgemm.asynchronous_complete_cumsum(ids.lengths())
        weights = ids.weights() if first in self._weighted else None
        numbers, on_host = _numbers(declared, len(stacked), batch), batch.host_lengths.get(first)
        return Jagged(stacked, ids.lengths(), offsets, weights, numbers, on_host)


def _numbers(declared: SequenceEmbeddings, events: int, batch: Batch) -> Tensor | None:
    """Returns the [T, N] numbers beside the ids of sequences. Raises ValueError where they are not as many."""
    if not declared.dense:
        return None
    for name in declared.dense:
        if len(batch.dense_sequences[name]) != events:
            raise ValueError(
                f"dense sequence {name!r} has {len(batch.dense_sequences[name])} numbers beside {events} ids of "
                f"{', '.join(declared.tables)}; an input's sequences have to be aligned with each other"
            )
    return torch.stack([batch.dense_sequences[name] for name in declared.dense], dim=1)


def _is_dense(declared: Input) -> bool:
    return isinstance(declared, DenseFeatures)


def _dense_columns(declared: Input, names: Sequence[str]) -> slice | list[int]:
    """Returns an input's columns of `batch.dense`: as a slice, hence a view, where they follow each other."""
    assert isinstance(declared, DenseFeatures)
    places = {name: place for place, name in enumerate(names)}
    unknown = [f for f in declared.features if f not in places]
    if unknown:
        raise ValueError(f"dense feature {unknown[0]!r} is not among the batch's columns {list(names)}")
    at = [places[f] for f in declared.features]
    start = at[0] if at else 0
    return slice(start, start + len(at)) if at == list(range(start, start + len(at))) else at
