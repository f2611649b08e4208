"""Arrow record batches become blocks, and blocks become batches, without Python per row.

Every feature is read and checked once, when its rows are decoded; after that a batch is a few concatenations. Ids are
held as 32-bit integers where all tables allow it and widened as they enter a batch.
"""

from collections.abc import Mapping, Sequence
from math import inf, prod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.features.arrow_values import Origin
from shardrec.data_pipeline.features.combinations import MOST_COMBINATIONS
from shardrec.data_pipeline.features.feature_kinds import (
    DenseSequenceFeature,
    FeatureCross,
    IdFeature,
    IdListFeature,
    SequenceFeature,
    SparseFeature,
)
from shardrec.data_pipeline.features.id_transforms import Cross
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.features.transforms import (
    Column,
    FeatureReader,
    GroupReader,
    LabelReader,
    WeightReader,
    check_aligned,
)
from shardrec.data_pipeline.reading.blocks import Block, Lists, offsets_of
from shardrec.data_pipeline.reading.column_types import carried_schema, check_read_alike
from shardrec.data_pipeline.reading.gaps import Gap
from shardrec.data_pipeline.reading.index import Index
from shardrec.data_pipeline.reading.keys import AbsentRun, Keys, Run
from shardrec.data_pipeline.reading.parquet import Chunk
from shardrec.data_pipeline.reading.time_order import TimeOrder

if TYPE_CHECKING:
    from torch import Tensor

_IN_TIME = "sort the rows by time, or leave data.order: time out"


class _Together(NamedTuple):
    """These features are equally long in every row: their ids and their numbers make one `Lists`."""

    ids: tuple[str, ...]
    numbers: tuple[str, ...]


class Layout:
    """A layout says how the rows of a schema lie in blocks and batches.

    columns: the Parquet columns that are read
    carried: the types in which `extra_columns` are handed on, once `check` has seen the files
    dense_names, id_names, weighted_id_names: the columns of `Batch.dense`, and the keys of its ids, in their order
    dense_sequence_names: the keys of `Batch.dense_sequences`
    """

    def __init__(
        self,
        schema: Schema,
        folder: str | Path,
        *,
        id_order: Sequence[str] | None = None,
        class_weights: Mapping[float, float] | None = None,
        extra_columns: Sequence[str] = (),
        carried: Sequence[str] = (),
        absent: Sequence[str] = (),
        in_time: bool = False,
    ) -> None:
        """Opens the readers of the schema's columns; `folder` is the schema's (vocabularies).

        id_order: keys of the ids, in order; sparse features that it leaves out are not read (None: all, as declared)
        carried: features of one id a row that blocks have in any case, and batches only as `id_order` says
        absent: features that are not read: sparse ones and dense sequences have no elements in any row of a batch, and
            dense ones are 0
        class_weights: sample weights are multiplied by the weight of their first label, for the labels named here
        extra_columns: columns that `Block.extra` carries unread
        in_time: rows are read in order, and checked to be in that of the schema's time, if it has one
        """
        if id_order is not None:
            schema = schema.subset([*id_order, *carried, *(f.name for f in (*schema.dense, *schema.dense_sequences))])
        sparse = {f.name: f for f in schema.sparse}
        self.dense_names = tuple(f.name for f in schema.dense)
        order = tuple(sparse) if id_order is None else tuple(id_order)
        self.dense_sequence_names = tuple(f.name for f in schema.dense_sequences)
        self.schema = schema = schema.without(absent)
        self.extra_columns = tuple(dict.fromkeys(extra_columns))
        self.class_weights = dict(class_weights or {}) if schema.labels else {}
        self._readers = {f.name: FeatureReader(f, folder) for f in schema.features}
        self._labels = [LabelReader(label) for label in schema.labels]
        self._weight = WeightReader(schema.weight) if schema.weight else None
        self._group = GroupReader(schema.group) if schema.group else None
        self._time = TimeOrder(schema.time, _IN_TIME) if in_time and schema.time else None
        left_out = set(absent)
        read = [name for name in order if name not in left_out]
        self._single = tuple(n for n in dict.fromkeys((*read, *carried)) if isinstance(sparse[n], IdFeature))
        self._lists = _equal_lengths(
            [*(sparse[n] for n in read if not isinstance(sparse[n], IdFeature)), *schema.dense_sequences]
        )
        self._ids = self._keys([n for n in order if not _weighted(sparse[n])], weighted=False)
        self._weighted_ids = self._keys([n for n in order if _weighted(sparse[n])], weighted=True)
        self.id_names, self.weighted_id_names = self._ids.names, self._weighted_ids.names
        most = max((f.num_embeddings for f in schema.sparse), default=0)
        self._id_type = np.int32 if most <= 2**31 else np.int64
        one_column = (self._weight, self._group, self._time)
        self.checked: list[FeatureReader | LabelReader | WeightReader | GroupReader | TimeOrder] = [
            *self._readers.values(),
            *self._labels,
            *(reader for reader in one_column if reader is not None),
        ]
        columns = [column for reader in self.checked for column in reader.columns]
        self._read_columns = tuple(dict.fromkeys(columns))
        self.columns = tuple(dict.fromkeys([*columns, *self.extra_columns]))
        self.carried: pa.Schema | None = None

    def _keys(self, names: Sequence[str], *, weighted: bool) -> Keys:
        """Returns keys in this order, joined to runs where they lie side by side in blocks."""
        runs: list[Run] = []
        places: dict[str, tuple[int | None, int]] = {name: (None, row) for row, name in enumerate(self._single)}
        for i, together in enumerate(self._lists):
            places |= {name: (i, row) for row, name in enumerate(together.ids)}
        for name in names:
            if name not in places:
                runs.append(AbsentRun(-1, 0, 1))
                continue
            lists, row = places[name]
            if runs and (runs[-1].lists, runs[-1].last) == (lists, row):
                runs[-1] = runs[-1]._replace(last=row + 1)
            else:
                runs.append(Run(lists, row, row + 1))
        return Keys(names, runs, weighted=weighted)

    # ------------------------------------------------------------ the files that are read

    def check(self, index: Index) -> None:
        """Raises UserError for a column that a file lacks, or has in a type that is not read, or not as in the others.

        What is not read may differ between files. From here on `carried` has the types of the `extra_columns`.
        """
        for schema, path in index.schemas:
            for reader in self.checked:
                reader.check(schema, path)
        check_read_alike(self._read_columns, index.schemas)
        self.carried = carried_schema(self.extra_columns, index.schemas)

    # ------------------------------------------------------------ sizes

    def row_bytes(self, values_per_row: Mapping[str, float]) -> float:
        """Returns the estimated bytes of a row in a block.

        values_per_row: the mean number of values in the files' list columns
        """
        id_bytes = np.dtype(self._id_type).itemsize
        total = id_bytes * len(self._single) + 4.0 * self._num_numbers + 8 * (2 if self._group else 1)
        for together in self._lists:
            total += 8
            for name in (*together.ids, *together.numbers):
                feature = self.schema[name]
                number_bytes = 4 if name in together.numbers else id_bytes + 4 * _weighted(feature)
                total += _mean_length(feature, values_per_row) * number_bytes
        return total + sum(8 * (1 + values_per_row.get(c, 1.0)) for c in self.extra_columns)

    @property
    def _num_numbers(self) -> int:
        return len(self.dense_names) + len(self._labels) + 1

    # ------------------------------------------------------------ Arrow -> block

    def block(self, chunk: Chunk | Gap) -> Block:
        """Reads a chunk's rows; those of a gap are nobody's. Raises UserError for values that the schema forbids."""
        if isinstance(chunk, Gap):
            return self._of_gap(chunk.rows)
        batch, where, first_row, place = chunk
        origin = Origin(where, first_row)
        columns = {name: reader(batch, origin) for name, reader in self._readers.items()}
        check_aligned(self.schema.features, batch, origin)
        if self._time is not None:
            self._time(batch, origin, place)
        row_count = batch.num_rows
        ids = np.empty((len(self._single), row_count), self._id_type)
        for i, name in enumerate(self._single):
            ids[i] = columns[name].values
        numbers = np.empty((row_count, self._num_numbers), np.float32)
        for i, name in enumerate(self.dense_names):
            numbers[:, i] = columns[name].values if name in columns else 0
        for i, label in enumerate(self._labels, start=len(self.dense_names)):
            numbers[:, i] = label(batch, origin).values
        numbers[:, -1] = 1 if self._weight is None else self._weight(batch, origin).values
        for label_value, weight in self.class_weights.items():
            numbers[numbers[:, len(self.dense_names)] == np.float32(label_value), -1] *= weight
        places = np.empty((2 if self._group else 1, row_count), np.int64)
        places[0] = np.arange(place, place + row_count)
        if self._group is not None:
            places[1] = self._group(batch, origin).values
        extra = pa.Table.from_batches([batch]).select(self.extra_columns)
        if self.carried:
            extra = extra.cast(self.carried)
        return Block(ids, tuple(self._read_lists(lists, columns) for lists in self._lists), numbers, places, extra)

    def _of_gap(self, count: int) -> Block:
        """Returns rows at no place of the data set (-1), which no batch gets."""
        carried = self.carried or pa.schema([])
        return Block(
            np.zeros((len(self._single), count), self._id_type),
            tuple(self._empty_lists(together, count) for together in self._lists),
            np.zeros((count, self._num_numbers), np.float32),
            np.full((2 if self._group else 1, count), -1, np.int64),
            pa.table([pa.nulls(count, field.type) for field in carried], names=carried.names),
        )

    def _empty_lists(self, together: _Together, count: int) -> Lists:
        weighted = any(_weighted(self.schema[name]) for name in together.ids)
        return Lists(
            np.empty((len(together.ids), 0), self._id_type),
            np.zeros(count + 1, np.int64),
            np.empty(0, np.float32) if weighted else None,
            np.empty((len(together.numbers), 0), np.float32) if together.numbers else None,
        )

    def _read_lists(self, together: _Together, columns: Mapping[str, Column]) -> Lists:
        first = columns[(together.ids or together.numbers)[0]]
        assert first.lengths is not None
        values = np.empty((len(together.ids), len(first.values)), self._id_type)
        for i, name in enumerate(together.ids):
            values[i] = columns[name].values
        numbers = np.empty((len(together.numbers), len(first.values)), np.float32) if together.numbers else None
        for i, name in enumerate(together.numbers):
            assert numbers is not None
            numbers[i] = columns[name].values
        weights = None if first.weights is None else np.array(first.weights)
        return Lists(values, offsets_of(first.lengths), weights, numbers)

    # ------------------------------------------------------------ block -> block

    def id_row(self, name: str) -> int:
        """Returns the row of a block's `ids` that holds this feature of one id a row."""
        return self._single.index(name)

    def list_row(self, name: str) -> tuple[int, int]:
        """Returns which of a block's `lists` holds this feature of many ids a row, and as which row."""
        place = next(i for i, together in enumerate(self._lists) if name in together.ids)
        return place, self._lists[place].ids.index(name)

    def with_features(self, block: Block, names: Sequence[str], layout: "Layout", others: Block) -> Block:
        """Returns a block's rows with labels of 0 and with the features `names` of `others`, a block of another layout.

        Those of the named features that this layout has not are passed over.
        """
        ids, numbers, lists = block.ids.copy(), block.numbers.copy(), list(block.lists)
        dense = len(self.dense_names)
        numbers[:, dense : dense + len(self._labels)] = 0
        for name in names:
            if name in self._single:
                ids[self._single.index(name)] = others.ids[layout._single.index(name)]
            elif name in self.dense_names:
                numbers[:, self.dense_names.index(name)] = others.numbers[:, layout.dense_names.index(name)]
        for i, together in enumerate(self._lists):
            if (first := (together.ids or together.numbers)[0]) in names:
                place = next(j for j, other in enumerate(layout._lists) if first in (*other.ids, *other.numbers))
                lists[i] = _some(others.lists[place], layout._lists[place], together)
        return block._replace(ids=ids, numbers=numbers, lists=tuple(lists))

    def only_features(self, names: Sequence[str], layout: "Layout", others: Block) -> Block:
        """Returns rows with the features `names` of `others`, a block of another layout, and weight 0, of no data set.

        This layout has no features but those.
        """
        count = others.rows
        empty = Lists(np.empty((0, 0), self._id_type), np.zeros(count + 1, np.int64), None)
        rows = Block(
            np.zeros((len(self._single), count), self._id_type),
            tuple(empty for _ in self._lists),
            np.zeros((count, self._num_numbers), np.float32),
            np.full((2 if self._group else 1, count), -1, np.int64),
            others.extra,
        )
        return self.with_features(rows, names, layout, others)

    # ------------------------------------------------------------ blocks -> batch

    def collate(self, parts: Sequence[Block], size: int) -> Batch:
        """Returns one batch of `size` rows: those of all parts, then padding."""
        import torch  # readers that are processes of their own make no batches

        live, dense = sum(p.rows for p in parts), len(self.dense_names)
        numbers = np.zeros((size, dense), np.float32)
        targets = np.zeros((self._num_numbers - dense, size), np.float32)
        places = np.zeros((2 if self._group else 1, size), np.int64)
        places[0, live:] = -1
        if parts:
            np.concatenate([p.numbers[:, :dense] for p in parts], out=numbers[:live])
            np.concatenate([p.numbers[:, dense:].T for p in parts], axis=1, out=targets[:, :live])
            np.concatenate([p.places for p in parts], axis=1, out=places[:, :live])
        labels = {label.name: torch.from_numpy(targets[i]) for i, label in enumerate(self.schema.labels)}
        ids, lengths = self._ids.collate(parts, size)
        weighted_ids, lengths_of_weighted = self._weighted_ids.collate(parts, size)
        return Batch(
            dense=torch.from_numpy(numbers),
            ids=ids,
            weighted_ids=weighted_ids if self.weighted_id_names else None,
            labels=labels,
            weights=torch.from_numpy(targets[-1]),
            groups=torch.from_numpy(places[1]) if self._group else None,
            rows=torch.from_numpy(places[0]),
            dense_sequences=self._dense_sequences(parts),
            host_lengths=lengths | lengths_of_weighted,
        )

    def _dense_sequences(self, parts: Sequence[Block]) -> "dict[str, Tensor]":
        """Returns the numbers of all parts' rows by name; none where they are absent, as padding has none."""
        import torch

        sequences = {name: torch.empty(0) for name in self.dense_sequence_names}
        for i, together in enumerate(self._lists):
            if parts and together.numbers:
                joined = torch.from_numpy(np.concatenate([p.lists[i].owned_numbers for p in parts], axis=1))
                sequences |= dict(zip(together.numbers, joined, strict=True))
        return sequences


def _mean_length(feature: SparseFeature | DenseSequenceFeature, values_per_row: Mapping[str, float]) -> float:
    """Returns how many ids or numbers a row of a feature has, about, by the mean number of values in files' columns."""
    if isinstance(feature, IdFeature):
        return 1.0
    ids = None if isinstance(feature, DenseSequenceFeature) else feature.ids
    if isinstance(ids, FeatureCross):
        values = prod(_mean_length(source, values_per_row) for source in ids.features)
        return min(values, feature.max_length or MOST_COMBINATIONS)
    if isinstance(ids, Cross):
        values = prod(values_per_row.get(column, 1.0) for column in feature.columns)
        return min(values, feature.max_length or MOST_COMBINATIONS)
    return min(values_per_row.get(feature.columns[0], 1.0), feature.max_length or inf)


def _weighted(feature: SparseFeature) -> bool:
    return isinstance(feature, IdListFeature) and feature.weighted


def _equal_lengths(features: Sequence[SparseFeature | DenseSequenceFeature]) -> list[_Together]:
    """Returns the names of the list features, in groups that are as long as each other in every row."""
    groups: dict[str, list[SparseFeature | DenseSequenceFeature]] = {}
    for f in features:
        aligned = f.aligned if isinstance(f, SequenceFeature | DenseSequenceFeature) else None
        groups.setdefault(f"aligned {aligned}" if aligned is not None else f"alone {f.name}", []).append(f)
    return [
        _Together(
            tuple(f.name for f in group if not isinstance(f, DenseSequenceFeature)),
            tuple(f.name for f in group if isinstance(f, DenseSequenceFeature)),
        )
        for group in groups.values()
    ]


def _some(lists: Lists, known: _Together, wanted: _Together) -> Lists:
    """Returns those of the lists of `known` features that are `wanted`, in that order."""
    values = lists.values[[known.ids.index(name) for name in wanted.ids]]
    numbers = lists.numbers
    if numbers is not None:
        numbers = numbers[[known.numbers.index(name) for name in wanted.numbers]] if wanted.numbers else None
    return lists._replace(values=values, numbers=numbers)
