"""A log is read chunk by chunk, and every row is checked: its propensity, its action, its reward, its place in time."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import (
    Origin,
    Place,
    as_type,
    column_type,
    expect_type,
    floats,
    is_number,
    plain_type,
)
from shardrec.data_pipeline.features.transforms import FeatureReader, GroupReader, LabelReader
from shardrec.data_pipeline.reading.column_types import check_read_alike
from shardrec.data_pipeline.reading.index import DataSet
from shardrec.data_pipeline.reading.parquet import Chunk, RangeReader
from shardrec.data_pipeline.reading.time_order import TimeOrder
from shardrec.trainer.off_policy.intervals import Floats
from shardrec.trainer.off_policy.log_fields import LogFields

CHUNK_ROWS = 1 << 14
_WHOLE_ROWS = 1 << 18
_FOOTERS = 64 << 20
_PROBABILITY = "a probability above 0 and at most 1"
_LEAST = 1e-30  # what is drawn more rarely is never drawn; squares of weights stay finite


class Logged(NamedTuple):
    """A log's rows are held as [n] arrays: rewards, propensities, and table rows of actions and of positions.

    position: all 0 where the log has none; group: codes 0, 1, ...; None: rows have none
    """

    reward: Floats
    propensity: Floats
    action: NDArray[np.int64]
    position: NDArray[np.int64]
    group: NDArray[np.int64] | None


class LogReader:
    """A log reader reads what `LogFields` name of a chunk's rows.

    columns: the Parquet columns that it needs
    """

    def __init__(self, fields: LogFields) -> None:
        """Opens vocabularies. Raises UserError for a missing or damaged one."""
        self._action = FeatureReader(fields.action, fields.folder)
        self._position = None if fields.position is None else FeatureReader(fields.position, fields.folder)
        self._reward = LabelReader(fields.reward)
        self._group = GroupReader(fields.schema.group) if fields.schema.group else None
        self._propensity = fields.propensity
        self._time = TimeOrder(fields.schema.time, "sort the log") if fields.schema.time else None
        readers = (self._action, self._position, self._reward, self._group, self._time)
        self._readers = [reader for reader in readers if reader is not None]
        columns = [column for reader in self._readers for column in reader.columns]
        self.columns = tuple(dict.fromkeys((*columns, self._propensity)))

    def check(self, schema: pa.Schema, file: str) -> None:
        """Raises UserError for a column that is missing or of a wrong type."""
        for reader in self._readers:
            reader.check(schema, file)
        kind = plain_type(column_type(schema, file, self._propensity, "the propensity"))
        right = is_number(kind) and not pa.types.is_boolean(kind)
        expect_type(right, file, self._propensity, kind, "numbers", "the propensity")

    def __call__(self, batch: pa.RecordBatch, origin: Origin) -> Logged:
        """Reads a chunk's rows. Raises UserError for the first row that has no probability, reward or action."""
        at = np.zeros(batch.num_rows, np.int64) if self._position is None else self._position(batch, origin).values
        return Logged(
            self._reward(batch, origin).values.astype(np.float64),
            _probabilities(batch.column(self._propensity), Place(origin, self._propensity)),
            self._action(batch, origin).values.astype(np.int64),
            at.astype(np.int64),
            None if self._group is None else self._group(batch, origin).values,
        )

    def check_order(self, chunk: Chunk) -> None:
        """Raises UserError for a row before the one above it; chunks of one path are given in turn."""
        if self._time is not None:
            self._time(chunk.batch, origin_of(chunk), chunk.place)


def _probabilities(values: pa.Array, place: Place) -> Floats:
    numbers = floats(as_type(values, pa.float64())).astype(np.float64)
    wrong = np.flatnonzero(~((numbers > 0) & (numbers <= 1)))  # NaN is wrong
    if len(wrong):
        at = int(wrong[0])
        raise place.error(at, numbers[at] if values[at].is_valid else "null", _PROBABILITY)
    if len(numbers) and numbers.min() < _LEAST:
        at = int(numbers.argmin())
        raise place.error(at, numbers[at], f"a probability with which anything is ever shown, {_LEAST:g} or more")
    return numbers


def log_chunks(
    paths: Sequence[str], reader: LogReader, columns: Sequence[str] = (), rows: int = CHUNK_ROWS
) -> Iterator[tuple[Chunk, bool]]:
    """Yields a log's chunks of at most `rows` rows, and whether each is the first one of its path.

    columns: to be read beside the reader's. Raises UserError for files that cannot be read or lack a column.
    """
    wanted = tuple(dict.fromkeys((*reader.columns, *columns)))
    for path in paths:
        index = DataSet.open(path).index
        for schema, file in index.schemas:
            reader.check(schema, file)
            for column in columns:
                column_type(schema, file, column, "the evaluation")
        check_read_alike(wanted, index.schemas)
        ranges = RangeReader(
            index, wanted, chunk_rows=rows, whole_rows=_WHOLE_ROWS, footer_memory=_FOOTERS, on_decoded=lambda _: None
        )
        for number, chunk in enumerate(ranges.read(0, index.num_rows)):
            yield chunk, number == 0


def origin_of(chunk: Chunk) -> Origin:
    """Returns where a chunk's rows are, for error lines."""
    return Origin(chunk.where, chunk.first_row)


def read_log(paths: Sequence[str], fields: LogFields, catalogue: "Catalogue | None" = None) -> Logged:
    """Reads and checks all rows of a log; each path is to be in order of time of its own.

    catalogue: takes up what the rows say of their actions. Raises UserError for the first bad row, and for a log
    without any.
    """
    reader, parts = LogReader(fields), []
    for chunk, _ in log_chunks(paths, reader, () if catalogue is None else catalogue.columns):
        reader.check_order(chunk)
        logged = reader(chunk.batch, origin_of(chunk))
        if catalogue is not None:
            catalogue.add(chunk.batch, logged.action)
        parts.append(logged)
    if not sum(len(part.reward) for part in parts):
        raise UserError(f"{', '.join(paths)}: has no rows")
    reward, propensity, action, position = (
        np.concatenate([part[i] for part in parts]) for i in range(len(Logged._fields) - 1)
    )
    groups = [part.group for part in parts if part.group is not None]
    group = np.unique(np.concatenate(groups), return_inverse=True)[1] if groups else None
    return Logged(reward, propensity, action, position, group)


class Catalogue:
    """A catalogue holds what a log says of each action, in the first row that shows it.

    columns: those that it holds; actions: their table rows, ascending, once it is `complete`
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self.actions = np.zeros(0, np.int64)
        self._rows: list[pa.Table] = []
        self._known: list[NDArray[np.int64]] = []

    def add(self, batch: pa.RecordBatch, actions: NDArray[np.int64]) -> None:
        """Takes up those actions of a chunk's rows that are new."""
        values, first = np.unique(actions, return_index=True)
        new = ~np.isin(values, self.actions)
        if new.any():
            rows = pa.Table.from_batches([batch]).select(list(self.columns))
            self._rows.append(rows.take(pa.array(first[new])))
            self._known.append(values[new])
            self.actions = np.union1d(self.actions, values[new])

    def complete(self) -> pa.Table:
        """Returns a row for each of `actions`, in their order."""
        order = np.argsort(np.concatenate(self._known))
        return pa.concat_tables(self._rows).combine_chunks().take(pa.array(order))
