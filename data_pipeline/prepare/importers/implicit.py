"""Any delimited log of users and items becomes training positives, and held-out items among candidates."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.behaviour.candidates import (
    CandidateRows,
    CodeValues,
    Pool,
    SampledRows,
    note_unknown,
    shuffled,
)
from shardrec.data_pipeline.prepare.steps.option_values import TimeType
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report, prepare
from shardrec.data_pipeline.prepare.steps.progress import Progress, silent
from shardrec.data_pipeline.prepare.steps.recipe import Recipe
from shardrec.data_pipeline.prepare.steps.recipe_features import FitVocabulary, RecipeId
from shardrec.data_pipeline.prepare.steps.source import RawSource, input_files
from shardrec.data_pipeline.prepare.steps.splits import draw
from shardrec.data_pipeline.prepare.steps.text import TextFile, TextFormat, no_null
from shardrec.data_pipeline.prepare.steps.writer import Split

_TIME_TYPES = {"integer": pa.int64(), "number": pa.float64(), "string": pa.string()}


@dataclass(frozen=True)
class LogColumns:
    """These name the columns of a log; `time` is compared as a number, or as a string (ISO 8601 sorts so)."""

    user: str
    item: str
    time: str | None = None
    time_type: TimeType = "integer"

    @property
    def types(self) -> dict[str, pa.DataType]:
        """Returns the types that the columns are read as."""
        types = {self.user: pa.string(), self.item: pa.string()}
        return types if self.time is None else types | {self.time: _TIME_TYPES[self.time_type]}


def prepare_implicit(
    paths: Sequence[str | Path],
    columns: LogColumns,
    form: TextFormat,
    output: Output,
    negatives: int = 99,
    validation: bool = True,
    seed: int = 0,
    keep_unknown: bool = False,
    progress: Progress = silent,
) -> Report:
    """Prepares a log: a user's last item is for test, the second last for validation, the others for training.

    Pairs count once, at their first time; of equal times the later line is the later one; without times the order is
    random by the seed. Users of fewer than three items (two without validation) are for training only. Candidates are
    `negatives` items that occur in training and that the user has in no split. The log is held in memory: some 60 bytes
    a line and each distinct user and item once.

    keep_unknown: keeps groups whose held-out item no training row has. All such items are row 0, which is never
        trained, among negatives that all are, so that a model tells them apart by that alone

    Raises UserError (file, line) for what cannot be read.
    """
    files = input_files(paths)
    users, items, times, values = _read(files, columns, form)
    by_user = _ordered(users, items, times, len(values.items), seed)
    users, items = users[by_user], items[by_user]
    _, first, counts = np.unique(users, return_index=True, return_counts=True)
    held_out_count = 2 if validation else 1
    last = (first + counts - 1)[counts > held_out_count]
    train = np.ones(len(users), bool)
    for back in range(held_out_count):
        train[last - back] = False
    train_order = np.flatnonzero(train)[shuffled(users[train], items[train], seed)]
    pool = Pool.of(users, items, len(values.items), items[train])
    name = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    train_rows = CandidateRows(
        path=name, split="train", values=values, users=users[train_order], items=items[train_order, None]
    )
    sources: list[RawSource] = [train_rows]
    splits: tuple[Split, ...] = ("test", "validation")
    trained, unknown = np.bincount(items[train], minlength=len(values.items)) > 0, {}
    for split, positives in zip(splits[:held_out_count], (last, last - 1), strict=False):
        known = trained[items[positives]]
        unknown[split] = (int((~known).sum()), len(positives))
        positives = positives if keep_unknown else positives[known]
        held_out = {"users": users[positives], "items": items[positives, None]}
        sources.append(
            SampledRows(path=name, split=split, values=values, **held_out, pool=pool, negatives=negatives, seed=seed)
        )
    progress(f"read {name}: {len(users):,} pairs of {len(first):,} users and {len(values.items):,} items")
    fate = "kept, as row 0" if keep_unknown else "their groups are left out (--keep-unknown keeps them)"
    return replace(prepare(sources, _recipe(columns), output, progress), notes=note_unknown(unknown, fate))


def _recipe(columns: LogColumns) -> Recipe:
    ids = FitVocabulary()
    return Recipe(
        features=(
            RecipeId(name="user", column=columns.user, role="user", ids=ids),
            RecipeId(name="item", column=columns.item, role="item", ids=ids),
        ),
        group=columns.user,
    )


def _read(
    files: list[str], columns: LogColumns, form: TextFormat
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, CodeValues]:
    """Reads all lines.

    Returns [n] codes of users and of items, [n] times (None: there are none), and what the codes stand for.
    """
    parts = []
    for file in files:
        for batch, origin in TextFile(file, form, columns.types).batches():
            for name in columns.types:
                no_null(batch, name, origin)
            parts.append(batch)
    if not parts:
        raise UserError(f"{files[0]}: has no rows")
    table = pa.Table.from_batches(parts)
    codes, values = [], []
    for name in (columns.user, columns.item):
        encoded = table.column(name).combine_chunks().dictionary_encode()
        codes.append(encoded.indices.to_numpy())
        values.append(encoded.dictionary)
    times = None
    if columns.time is not None:
        times = pc.rank(table.column(columns.time).combine_chunks(), tiebreaker="dense").to_numpy()
    return codes[0], codes[1], times, CodeValues(values[0], values[1], (columns.user, columns.item))


def _ordered(users: np.ndarray, items: np.ndarray, times: np.ndarray | None, num_items: int, seed: int) -> np.ndarray:
    """Returns the rows by user, then time: the first one of each pair."""
    if times is None:
        times = draw("order", seed + 1, [users.astype(np.uint64), items.astype(np.uint64)])
    order = np.lexsort((times, users))  # stable: lines of equal times stay in order
    keys = users[order].astype(np.int64) * num_items + items[order]
    _, first = np.unique(keys, return_index=True)
    return order[np.sort(first)]
