"""Raw items, as before preparation, become rows as a run has them; new ones get numbers, and keep their names."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardrec.data_pipeline.features.arrow_values import Origin
from shardrec.data_pipeline.features.hashing import is_string
from shardrec.data_pipeline.features.id_transforms import Identity, Vocabulary
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.features.transforms import Column, FeatureReader
from shardrec.data_pipeline.features.vocabulary import kept_values
from shardrec.data_pipeline.reading.blocks import offsets_of
from shardrec.data_pipeline.reading.collate import Layout
from shardrec.data_pipeline.reading.index import DataSet
from shardrec.data_pipeline.reading.parquet import Chunk
from shardrec.data_pipeline.sampling.catalogue import chunks_of


def item_values(schema: Schema, item: str, folder: str) -> pa.Array | None:
    """Returns what the numbers 1, 2, ... of the run's items were made of; None where files hold ids themselves.

    There are as many as numbers that rows may have: behind the vocabulary's, nulls.
    """
    ids = getattr(schema[item], "ids", None)
    if not (isinstance(ids, Identity) and isinstance(ids.prepared, Vocabulary)):
        return None
    if (found := kept_values(folder, ids.prepared.path)) is None:
        return None
    values = found.combine_chunks()
    return pa.concat_arrays([values, pa.nulls(max(0, ids.num_ids - 1 - len(values)), values.type)])


class RawItems:
    """Raw items are a file of items with the columns, and the values, that preparation read.

    layout: how it is read. column: what it calls the items' column. values: as `item_values`, and once rows were read
    the names of new items behind them
    """

    def __init__(self, features: Schema, item: str, folder: str, values: pa.Array | None) -> None:
        raw = features.raw()
        self._columns = features[item].columns[0]
        self.column, self.values, self._features, self._raw = raw[item].columns[0], values, features, raw
        self._readers = {
            f.name: FeatureReader(g, folder) for f, g in zip(features.features, raw.features, strict=True) if f != g
        }
        columns = tuple(dict.fromkeys(column for f in raw.features for column in f.columns))
        self.layout = Layout(raw, folder, extra_columns=columns)

    def read(self, data_set: DataSet) -> Iterator[tuple[pa.Array, pa.Table]]:
        """Yields the file's ids, and its rows as the run's are: where these hold numbers, an item that the vocabulary
        lacks has one beyond it. Raises UserError as a loader does.
        """
        for chunk in chunks_of(data_set.index, self.layout):
            yield chunk.batch.column(self.column), self._prepared(chunk)

    def _prepared(self, chunk: Chunk) -> pa.Table:
        self.layout.block(chunk)  # checks what is not made again here
        batch = chunk.batch
        made: dict[str, pa.Array] = {}
        for f in self._features.features:
            if f.name not in self._readers:
                made |= {column: batch.column(column) for column in f.columns}
                continue
            read = self._readers[f.name](batch, Origin(chunk.where, chunk.first_row))
            arrays = _arrays(read)
            if f.columns[0] == self._columns and self.values is not None:
                arrays = (self._numbers(arrays[0], batch.column(self.column)),)
            made |= dict(zip(f.columns, arrays, strict=False))
        return pa.table(made)

    def _numbers(self, numbers: pa.Array, names: pa.Array) -> pa.Array:
        """Returns table rows of the vocabulary; of what it lacks, numbers beyond the run's."""
        assert self.values is not None
        names = names.cast(pa.large_string() if is_string(self.values.type) else self.values.type)
        lacking = names.filter(pc.equal(numbers, 0)).unique().drop_null()
        new = lacking.filter(pc.invert(pc.is_in(lacking, value_set=self.values)))
        self.values = pa.concat_arrays([self.values, new])
        beyond = pc.add(pc.index_in(names, value_set=self.values, skip_nulls=True).cast(pa.int64()), 1)
        return pc.if_else(pc.equal(numbers, 0), beyond, numbers)


def _arrays(read: Column) -> tuple[pa.Array, ...]:
    """Returns a feature's values as columns of rows, and its weights where it has some."""
    if read.lengths is None:
        return (pa.array(read.values),)
    offsets = pa.array(offsets_of(read.lengths).astype(np.int32))
    parts = (read.values,) if read.weights is None else (read.values, read.weights)
    return tuple(pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(part))) for part in parts)
