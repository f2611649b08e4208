"""Rows with histories ask whether a user's next item is this one, given the user's events before.

A row's positive is an event; its history are the user's earlier events, its negatives other items for the same history.
The last event of each user makes the test rows, the second last the validation rows, all from the second one on the
training rows (Zhou et al., KDD 2018, section 6.1). Negatives are drawn here, once, from the items of training events,
and never touch anything that the user has in any split.

Memory is that of the events and of one chunk of rows: a history is a range of its user's events until it is written.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.dense_transforms import Log
from shardrec.data_pipeline.features.feature_kinds import (
    DenseSequenceFeature,
    Feature,
    IdFeature,
    Role,
    SequenceFeature,
)
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.prepare.behaviour.candidates import Pool, note_unknown
from shardrec.data_pipeline.prepare.behaviour.events import HOURS, Events
from shardrec.data_pipeline.prepare.steps.option_values import Sampling
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report, Tally
from shardrec.data_pipeline.prepare.steps.progress import Progress, silent
from shardrec.data_pipeline.prepare.steps.splits import draw
from shardrec.data_pipeline.prepare.steps.table_rows import TableRows
from shardrec.data_pipeline.prepare.steps.writer import SCHEMA_FILE, SPLITS, RowsWriter, Split, staged

SAMPLINGS: tuple[Sampling, Sampling] = ("uniform", "popular")
HELD_OUT: dict[Split, int] = {"test": 1, "validation": 2}  # so many events before a user's end
SECONDS_OF_A_DAY = 24 * 3600
CHUNK_ELEMENTS = 1 << 22  # of histories that are laid out at a time


@dataclass(frozen=True)
class HistoryProtocol:
    """A protocol says how rows are made of events.

    max_length: so many of the latest events are a row's history; min_history: rows of fewer earlier events are left out
    negatives: rows of label 0 for each positive; sampling: all items alike, or as often as they occur in training
    history_negatives: beside every event of a history, an item that its user never had (uniform)
    keep_unknown: keeps held-out positives whose item no training event has, as row 0
    first_only: leaves out events with an item that their user had before
    ages: beside every event of a history, the days between it and the event that is asked for
    """

    max_length: int = 50
    min_history: int = 1
    negatives: int = 1
    sampling: Sampling = "uniform"
    history_negatives: bool = False
    keep_unknown: bool = False
    seed: int = 0
    first_only: bool = False
    ages: bool = False

    @property
    def other_sampling(self) -> Sampling:
        """Returns the sampling that the test rows are written with a second time."""
        return SAMPLINGS[1 - SAMPLINGS.index(self.sampling)]


class _Positives(NamedTuple):
    """These events are the positives of one folder of rows, in the order in which they are written."""

    folder: str
    events: np.ndarray
    sampling: Sampling


@dataclass(frozen=True, eq=False)
class HistoryRows:
    """History rows are those that a protocol makes of events."""

    events: Events
    protocol: HistoryProtocol

    @cached_property
    def training(self) -> np.ndarray:
        """Returns [events] bool: which are not held out. Users of fewer than three events have none held out."""
        events = self.events
        ends = (events.starts + events.counts)[events.counts > len(HELD_OUT)]
        kept = np.ones(len(events), bool)
        for back in HELD_OUT.values():
            kept[ends - back] = False
        return kept

    @cached_property
    def history_lengths(self) -> np.ndarray:
        """Returns [events] int64: how many earlier events the user of each has."""
        return np.arange(len(self.events)) - self.events.starts[self.events.users.codes]

    @cached_property
    def pools(self) -> dict[Sampling, Pool]:
        """Returns what negatives are drawn from: training events' items, each once, or as often as they occur."""
        users, items = self.events.users.codes, self.events.items.codes
        pool = Pool.of(users, items, len(self.events.items.values), items[self.training])
        return {"uniform": pool, "popular": pool._replace(items=items[self.training])}

    def positives(self, split: Split) -> tuple[np.ndarray, int]:
        """Returns the events that are a split's positives, and how many of unknown items there were.

        They are in the order of users, in training at random. Those of unknown items, which no training event has, are
        left out unless the protocol keeps them.
        """
        long_enough = self.history_lengths >= self.protocol.min_history
        if split == "train":
            events = np.flatnonzero(self.training & long_enough)
            random = draw("order", self.protocol.seed, [events.astype(np.uint64)])
            return events[np.argsort(random, kind="stable")], 0
        ends = (self.events.starts + self.events.counts)[self.events.counts > len(HELD_OUT)]
        events = ends - HELD_OUT[split]
        events = events[long_enough[events]]
        known = np.isin(self.events.items.codes[events], self.pools["uniform"].items)
        return events if self.protocol.keep_unknown else events[known], int((~known).sum())

    def negatives(self, positives: np.ndarray, sampling: Sampling) -> np.ndarray:
        """Returns [n, negatives] item codes for [n] events. Raises UserError for a user who has all training items."""
        each = self.protocol.negatives
        slots = np.tile(np.arange(each), len(positives))
        return self._draw(np.repeat(positives, each), slots, sampling, sampling).reshape(len(positives), each)

    def history_negatives(self, positives: np.ndarray, history: np.ndarray) -> np.ndarray:
        """Returns [T] item codes for [T] events of histories, each of the history of a positive [T].

        Raises as `negatives`.
        """
        return self._draw(positives, history, "history", "uniform")

    def _draw(self, positives: np.ndarray, words: np.ndarray, purpose: str, sampling: Sampling) -> np.ndarray:
        users = self.events.users
        try:
            return self.pools[sampling].draw_each(
                users.codes[positives], [positives, words], purpose, self.protocol.seed
            )
        except ValueError as error:
            user = users.values[int(users.codes[positives[error.args[0]]])].as_py()
            raise UserError(
                f"{self.events.source}: user {user!r} has all items that occur in training, so that no negative is "
                "left to draw; leave that user out"
            ) from None

    def ranges(self, positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the histories of [n] events, one after another: [T] events and [n + 1] offsets."""
        lengths = np.minimum(self.history_lengths[positives], self.protocol.max_length)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return np.arange(offsets[-1]) + np.repeat(positives - lengths - offsets[:-1], lengths), offsets


def prepare_histories(events: Events, protocol: HistoryProtocol, output: Output, progress: Progress = silent) -> Report:
    """Writes `train/`, `validation/`, `test/`, and the test rows with negatives of the other sampling beside them.

    Vocabularies are those of training events. Raises UserError where nothing is left to train on, and for ages of
    events without times.
    """
    if protocol.ages and events.seconds is None:
        raise UserError(f"{events.source}: ages of events need their times, and it has none; leave ages out")
    progress(f"read {events.source}: {events}")
    repeated = int(events.repeated.sum())
    if repeated and protocol.first_only:
        events = events.first_only()
        progress(f"kept the first of each user and item: {events}")
    rows = HistoryRows(events, protocol)
    positives_of, unknown = {}, {}
    for split in SPLITS:
        positives_of[split], missing = rows.positives(split)
        unknown[split] = (missing, len(positives_of[split]) + (0 if protocol.keep_unknown else missing))
    if not len(positives_of["train"]):
        raise UserError(
            f"{events.source}: no training rows: no user has more than {protocol.min_history} events beside the two "
            "held-out ones; check the input and --min-history"
        )
    other_folder = f"test_{protocol.other_sampling}"
    folders = [_Positives(split, positives_of[split], protocol.sampling) for split in SPLITS]
    folders.append(_Positives(other_folder, positives_of["test"], protocol.other_sampling))
    tally = Tally()
    with staged(output.folder, output.overwrite, [events.source]) as folder:
        tables = _tables(rows, folder)
        for positives in folders:
            written = _write(rows, positives, tables, folder, output)
            progress(f"wrote {written:,} rows of {positives.folder}")
            if positives.folder in SPLITS and written:
                tally.rows[positives.folder] = written
                tally.add_label("label", positives.folder, len(positives.events), written)
        schema = _schema(tables, rows)
        schema.save(folder / SCHEMA_FILE)
    fate = "kept, as row 0" if protocol.keep_unknown else "their rows are left out (--keep-unknown keeps them)"
    notes = [*note_unknown(unknown, fate), *_notes(rows, other_folder, len(positives_of["test"]))]
    if repeated:
        fate_of_repeats = (
            "left out" if protocol.first_only else "kept, but no negative is a repeat (--first-only leaves them out)"
        )
        notes.append(f"events with an item that their user had before: {repeated:,}, {fate_of_repeats}")
    return Report(Path(output.folder), schema, tally, notes=tuple(notes))


def _notes(rows: HistoryRows, other_folder: str, tested: int) -> list[str]:
    events, notes = rows.events, []
    whole = int((events.counts <= len(HELD_OUT)).sum())
    if whole:
        notes.append(f"users of fewer than {len(HELD_OUT) + 1} events, in train only: {whole:,}")
    if events.categories is not None:
        without = int((events.categories.codes < 0).sum())
        if without:
            notes.append(f"items without a category, the table's last row: {without:,} of {len(events.items.values):,}")
    if tested:
        notes.append(
            f"{other_folder}: the positives of test beside negatives drawn otherwise ({rows.protocol.other_sampling})"
        )
    return notes


def _tables(rows: HistoryRows, folder: Path) -> dict[str, TableRows]:
    """Writes the vocabularies of user, item and category, and returns each table's rows of codes."""
    events, training = rows.events, rows.training
    tables = {
        "user": TableRows.fit("user", folder, events.users.values, events.users.codes[training]),
        "item": TableRows.fit("item", folder, events.items.values, events.items.codes[training]),
    }
    if events.categories is not None:
        of_events = events.categories.codes[events.items.codes[training]]
        tables["category"] = TableRows.fit("category", folder, events.categories.values, of_events, missing=True)
    return tables


def _write(rows: HistoryRows, positives: _Positives, tables: dict[str, TableRows], folder: Path, output: Output) -> int:
    """Writes the rows of one folder, each positive and then its negatives, and returns their number."""
    each = 1 + rows.protocol.negatives
    most = min(output.row_group_rows, max(CHUNK_ELEMENTS // rows.protocol.max_length, 1))
    step = max(most // each, 1)
    with RowsWriter(folder / positives.folder, 0, output.row_group_rows, output.file_rows) as writer:
        for start in range(0, len(positives.events), step):
            writer.write(_chunk(rows, positives.events[start : start + step], positives.sampling, tables))
        return writer.rows


def _chunk(rows: HistoryRows, positives: np.ndarray, sampling: Sampling, tables: dict[str, TableRows]) -> pa.Table:
    events = rows.events
    items = np.concatenate([events.items.codes[positives, None], rows.negatives(positives, sampling)], axis=1)
    each, labels = items.shape[1], np.zeros(items.shape, np.int8)
    labels[:, 0] = 1
    past, offsets = rows.ranges(positives)
    sequences = {"item_history": events.items.codes[past]}
    if rows.protocol.history_negatives:
        owners = np.repeat(positives, np.diff(offsets))
        sequences["negative_item_history"] = rows.history_negatives(owners, past)
    columns = {
        "user": pa.array(tables["user"](np.repeat(events.users.codes[positives], each))),
        "item": pa.array(tables["item"](items.ravel())),
    }
    lists = {name: tables["item"](codes) for name, codes in sequences.items()}
    if events.categories is not None:
        of_items = events.categories.codes
        columns["category"] = pa.array(tables["category"](of_items[items.ravel()]))
        for name, codes in sequences.items():
            lists[name.replace("item", "category")] = tables["category"](of_items[codes])
    if events.hours is not None:
        columns["hour"] = pa.array(np.repeat(events.hours[positives], each))
        lists["hour_history"] = events.hours[past]
    if rows.protocol.ages:
        assert events.seconds is not None
        days = (np.repeat(events.seconds[positives], np.diff(offsets)) - events.seconds[past]) / SECONDS_OF_A_DAY
        lists["age_history"] = days.astype(np.float32)
    again, ends = pa.array(np.repeat(np.arange(len(positives)), each)), pa.array(offsets.astype(np.int32))
    for name, values in lists.items():
        columns[name] = pa.ListArray.from_arrays(ends, pa.array(values)).take(again)
    return pa.table(columns | {"label": pa.array(labels.ravel())})


def _schema(tables: dict[str, TableRows], rows: HistoryRows) -> Schema:
    ids = {table: table_rows.ids for table, table_rows in tables.items()}
    roles: dict[str, Role] = {"user": "user", "item": "item", "category": "item", "hour": "context"}
    if rows.events.hours is not None:
        ids["hour"] = Identity(num_ids=HOURS)
    features: list[Feature] = [IdFeature(name=name, role=roles[name], ids=of_table) for name, of_table in ids.items()]
    kept = [name for name in ids if name != "user"]
    prefixes = ("", "negative_") if rows.protocol.history_negatives else ("",)
    most = rows.protocol.max_length
    features += [
        SequenceFeature(
            name=f"{prefix}{name}_history", role="user", ids=ids[name], table=name, max_length=most, aligned="history"
        )
        for prefix in prefixes
        for name in kept
        if not (prefix and name == "hour")
    ]
    if rows.protocol.ages:
        features.append(
            DenseSequenceFeature(
                name="age_history", role="user", transforms=(Log(),), max_length=most, aligned="history"
            )
        )
    return Schema(features=tuple(features), group="user", keys=("user", "item"))
