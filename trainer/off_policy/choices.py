"""Choices are what each row of a log could have shown: its candidates, or else all actions that the log shows."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import Origin, Place, column_type, expect_type, is_list, is_null
from shardrec.data_pipeline.features.feature_kinds import IdFeature
from shardrec.data_pipeline.features.ragged import Ragged, plain_lists
from shardrec.data_pipeline.features.transforms import FeatureReader
from shardrec.data_pipeline.reading.parquet import Chunk
from shardrec.trainer.off_policy.intervals import Floats
from shardrec.trainer.off_policy.log_fields import LogFields
from shardrec.trainer.off_policy.logged import CHUNK_ROWS, Logged, LogReader, log_chunks, origin_of

CHOICES_AT_ONCE = 1 << 20


class Choices(NamedTuple):
    """Choices are the candidates of n rows, none of which is without any.

    offsets: [n + 1] int64, where each row's candidates lie; actions: [T] int64; positions: [n] int64
    scores: [T] float64, of a trained model; None: there is none
    """

    offsets: NDArray[np.int64]
    actions: NDArray[np.int64]
    positions: NDArray[np.int64]
    scores: Floats | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Returns [n]: how many candidates each row has."""
        return np.diff(self.offsets)

    def sums(self, values: Floats) -> Floats:
        """Returns the sum over each row's candidates: [T] -> [n]."""
        summed: Floats = np.add.reduceat(values, self.offsets[:-1])
        return summed

    def shared(self, mass: Floats) -> Floats:
        """Returns the masses by the sum of their row's: [T] -> [T]."""
        return mass / np.repeat(self.sums(mass), self.lengths)


class Candidates:
    """Candidates are read from the columns of place `candidate`, or are all `actions` of the log, ascending.

    columns: the Parquet columns that they need
    """

    def __init__(self, fields: LogFields, actions: NDArray[np.int64]) -> None:
        """Opens vocabularies. Raises UserError where candidates have features, but not the action's own."""
        self.fields, self.actions = fields, actions
        self._reader: FeatureReader | None = None
        self.columns: tuple[str, ...] = ()
        if not fields.candidates:
            return
        name = fields.candidates.get(fields.action.name)
        if name is None:
            raise UserError(
                f"the schema has candidates' {', '.join(fields.candidates)} but not their {fields.action.name}, the "
                f"action; add a feature with place: candidate and of: {fields.action.name}, or name another --action"
            )
        listed = fields.schema[name]
        single = {key: getattr(listed, key) for key in ("name", "column", "ids", "missing", "table")}
        self._reader = FeatureReader(IdFeature(**single), fields.folder)
        self.columns = self._reader.columns

    def check(self, schema: pa.Schema, file: str) -> None:
        """Raises UserError for a column of candidates that is not of lists of ids."""
        if self._reader is None:
            return
        column = self.columns[0]
        kind = column_type(schema, file, column, "the candidates")
        if not is_null(kind):
            expect_type(is_list(kind), file, column, kind, "lists", f"feature {column!r} (candidates)")
            self._reader.check(pa.schema([(column, kind.value_type)]), file)

    def __call__(self, batch: pa.RecordBatch, origin: Origin, shown: NDArray[np.int64]) -> Choices:
        """Returns the candidates of a chunk's rows, which showed the actions `shown`; positions are left 0.

        Raises UserError for a row without candidates, or with others only than what it shows.
        """
        positions = np.zeros(len(shown), np.int64)
        if self._reader is None:
            offsets = np.arange(len(shown) + 1) * len(self.actions)
            return Choices(offsets, np.tile(self.actions, len(shown)), positions)
        column = self.columns[0]
        place = Place(origin, column)
        lists = plain_lists(batch.column(column))
        rows = Ragged.of(lists)
        if (rows.lengths == 0).any():
            expected = "at least the action that the row shows"
            raise place.error(int((rows.lengths == 0).argmax()), "no candidates", expected)
        flat = pa.RecordBatch.from_pydict({column: rows.flat(lists.values)})
        elements = Origin(origin.file, number_of=lambda at: origin.first + rows.row_of(at))
        choices = Choices(
            np.concatenate([[0], np.cumsum(rows.lengths)]), self._reader(flat, elements).values, positions
        )
        there = np.logical_or.reduceat(choices.actions == np.repeat(shown, choices.lengths), choices.offsets[:-1])
        if not there.all():
            at = int(there.argmin())
            value = batch.column(self.fields.action.columns[0])[at].as_py()
            raise place.error(at, f"{rows.lengths[at]} candidates without {value!r}", "the row's action among them")
        return choices


def each_choice(
    paths: Sequence[str],
    candidates: Candidates,
    columns: Sequence[str] = (),
    check: Callable[[pa.Schema, str], None] = lambda schema, file: None,
) -> Iterator[tuple[Chunk, Choices, Logged]]:
    """Yields each chunk of a log with its candidates and what was shown."""
    reader = LogReader(candidates.fields)
    rows = CHUNK_ROWS
    if not candidates.columns:
        rows = max(1, min(rows, CHOICES_AT_ONCE // len(candidates.actions)))
    for chunk, begins in log_chunks(paths, reader, (*candidates.columns, *columns), rows):
        if begins:
            candidates.check(chunk.batch.schema, chunk.where)
            check(chunk.batch.schema, chunk.where)
        logged = reader(chunk.batch, origin_of(chunk))
        yield chunk, candidates(chunk.batch, origin_of(chunk), logged.action), logged


def places_of(known: NDArray[np.int64], values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns the places of values among ascending known ones, and whether they are there."""
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return places, known[places] == values
