"""A row of a log with a candidate in the place of what was shown is a row that a model can score.

The features of an action (roles item and user_item) are the candidate's, all others the row's own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import Origin, Place, column_type, is_list
from shardrec.data_pipeline.features.feature_kinds import FeatureCross
from shardrec.data_pipeline.features.id_transforms import Cross, Identity
from shardrec.data_pipeline.features.ragged import Ragged, plain_lists
from shardrec.data_pipeline.features.schema import Schema
from shardrec.trainer.off_policy.choices import Choices, places_of
from shardrec.trainer.off_policy.log_fields import LogFields

ACTION_ROLES = ("item", "user_item")


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
        place, there = places_of(known, choices.actions)
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
