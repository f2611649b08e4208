"""Choices are what each row of a log could have shown: its candidates, or else all actions that the log shows.

A row with a candidate in the place of what was shown is a row that a model can score: the features of an action (roles
item and user_item) are the candidate's, all others the row's own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import Origin, Place, column_type, is_list
from shardrec.data_pipeline.features.feature_kinds import FeatureCross, IdFeature
from shardrec.data_pipeline.features.id_transforms import Cross, Identity
from shardrec.data_pipeline.features.ragged import Ragged, plain_lists
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.features.transforms import FeatureReader
from shardrec.data_pipeline.reading.parquet import Chunk
from shardrec.trainer.off_policy.log_fields import LogFields
from shardrec.trainer.off_policy.logged import CHUNK_ROWS, Logged, LogReader, log_chunks, origin_of
from shardrec.trainer.off_policy.target_policies import Choices, found

ACTION_ROLES = ("item", "user_item")
CHOICES_AT_ONCE = 1 << 20


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


class Source(NamedTuple):
    """A source says where a candidate's value of an action's column comes from.

    listed: the column of lists that has it; None: the log's first row of that action; feature: whose column it is
    """

    listed: str | None
    feature: str
    of_pair: bool


@dataclass(frozen=True)
class ScorableRows:
    """Scorable rows are those of a log with each candidate in turn, in the columns that a model reads.

    read: the features that the model reads; columns: their Parquet columns
    """

    fields: LogFields
    read: Schema
    columns: tuple[str, ...]

    @cached_property
    def sources(self) -> Mapping[str, Source]:
        """Returns where the columns of actions come from. Raises UserError for one that nothing in the log tells."""
        schema, listed = self.fields.schema, self.fields.candidates
        sources: dict[str, Source] = {}
        features = [*_with_crossed(self.read.features), *schema.features]
        for f in features:
            if f.place != "now" or f.role not in ACTION_ROLES:
                continue
            beside = schema[listed[f.name]].columns[0] if f.name in listed else None
            for column in f.columns:
                sources.setdefault(column, Source(beside, f.name, f.role == "user_item"))
        needed = {column: sources[column] for column in self.columns if column in sources}
        for column, source in needed.items():
            if source.of_pair and source.listed is None:
                raise UserError(
                    f"feature {source.feature!r} (column {column!r}) is of user and item together, and the log has it "
                    "of what was shown alone; give the candidates a feature `place: candidate, of: "
                    f"{source.feature}`, or train a model without it"
                )
        if not needed:
            raise UserError(
                "the model reads no feature of role item or user_item, so that it scores all candidates alike; give "
                "the schema's features their roles"
            )
        self._check_crosses(features)
        return needed

    def _check_crosses(self, features: Sequence[Any]) -> None:
        """Raises UserError for a cross with the action that preparation made: that of a candidate is not known."""
        raw = {
            getattr(getattr(f, "ids", None), "prepared_column", None) or f.columns[0]
            for f in features
            if f.place == "now" and f.role in ACTION_ROLES
        }
        for f in self.read.sparse:
            made = f.ids.prepared if isinstance(f.ids, Identity) else None
            if isinstance(made, Cross) and f.role not in ACTION_ROLES and raw.intersection(made.columns):
                raise UserError(
                    f"feature {f.name!r} was crossed with the action at preparation, so that of another action it is "
                    "not known; cross them in the run file (data.crosses), or train a model without it"
                )

    @property
    def carried(self) -> tuple[str, ...]:
        """Returns the columns of actions that only the log's own rows of an action tell."""
        return tuple(column for column, source in self.sources.items() if source.listed is None)

    @property
    def needed(self) -> tuple[str, ...]:
        """Returns the columns of a log that are read to make the rows."""
        listed = (source.listed for source in self.sources.values() if source.listed is not None)
        own = (column for column in self.columns if column not in self.sources)
        return tuple(dict.fromkeys((*own, *listed, *self.sources)))

    def check(self, schema: pa.Schema, file: str) -> None:
        """Raises UserError for a column of candidates that is not of lists."""
        for source in self.sources.values():
            if source.listed and not is_list(column_type(schema, file, source.listed, "the candidates")):
                raise UserError(f"{file}: column {source.listed!r} is no list, but candidates are; change the log")

    def rows(
        self, batch: pa.RecordBatch, origin: Origin, choices: Choices, catalogue: tuple[NDArray[np.int64], pa.Table]
    ) -> pa.Table:
        """Returns a row for each candidate of each of a chunk's rows.

        catalogue: actions, ascending, and the `carried` columns of each. Raises UserError for lists that are not as
        long as the row's candidates, and for a candidate of which the catalogue has nothing.
        """
        parent = pa.array(np.repeat(np.arange(batch.num_rows), choices.lengths))
        place = None
        if self.carried:
            place = self._places(origin, choices, catalogue[0])
        made: dict[str, pa.Array] = {}
        for column in self.columns:
            source = self.sources.get(column)
            if source is None:
                made[column] = batch.column(column).take(parent)
            elif source.listed is None:
                made[column] = catalogue[1].column(column).take(pa.array(place))
            else:
                made[column] = self._flat(batch, origin, choices, column, source.listed)
        return pa.table(made)

    def _places(self, origin: Origin, choices: Choices, known: NDArray[np.int64]) -> NDArray[np.int64]:
        place, there = found(known, choices.actions)
        if not there.all():
            at = int(there.argmin())
            row = int(np.searchsorted(choices.offsets, at, side="right")) - 1
            feature = self.sources[self.carried[0]].feature
            raise UserError(
                f"{origin.row(row)}: a candidate is never shown in the log, so that its {feature!r} is not known; give "
                f"the candidates a feature `place: candidate, of: {feature}`"
            )
        return place

    def _flat(self, batch: pa.RecordBatch, origin: Origin, choices: Choices, column: str, listed: str) -> pa.Array:
        lists = plain_lists(batch.column(listed))
        rows = Ragged.of(lists)
        differ = np.flatnonzero(rows.lengths != choices.lengths)
        if len(differ):
            at = differ[0]
            expected = f"as many as the row has candidates: {choices.lengths[at]}"
            raise Place(origin, listed).error(at, f"{rows.lengths[at]} values", expected)
        try:
            return rows.flat(lists.values).cast(batch.column(column).type)
        except pa.ArrowException as error:
            problem = f"its values cannot be read as those of {column!r} ({str(error).splitlines()[0]})"
            raise UserError(f"{origin.file}: column {listed!r}: {problem}; give both one type") from None


def _with_crossed(features: Sequence[Any]) -> Iterator[Any]:
    """Yields features and those that they cross."""
    for f in features:
        yield f
        if isinstance(getattr(f, "ids", None), FeatureCross):
            yield from _with_crossed(f.ids.features)


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
            check(chunk.batch.schema, chunk.where)
        logged = reader(chunk.batch, origin_of(chunk))
        yield chunk, candidates(chunk.batch, origin_of(chunk), logged.action), logged
