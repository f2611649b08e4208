"""Pairs of users and items in files of their own for training, validation and test become rows for retrieval.

Either lines `user item item ...`, the layout of LightGCN's data (He et al., SIGIR 2020), or a delimited file with a
pair a line. Every training row is a positive; its history is the user's other training items, and that of a held-out
row is all of them. Or histories are ordered: a row has what was before it, of its split and of those before that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import Place
from shardrec.data_pipeline.features.feature_kinds import Feature, IdFeature, SequenceFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.features.transforms import LARGEST_NUMBER
from shardrec.data_pipeline.prepare.behaviour.candidates import shuffled
from shardrec.data_pipeline.prepare.behaviour.events import Coded
from shardrec.data_pipeline.prepare.importers.implicit import LogColumns
from shardrec.data_pipeline.prepare.steps.lines import line_blocks
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report, Tally
from shardrec.data_pipeline.prepare.steps.progress import Progress, silent
from shardrec.data_pipeline.prepare.steps.source import Inputs
from shardrec.data_pipeline.prepare.steps.table_rows import TableRows
from shardrec.data_pipeline.prepare.steps.text import TextFile, TextFormat, no_null
from shardrec.data_pipeline.prepare.steps.word_lines import pairs_in
from shardrec.data_pipeline.prepare.steps.writer import SCHEMA_FILE, SPLITS, RowsWriter, Split, staged

CHUNK_ELEMENTS = 1 << 22  # of histories that are laid out at a time


@dataclass(frozen=True)
class PairForm:
    """A form says how files of pairs are written: delimited, or as lines of words where it has no `text`.

    columns: of a delimited file; weight: a column of sample weights
    """

    text: TextFormat | None = None
    columns: LogColumns = field(default_factory=lambda: LogColumns("user", "item"))
    weight: str | None = None

    @property
    def types(self) -> dict[str, pa.DataType]:
        """Returns the types that a delimited file's columns are read as."""
        return self.columns.types | ({} if self.weight is None else {self.weight: pa.float64()})


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs are those of all files, each once in its split, in the order of files and times.

    splits: [n] int8, places in `SPLITS`; repeated: lines whose pair their split has already
    """

    source: str
    users: Coded
    items: Coded
    splits: np.ndarray
    weights: np.ndarray | None
    repeated: int

    def of(self, split: Split) -> np.ndarray:
        """Returns the places of a split's pairs."""
        return np.flatnonzero(self.splits == SPLITS.index(split))


class Histories(NamedTuple):
    """Histories are taken from the items of some pairs by user, each user's in order.

    users: [n] of all pairs; items: [T]; bounds: [users + 1] where each user's begin; places: [n] of each pair there, -1
    of those that are not among them; most: so many items are a history; ordered: the latest before the pair, else the
    latest but for its own
    """

    users: np.ndarray
    items: np.ndarray
    bounds: np.ndarray
    places: np.ndarray
    most: int
    ordered: bool

    @classmethod
    def of(cls, pairs: Pairs, split: Split, most: int, *, ordered: bool) -> "Histories":
        """Returns what a split's rows have histories of: training items, or `ordered` those up to the split."""
        last = SPLITS.index(split if ordered else "train")
        known = np.flatnonzero(pairs.splits <= last)
        users = pairs.users.codes[known]
        by_user = known[np.argsort(users, kind="stable")]
        bounds = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=len(pairs.users.values)))])
        places = np.full(len(pairs.splits), -1)
        places[by_user] = np.arange(len(known))
        return cls(pairs.users.codes, pairs.items.codes[by_user], bounds, places, most, ordered)

    def __call__(self, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the histories of [n] pairs, one after another: [T] items and [n + 1] offsets."""
        users, own = self.users[pairs], self.places[pairs]
        if self.ordered:
            stop, skips = own, np.zeros(len(pairs), bool)
        else:
            stop, skips = self.bounds[users + 1], own >= 0
        first = np.maximum(stop - self.most - skips, self.bounds[users])
        lengths = stop - first - skips
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        at = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], lengths)
        skipped = np.where(skips, np.maximum(own, first), len(self.items))  # where it is too far back, the first goes
        return self.items[at + (at >= np.repeat(skipped, lengths))], offsets


def prepare_pairs(
    inputs: Inputs,
    form: PairForm,
    output: Output,
    max_length: int = 50,
    train_with_validation: bool = False,
    seed: int = 0,
    progress: Progress = silent,
    *,
    ordered: bool = False,
) -> Report:
    """Writes `train/`, shuffled, and `validation/` and `test/`, a user's rows together, with a table row for each
    user and item of any file. All pairs are held in memory: some 50 bytes each.

    max_length: of histories, 0: none. ordered: a row's history is what was before it. train_with_validation: validation
    pairs are training pairs too, and there are no validation rows: for a last training, once all is chosen.

    Raises UserError (file, line) for what cannot be read.
    """
    if train_with_validation and not inputs.validation:
        raise UserError("--train-with-validation: there are no validation pairs; name their files by --validation")
    if ordered and not max_length:
        raise UserError("--ordered: with --max-length 0 there are no histories; leave one of them out")
    pairs = _read(inputs, form, train_with_validation)
    progress(f"read {pairs.source}: {len(pairs.users.values):,} users and {len(pairs.items.values):,} items")
    tally, train = Tally(), pairs.of("train")
    names = {"user": pairs.users, "item": pairs.items}
    given = (*inputs.train, *inputs.validation, *inputs.test)
    with staged(output.folder, output.overwrite, given) as folder:
        tables = {n: TableRows.fit(n, folder, c.values, c.codes[train], others=True) for n, c in names.items()}
        for split in SPLITS:
            histories = Histories.of(pairs, split, max_length, ordered=ordered) if max_length else None
            written = _write(pairs, split, tables, output, folder, histories, seed)
            if written:
                tally.rows[split] = written
                progress(f"wrote {written:,} rows of {split}")
        schema = schema_of(tables["user"].ids, tables["item"].ids, max_length, weighted=pairs.weights is not None)
        schema.save(folder / SCHEMA_FILE)
    return Report(Path(output.folder), schema, tally, notes=tuple(_notes(pairs)))


class _Part(NamedTuple):
    """A part of a file has the users and items of n lines, their weights, and times to compare."""

    users: pa.Array
    items: pa.Array
    weights: pa.Array | None = None
    times: pa.Array | None = None


def _read(inputs: Inputs, form: PairForm, train_with_validation: bool) -> Pairs:
    """Reads all files, the training files first. Raises UserError as `prepare_pairs` does."""
    sources = inputs.sources(lambda file, split: TextFile(file, form.text or TextFormat(), form.types, split=split))
    parts: list[_Part] = []
    splits = []
    for source in sources:
        split = "train" if train_with_validation and source.split == "validation" else source.split or "train"
        for part in _words(source.path) if form.text is None else _fields(source, form):
            parts.append(part)
            splits.append(np.full(len(part.users), SPLITS.index(split), np.int8))
    split_of = np.concatenate(splits) if splits else np.empty(0, np.int8)
    if not (split_of == SPLITS.index("train")).any():
        raise UserError(f"{sources[0].path}: no pairs to train on; expected a line of `user item item ...`, or columns")
    order = _in_time(parts) if form.columns.time is not None else np.arange(len(split_of))
    users, items = Coded.of([part.users for part in parts]), Coded.of([part.items for part in parts])
    keys = (split_of.astype(np.int64) * len(users.values) + users.codes) * len(items.values) + items.codes
    kept = order[np.sort(np.unique(keys[order], return_index=True)[1])]
    weights = None if form.weight is None else pa.chunked_array([part.weights for part in parts]).to_numpy()
    return Pairs(
        sources[0].path if len(sources) == 1 else f"{sources[0].path} and {len(sources) - 1} more",
        users._replace(codes=users.codes[kept]),
        items._replace(codes=items.codes[kept]),
        split_of[kept],
        None if weights is None else weights[kept].astype(np.float32),
        len(keys) - len(kept),
    )


def _words(file: str) -> Iterator[_Part]:
    """Yields the pairs of lines of words; a user alone has none."""
    for lines in line_blocks(file):
        users, items = pairs_in(lines, file, alone=True)
        if len(users):
            yield _Part(users, items)


def _fields(source: TextFile, form: PairForm) -> Iterator[_Part]:
    """Yields the pairs of a delimited file. Raises UserError (file, line) for empty fields and negative weights."""
    columns = form.columns
    for batch, origin in source.batches():
        for name in form.types:
            no_null(batch, name, origin)
        weights = None if form.weight is None else batch.column(form.weight)
        if weights is not None:
            right = pc.and_(pc.greater_equal(weights, 0.0), pc.less_equal(weights, LARGEST_NUMBER))
            _check(right, weights, Place(origin, str(form.weight)), f"a sample weight from 0 to {LARGEST_NUMBER:g}")
        times = None if columns.time is None else batch.column(columns.time)
        if times is not None and pa.types.is_floating(times.type):
            _check(pc.invert(pc.is_nan(times)), times, Place(origin, str(columns.time)), "a number")
        yield _Part(batch.column(columns.user), batch.column(columns.item), weights, times)


def _check(right: pa.Array, values: pa.Array, place: Place, expected: str) -> None:
    """Raises UserError for the first value that is not right."""
    if (at := pc.index(right, False).as_py()) >= 0:
        raise place.error(at, values[at].as_py(), expected)


def _in_time(parts: Sequence[_Part]) -> np.ndarray:
    """Returns the order of all lines by time; lines of equal times stay in order."""
    times = pa.chunked_array([part.times for part in parts]).combine_chunks()
    return np.argsort(pc.rank(times, tiebreaker="dense").to_numpy(), kind="stable")


def _write(
    pairs: Pairs,
    split: Split,
    tables: dict[str, TableRows],
    output: Output,
    folder: Path,
    histories: Histories | None,
    seed: int,
) -> int:
    """Writes the rows of a split, and returns their number."""
    chosen = pairs.of(split)
    users, items = pairs.users.codes[chosen], pairs.items.codes[chosen]
    chosen = chosen[shuffled(users, items, seed) if split == "train" else np.argsort(users, kind="stable")]
    step = min(output.row_group_rows, max(CHUNK_ELEMENTS // (histories.most if histories else 1), 1))
    with RowsWriter(folder / split, 0, output.row_group_rows, output.file_rows) as writer:
        for start in range(0, len(chosen), step):
            writer.write(_rows(pairs, chosen[start : start + step], tables, histories))
        return writer.rows


def _rows(pairs: Pairs, chosen: np.ndarray, tables: dict[str, TableRows], histories: Histories | None) -> pa.Table:
    columns = {
        "user": pa.array(tables["user"](pairs.users.codes[chosen])),
        "item": pa.array(tables["item"](pairs.items.codes[chosen])),
    }
    if histories is not None:
        past, offsets = histories(chosen)
        columns["history"] = pa.ListArray.from_arrays(offsets.astype(np.int32), pa.array(tables["item"](past)))
    if pairs.weights is not None:
        columns["weight"] = pa.array(pairs.weights[chosen])
    return pa.table(columns | {"label": pa.array(np.ones(len(chosen), np.int8))})


def schema_of(users: Identity, items: Identity, most: int, *, weighted: bool = False) -> Schema:
    """Returns the schema of pairs with histories of `most` items (0: none)."""
    features: list[Feature] = [
        IdFeature(name="user", role="user", ids=users),
        IdFeature(name="item", role="item", ids=items),
    ]
    if most:
        features.append(SequenceFeature(name="history", role="user", ids=items, table="item", max_length=most))
    weight = "weight" if weighted else None
    return Schema(features=tuple(features), weight=weight, group="user", keys=("user", "item"))


def _notes(pairs: Pairs) -> Iterator[str]:
    yield f"{len(pairs.users.values):,} users, {len(pairs.items.values):,} items"
    if pairs.repeated:
        yield f"lines with a pair that their split has already, left out: {pairs.repeated:,}"
    trained = pairs.of("train")
    held_out = np.flatnonzero(pairs.splits != SPLITS.index("train"))
    for name, coded in (("user", pairs.users), ("item", pairs.items)):
        new = np.setdiff1d(coded.codes[held_out], coded.codes[trained])
        if len(new):
            yield f"{name}s that no training row has: {len(new):,}; they have rows of their own, the last ones"
    keys = pairs.users.codes.astype(np.int64) * len(pairs.items.values) + pairs.items.codes
    if known := int(np.isin(keys[held_out], keys[trained]).sum()):
        yield f"held-out pairs that training has too: {known:,}; lists without training items miss them"
