"""Arrow record batches -> blocks -> batches, without Python per row.

Every feature is read and checked once, when its rows are decoded; after that a batch is a few concatenations. Ids are
held as 32-bit integers where all tables allow it and widened as they enter a batch.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data_pipeline.arrow_values import Origin
from data_pipeline.batch import Batch
from data_pipeline.blocks import Block, Lists, offsets_of
from data_pipeline.parquet import Chunk
from data_pipeline.schema import IdFeature, IdListFeature, Schema, SequenceFeature, SparseFeature
from data_pipeline.transforms import Column, FeatureReader, GroupReader, LabelReader, NumberReader, check_aligned


class _Source(NamedTuple):
    """Where a key of a KeyedJaggedTensor lies in a block: row `row` of `ids` (lists is None) or of `lists[lists]`."""

    lists: int | None
    row: int


class Layout:
    """How the rows of a schema lie in blocks and batches.

    columns: the Parquet columns that are read
    dense_names, id_names, weighted_id_names: the columns of `Batch.dense`, and the keys of its ids, in their order
    """

    def __init__(
        self,
        schema: Schema,
        folder: str | Path,
        *,
        id_order: Sequence[str] | None = None,
        class_weights: Mapping[float, float] | None = None,
        extra_columns: Sequence[str] = (),
    ) -> None:
        """`folder` is the schema's (vocabularies). `id_order` orders the keys (default: the schema's order).

        class_weights: sample weights are multiplied by the weight of their first label, for the labels named here
        extra_columns: columns that `Block.extra` carries unread
        """
        self.schema = schema
        self.extra_columns = tuple(dict.fromkeys(extra_columns))
        self.class_weights = dict(class_weights or {})
        self._readers = {f.name: FeatureReader(f, folder) for f in schema.features}
        self._labels = [LabelReader(label) for label in schema.labels]
        self._weight = NumberReader(schema.weight) if schema.weight else None
        self._group = GroupReader(schema.group) if schema.group else None
        self.dense_names = tuple(f.name for f in schema.dense)
        sparse = {f.name: f for f in schema.sparse}
        order = tuple(sparse) if id_order is None else tuple(id_order)
        if sorted(order) != sorted(sparse):
            raise ValueError(f"id_order {order} is not an order of the sparse features {tuple(sparse)}")
        self.id_names = tuple(n for n in order if not _weighted(sparse[n]))
        self.weighted_id_names = tuple(n for n in order if _weighted(sparse[n]))
        self._single = tuple(n for n in self.id_names if isinstance(sparse[n], IdFeature))
        self._lists = _equal_lengths([sparse[n] for n in order if not isinstance(sparse[n], IdFeature)])
        self._id_runs = self._runs(self.id_names)
        self._weighted_runs = self._runs(self.weighted_id_names)
        most = max((f.num_embeddings for f in schema.sparse), default=0)
        self._id_type = np.int32 if most <= 2**31 else np.int64
        self._ones: dict[int, Tensor] = {}
        everything = [self._readers.values(), self._labels, [r for r in (self._weight, self._group) if r]]
        self.checked: list[FeatureReader | LabelReader | NumberReader | GroupReader] = [
            reader for readers in everything for reader in readers
        ]
        read = [column for reader in self.checked for column in reader.columns]
        self.columns = tuple(dict.fromkeys([*read, *self.extra_columns]))

    def _runs(self, names: Sequence[str]) -> list[tuple[int | None, int, int]]:
        """Keys in order as runs that lie side by side: (lists or None, first row, last row + 1)."""
        places = [self._place(name) for name in names]
        runs = []
        for (lists, _), run in groupby(enumerate(places), lambda item: (item[1].lists, item[1].row - item[0])):
            rows = [place.row for _, place in run]
            runs.append((lists, rows[0], rows[-1] + 1))
        return runs

    def _place(self, name: str) -> _Source:
        if name in self._single:
            return _Source(None, self._single.index(name))
        return next(_Source(i, names.index(name)) for i, names in enumerate(self._lists) if name in names)

    # ------------------------------------------------------------ sizes

    def row_bytes(self, values_per_row: Mapping[str, float]) -> float:
        """Estimated bytes of a row in a block; `values_per_row`: mean number of values in the files' list columns."""
        id_bytes = np.dtype(self._id_type).itemsize
        total = id_bytes * len(self._single) + 4.0 * self._num_numbers + 8 * (2 if self._group else 1)
        for names in self._lists:
            total += 8
            for name in names:
                feature = self.schema[name]
                values = values_per_row.get(feature.columns[0], 1.0)
                values = min(values, feature.max_length or values)
                total += values * (id_bytes + 4 * _weighted(feature))
        return total + sum(8 * (1 + values_per_row.get(c, 1.0)) for c in self.extra_columns)

    @property
    def _num_numbers(self) -> int:
        return len(self.dense_names) + len(self._labels) + 1

    # ------------------------------------------------------------ Arrow -> block

    def block(self, chunk: Chunk) -> Block:
        """Reads rows. Raises UserError for values that the schema does not allow."""
        batch, where, first_row, place = chunk
        origin = Origin(where, first_row)
        columns = {name: reader(batch, origin) for name, reader in self._readers.items()}
        check_aligned(self.schema.features, columns, origin)
        rows = batch.num_rows
        ids = np.empty((len(self._single), rows), self._id_type)
        for i, name in enumerate(self._single):
            ids[i] = columns[name].values
        numbers = np.empty((rows, self._num_numbers), np.float32)
        for i, name in enumerate(self.dense_names):
            numbers[:, i] = columns[name].values
        for i, label in enumerate(self._labels, start=len(self.dense_names)):
            numbers[:, i] = label(batch, origin).values
        numbers[:, -1] = 1 if self._weight is None else self._weight(batch, origin).values
        for label_value, weight in self.class_weights.items():
            numbers[numbers[:, len(self.dense_names)] == np.float32(label_value), -1] *= weight
        index = np.empty((2 if self._group else 1, rows), np.int64)
        index[0] = np.arange(place, place + rows)
        if self._group is not None:
            index[1] = self._group(batch, origin).values
        extra = pa.Table.from_batches([batch]).select(self.extra_columns)
        return Block(ids, tuple(self._read_lists(names, columns) for names in self._lists), numbers, index, extra)

    def _read_lists(self, names: Sequence[str], columns: Mapping[str, Column]) -> Lists:
        read = [columns[name] for name in names]
        assert read[0].lengths is not None
        values = np.empty((len(read), len(read[0].values)), self._id_type)
        for i, column in enumerate(read):
            values[i] = column.values
        weights = read[0].weights
        return Lists(values, offsets_of(read[0].lengths), None if weights is None else np.array(weights))

    # ------------------------------------------------------------ blocks -> batch

    def collate(self, parts: Sequence[Block], size: int) -> Batch:
        """One batch of `size` rows: those of all parts, then padding."""
        live, dense = sum(p.rows for p in parts), len(self.dense_names)
        numbers = np.zeros((size, dense), np.float32)
        targets = np.zeros((self._num_numbers - dense, size), np.float32)
        index = np.zeros((2 if self._group else 1, size), np.int64)
        index[0, live:] = -1
        if parts:
            np.concatenate([p.numbers[:, :dense] for p in parts], out=numbers[:live])
            np.concatenate([p.numbers[:, dense:].T for p in parts], axis=1, out=targets[:, :live])
            np.concatenate([p.index for p in parts], axis=1, out=index[:, :live])
        labels = {label.name: torch.from_numpy(targets[i]) for i, label in enumerate(self.schema.labels)}
        return Batch(
            dense=torch.from_numpy(numbers),
            ids=self._keyed(self.id_names, self._id_runs, parts, live, size, weighted=False),
            weighted_ids=(
                self._keyed(self.weighted_id_names, self._weighted_runs, parts, live, size, weighted=True)
                if self.weighted_id_names
                else None
            ),
            labels=labels,
            weights=torch.from_numpy(targets[-1]),
            groups=torch.from_numpy(index[1]) if self._group else None,
            rows=torch.from_numpy(index[0]),
        )

    def _keyed(
        self,
        names: tuple[str, ...],
        runs: list[tuple[int | None, int, int]],
        parts: Sequence[Block],
        live: int,
        size: int,
        *,
        weighted: bool,
    ) -> KeyedJaggedTensor:
        counts = [live if lists is None else sum(p.lists[lists].total for p in parts) for lists, _, _ in runs]
        per_key = [n for n, (_, first, last) in zip(counts, runs, strict=True) for _ in range(first, last)]
        values = np.empty(sum(per_key), np.int64)
        weights = np.empty(len(values) if weighted else 0, np.float32)
        single = live == size and all(lists is None for lists, _, _ in runs)
        lengths = self._one_each(len(names) * size) if single else torch.zeros(len(names) * size, dtype=torch.int64)
        at = key = 0
        for count, (lists, first, last) in zip(counts, runs, strict=True):
            keys, stop = last - first, at + count * (last - first)
            if parts:
                found = [(p.ids if lists is None else p.lists[lists].owned)[first:last] for p in parts]
                np.concatenate(found, axis=1, out=values[at:stop].reshape(keys, count))
                if weighted:
                    np.concatenate([p.lists[lists].owned_weights for p in parts], out=weights[at:stop])
                if not single:
                    row_lengths = lengths.numpy().reshape(len(names), size)[key : key + keys, :live]
                    row_lengths[:] = 1 if lists is None else np.concatenate([p.lists[lists].lengths for p in parts])
            at, key = stop, key + keys
        return KeyedJaggedTensor(
            keys=list(names),
            values=torch.from_numpy(values),
            weights=torch.from_numpy(weights) if weighted else None,
            lengths=lengths,
            stride=size,
            length_per_key=per_key,
        )

    def _one_each(self, count: int) -> Tensor:
        """The lengths of one-valued features, shared by all full batches: they are never changed in place."""
        if count not in self._ones:
            self._ones = {count: torch.ones(count, dtype=torch.int64)}
        return self._ones[count]


def _weighted(feature: SparseFeature) -> bool:
    return isinstance(feature, IdListFeature) and feature.weights is not None


def _equal_lengths(features: Sequence[SparseFeature]) -> list[tuple[str, ...]]:
    """Names of the list features, those together that are as long as each other in every row."""
    together: dict[str, list[str]] = {}
    for f in features:
        aligned = f.aligned if isinstance(f, SequenceFeature) else None
        together.setdefault(f"aligned {aligned}" if aligned is not None else f"alone {f.name}", []).append(f.name)
    return [tuple(names) for names in together.values()]
