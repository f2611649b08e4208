"""Logged bandit data are read in the layout of the Open Bandit Dataset (Saito et al. 2021): a campaign's CSV files.

A line is an item that was shown at a position, to a user, at a time, with the probability of that and whether it was
clicked. `item_context.csv` beside it has the items' features. The log is held in memory, about 60 bytes a line, and
written in the order of time; with candidates' affinities, 4 bytes more for each item of the campaign.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.errors import UserError, shortened
from shardrec.data_pipeline.features.arrow_values import Origin, Place
from shardrec.data_pipeline.features.feature_kinds import (
    DenseFeature,
    DenseSequenceFeature,
    Feature,
    IdFeature,
    SequenceFeature,
)
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Label, Schema
from shardrec.data_pipeline.prepare.behaviour.events import Coded
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report, Tally
from shardrec.data_pipeline.prepare.steps.progress import Progress, silent
from shardrec.data_pipeline.prepare.steps.source import Inputs, RawSource, compressed_too, plain_or_compressed
from shardrec.data_pipeline.prepare.steps.splits import FRACTIONS, HashSplit, RowNumbers
from shardrec.data_pipeline.prepare.steps.table_rows import TableRows
from shardrec.data_pipeline.prepare.steps.text import TextFile, TextFormat, no_null
from shardrec.data_pipeline.prepare.steps.writer import SCHEMA_FILE, SPLITS, RowsWriter, Split, staged

ITEM, POSITION, CLICK, TIME, PROPENSITY = "item_id", "position", "click", "timestamp", "propensity_score"
ITEM_CONTEXT = "item_context.csv"
PATTERNS = compressed_too("*.csv")
AFFINITY = "affinity"
CANDIDATES = "candidates"

_TIME_TYPE = pa.timestamp("us", "UTC")
_LARGEST_POSITION = 1000
_AFFINITY = re.compile(r"user-item_affinity_(\d+)")
_OF_USER = re.compile(r"user_feature_\d+")
_OF_ITEM = re.compile(r"item_feature_\d+")


@dataclass(frozen=True)
class BanditProtocol:
    """A protocol says how a log becomes rows.

    fractions: shares of the splits; by_time: the first rows are for training, the last for test; else by hash of the
        row's number in its file
    candidates: each row lists all items of the campaign with their features and affinities
    """

    fractions: dict[Split, float] | None = None
    by_time: bool = False
    seed: int = 0
    candidates: bool = False


@dataclass(frozen=True)
class _Items:
    """Items are those of a campaign, 0 to n - 1: their numbers ([n] float32) and categories ([n] strings) by column."""

    file: str
    numbers: dict[str, np.ndarray]
    categories: dict[str, pa.Array]
    count: int

    @classmethod
    def read(cls, path: str) -> "_Items":
        """Reads an item context. Raises UserError (file, line) for what is none: ids other than 0, 1, 2, ..."""
        names = TextFile(path, TextFormat(), {}).column_names()
        features = sorted((n for n in names if _OF_ITEM.fullmatch(n)), key=lambda n: int(n.rpartition("_")[2]))
        types = {ITEM: pa.int64(), **{n: pa.float64() if n == "item_feature_0" else pa.string() for n in features}}
        parts: list[pa.RecordBatch] = []
        count = 0
        for batch, origin in TextFile(path, TextFormat(), types).batches():
            for name in types:
                no_null(batch, name, origin)
            ids = batch.column(ITEM).to_numpy()
            wrong = np.flatnonzero(ids != count + np.arange(len(ids)))
            if len(wrong):
                at = int(wrong[0])
                raise Place(origin, ITEM).error(at, ids[at], f"{count + at}: items are 0, 1, 2, ... in order")
            parts.append(batch)
            count += len(ids)
        if not parts:
            raise UserError(f"{path}: has no rows")
        table = pa.Table.from_batches(parts).combine_chunks()
        columns = {name: table.column(name).chunk(0) for name in features}
        numbers = {n: c.to_numpy().astype(np.float32) for n, c in columns.items() if pa.types.is_floating(c.type)}
        for name, values in numbers.items():
            if not np.isfinite(values).all():
                raise UserError(f"{path}: column {name!r} has a value that is no finite number; correct it")
        return cls(path, numbers, {n: c for n, c in columns.items() if n not in numbers}, len(table))

    def check_same(self, other: "_Items") -> None:
        """Raises UserError where another campaign's items are not these."""
        if self.count != other.count:
            raise UserError(f"{other.file}: {other.count} items, but {self.file} has {self.count}; prepare each apart")
        columns = [(n, v.tolist(), other.numbers[n].tolist()) for n, v in self.numbers.items() if n in other.numbers]
        columns += [
            (n, v.to_pylist(), other.categories[n].to_pylist())
            for n, v in self.categories.items()
            if n in other.categories
        ]
        for name, first, second in columns:
            for item, (one, another) in enumerate(zip(first, second, strict=True)):
                if one != another:
                    raise UserError(
                        f"{other.file}: item {item} has {name} {shortened(another)!r}, but {shortened(one)!r} in "
                        f"{self.file}; logs that name categories otherwise cannot be one data set: prepare each apart"
                    )


def prepare_open_bandit(
    inputs: Inputs,
    output: Output,
    protocol: BanditProtocol | None = None,
    items: str | Path | None = None,
    progress: Progress = silent,
) -> Report:
    """Prepares the logs of one campaign; all rows are written in the order of time, as `time` of the schema says.

    items: the file of items' features; None: item_context.csv beside each log

    Raises UserError (file, line) for columns that are missing, and for a row with a probability that is none, a click
    other than 0 and 1, a time that cannot be read, and an item that the campaign has not.
    """
    protocol = protocol or BanditProtocol()
    files = [f for f in inputs.sources(_LogFile) if not Path(f.path).name.startswith(ITEM_CONTEXT)]
    if not files:
        raise UserError(f"{', '.join(map(str, inputs.train))}: no log beside {ITEM_CONTEXT}")
    campaign = _items_of(files, items)
    log, codes = _read(files, campaign, protocol)
    order = np.argsort(log.column("time").to_numpy(), kind="stable")
    moved = int((np.diff(order) < 0).sum())
    log, codes = log.take(pa.array(order)), codes[order]
    if protocol.by_time:
        codes = _by_time(codes, protocol)
    if not (codes == 0).any():
        raise UserError(f"{files[0].path}: no training rows; check the input and the split")
    progress(f"read {len(log):,} rows of {len(files)} files, {campaign.count} items")
    with staged(output.folder, output.overwrite, [*(f.path for f in files), campaign.file]) as folder:
        writer = _Writer(log, codes, campaign, folder, protocol)
        tally = Tally()
        for code, split in enumerate(SPLITS):
            tally.rows[split] = writer.write(split, np.flatnonzero(codes == code), output)
            clicks = log.column("click").to_numpy()[codes == code]
            tally.add_label(CLICK, split, float(clicks.sum()), len(clicks))
        schema = writer.schema()
        schema.save(folder / SCHEMA_FILE)
    note = (f"rows that were not in the order of time: written in it ({moved} breaks in the input)",) if moved else ()
    return Report(Path(output.folder), schema, tally, notes=note)


@dataclass
class _LogFile(RawSource):
    """A log file is one CSV of a campaign's log."""

    path: str
    split: Split | None = None

    def text(self) -> tuple[TextFile, tuple[str, ...], tuple[str, ...]]:
        """Returns the file with its columns, its users' features, and its items' affinities by item.

        Raises UserError (file, line) for affinities that are not of items 0, 1, 2, ...
        """
        names = TextFile(self.path, TextFormat(), {}).column_names()
        of_user = tuple(sorted((n for n in names if _OF_USER.fullmatch(n)), key=lambda n: int(n.rpartition("_")[2])))
        numbers = sorted(int(match[1]) for n in names if (match := _AFFINITY.fullmatch(n)))
        if numbers != list(range(len(numbers))) or not numbers:
            expected = "user-item_affinity_0, _1, _2, ..., one for each item"
            raise UserError(f"{self.path}, line 1: found {len(numbers)} columns of affinities, expected {expected}")
        affinities = tuple(f"user-item_affinity_{i}" for i in numbers)
        types: dict[str, pa.DataType] = {name: pa.int64() for name in (ITEM, POSITION, CLICK)}
        types |= {PROPENSITY: pa.float64(), TIME: pa.string()}
        types |= dict.fromkeys(of_user, pa.string()) | dict.fromkeys(affinities, pa.float64())
        return TextFile(self.path, TextFormat(), types), of_user, affinities

    def batches(self, columns: Iterable[str] | None = None) -> Iterator[tuple[pa.RecordBatch, Origin]]:
        """Yields the file's rows in order."""
        return self.text()[0].batches(columns)


def _items_of(files: Sequence[_LogFile], given: str | Path | None) -> _Items:
    """Returns the campaign's items. Raises UserError where there are none beside a log, or others."""
    paths = [str(given)] if given is not None else []
    for folder in () if paths else dict.fromkeys(Path(f.path).parent for f in files):
        path = plain_or_compressed(folder, ITEM_CONTEXT)
        if path is None:
            raise UserError(f"{folder}: no {ITEM_CONTEXT} in this folder; put it beside the log, or name it by --items")
        paths.append(path)
    first, *others = map(_Items.read, paths)
    for other in others:
        first.check_same(other)
    return first


def _read(files: Sequence[_LogFile], items: _Items, protocol: BanditProtocol) -> tuple[pa.Table, np.ndarray]:
    """Returns all rows as read, and [n] int8 places in SPLITS."""
    split = HashSplit(seed=protocol.seed, fractions=protocol.fractions or FRACTIONS)
    parts, codes, known = [], [], None
    for part, file in enumerate(files):
        text, of_user, affinities = file.text()
        if len(affinities) != items.count:
            raise UserError(
                f"{file.path}, line 1: found {len(affinities)} columns of affinities, expected {items.count}, one for "
                f"each item of {items.file}"
            )
        if known not in (None, of_user):
            raise UserError(f"{file.path}, line 1: found columns {', '.join(of_user)}, expected {', '.join(known)}")
        known, first = of_user, 0
        for batch, origin in text.batches():
            parts.append(_checked(batch, origin, items.count, of_user, affinities, keep=protocol.candidates))
            if file.split is None:
                codes.append(split.codes(batch, RowNumbers(part, first, batch.num_rows), origin))
            else:
                codes.append(np.full(batch.num_rows, SPLITS.index(file.split), np.int8))
            first += batch.num_rows
    if not parts:
        raise UserError(f"{files[0].path}: has no rows")
    return pa.concat_tables(parts).combine_chunks(), np.concatenate(codes)


def _checked(
    batch: pa.RecordBatch, origin: Origin, items: int, of_user: Sequence[str], affinities: Sequence[str], *, keep: bool
) -> pa.Table:
    """Returns a batch's rows as they are held. Raises UserError (file, line) for the first bad value of a column."""
    for name in batch.schema.names:
        no_null(batch, name, origin)
    shown = _within(batch, ITEM, 0, items - 1, f"an item of the campaign, 0 to {items - 1}", origin)
    position = _within(batch, POSITION, 0, _LARGEST_POSITION, f"a position from 0 to {_LARGEST_POSITION}", origin)
    click = _within(batch, CLICK, 0, 1, "0 or 1", origin)
    propensity = batch.column(PROPENSITY).to_numpy()
    _check(~((propensity > 0) & (propensity <= 1)), propensity, PROPENSITY, "a probability above 0, at most 1", origin)
    matrix = np.empty((batch.num_rows, items), np.float32)
    for i, name in enumerate(affinities):
        matrix[:, i] = values = batch.column(name).to_numpy()
        _check(~(np.abs(values) < 1e15), values, name, "a finite number", origin)
    columns = {
        "time": _times(batch.column(TIME), Place(origin, TIME)),
        ITEM: shown.astype(np.int32),
        POSITION: position.astype(np.int32),
        CLICK: click.astype(np.float32),
        "propensity": propensity,
        AFFINITY: matrix[np.arange(len(matrix)), shown],
        **{name: batch.column(name).dictionary_encode() for name in of_user},
    }
    if keep:
        columns[f"{CANDIDATES}_{AFFINITY}"] = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), items)
    return pa.table(columns)


def _within(batch: pa.RecordBatch, name: str, least: int, most: int, expected: str, origin: Origin) -> np.ndarray:
    values: np.ndarray = batch.column(name).to_numpy()
    _check((values < least) | (values > most), values, name, expected, origin)
    return values


def _check(wrong: np.ndarray, values: np.ndarray, name: str, expected: str, origin: Origin) -> None:
    if wrong.any():
        at = int(wrong.argmax())
        raise Place(origin, name).error(at, values[at], expected)


def _times(values: pa.Array, place: Place) -> pa.Array:
    """Returns times of ISO 8601 with their offset from UTC. Raises UserError for the first that is none."""
    try:
        return values.cast(_TIME_TYPE)
    except pa.ArrowInvalid:
        for at, value in enumerate(values):
            try:
                value.cast(_TIME_TYPE)
            except pa.ArrowInvalid:
                expected = "a time with its offset, such as 2019-11-24 00:00:17.004101+00:00"
                raise place.error(at, repr(shortened(value.as_py())), expected) from None
        raise


def _by_time(codes: np.ndarray, protocol: BanditProtocol) -> np.ndarray:
    """Returns the places in SPLITS of rows in the order of time."""
    ends = np.round(HashSplit(fractions=protocol.fractions or FRACTIONS).ends() * len(codes))
    return np.searchsorted(ends, np.arange(len(codes)), side="right").astype(np.int8)


class _Writer:
    """A writer writes splits of a log in the order of time, and the schema beside them."""

    def __init__(self, log: pa.Table, codes: np.ndarray, items: _Items, folder: Path, protocol: BanditProtocol) -> None:
        """Writes the vocabularies, those of users' features by training rows, of items' by all items."""
        self._log, self._items, self._folder, self._protocol = log, items, folder, protocol
        self._positions = int(log.column(POSITION).to_numpy().max()) + 1
        training = codes == 0
        self._user: dict[str, tuple[np.ndarray, Identity]] = {}
        for name in (n for n in log.column_names if _OF_USER.fullmatch(n)):
            coded = Coded.of(log.column(name).chunks)
            rows = TableRows.fit(name, folder, coded.values, coded.codes[training])
            self._user[name] = (rows(coded.codes), rows.ids)
        self._item: dict[str, tuple[np.ndarray, Identity]] = {}
        for name, values in items.categories.items():
            coded = Coded.of([values])
            rows = TableRows.fit(name, folder, coded.values, coded.codes)
            self._item[name] = (rows(coded.codes), rows.ids)

    def write(self, split: Split, rows: np.ndarray, output: Output) -> int:
        """Writes the rows of these numbers and returns how many there are."""
        with RowsWriter(self._folder / split, 0, output.row_group_rows, output.file_rows) as writer:
            for start in range(0, len(rows), output.row_group_rows):
                writer.write(self._table(rows[start : start + output.row_group_rows]))
            return writer.rows

    def _table(self, rows: np.ndarray) -> pa.Table:
        taken = self._log.take(pa.array(rows))
        shown = taken.column(ITEM).to_numpy()
        columns: dict[str, pa.Array] = {
            **{name: pa.array(values[rows]) for name, (values, _) in self._user.items()},
            **{name: taken.column(name) for name in (POSITION, ITEM)},
            **{name: pa.array(values[shown]) for name, values in self._items.numbers.items()},
            **{name: pa.array(values[shown]) for name, (values, _) in self._item.items()},
            AFFINITY: taken.column(AFFINITY),
        }
        if self._protocol.candidates:
            of_each = {ITEM: np.arange(self._items.count, dtype=np.int32), **self._items.numbers}
            of_each |= {name: values for name, (values, _) in self._item.items()}
            columns |= {_listed(name): _repeated(values, len(rows)) for name, values in of_each.items()}
            affinities = taken.column(_listed(AFFINITY)).combine_chunks()
            columns[_listed(AFFINITY)] = affinities.cast(pa.list_(pa.float32()))
        columns |= {name: taken.column(name) for name in (CLICK, "propensity", "time")}
        return pa.table(columns)

    def schema(self) -> Schema:
        """Returns the schema of the rows."""
        items = self._items
        of_item: list[IdFeature | DenseFeature] = [
            IdFeature(name=ITEM, role="item", ids=Identity(num_ids=items.count)),
            *(DenseFeature(name=name, role="item") for name in items.numbers),
            *(IdFeature(name=name, role="item", ids=ids) for name, (_, ids) in self._item.items()),
            DenseFeature(name=AFFINITY, role="user_item"),
        ]
        features: list[Feature] = [
            *(IdFeature(name=name, role="user", ids=ids) for name, (_, ids) in self._user.items()),
            IdFeature(name=POSITION, role="context", ids=Identity(num_ids=self._positions)),
            *of_item,
        ]
        if self._protocol.candidates:
            features += [_candidates_of(f, items.count) for f in of_item]
        return Schema(features=tuple(features), labels=(Label(name=CLICK),), propensity="propensity", time="time")


def _listed(name: str) -> str:
    return CANDIDATES if name == ITEM else f"{CANDIDATES}_{name}"


def _candidates_of(f: IdFeature | DenseFeature, count: int) -> SequenceFeature | DenseSequenceFeature:
    if isinstance(f, DenseFeature):
        return DenseSequenceFeature(
            name=_listed(f.name), place="candidate", of=f.name, max_length=count, aligned=CANDIDATES
        )
    return SequenceFeature(
        name=_listed(f.name),
        place="candidate",
        of=f.name,
        ids=f.ids,
        table=f.table_name,
        max_length=count,
        aligned=CANDIDATES,
    )


def _repeated(values: np.ndarray, rows: int) -> pa.ListArray:
    """Returns the same list in every row."""
    offsets = np.arange(rows + 1, dtype=np.int32) * len(values)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.tile(values, rows)))
