"""The files of neural collaborative filtering (He et al., WWW 2017) are read as published, plain or gzip.

`NAME.train.rating` and `NAME.test.rating` (user, item, rating, timestamp) and `NAME.test.negative` (`(user,item)` and
the items that it is ranked among). Every training pair is a positive. Ids are table rows already.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import Origin, Place
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.prepare.behaviour.candidates import (
    CandidateRows,
    CodeValues,
    Pool,
    SampledRows,
    note_unknown,
    shuffled,
)
from shardrec.data_pipeline.prepare.steps.lines import first_line
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report, prepare
from shardrec.data_pipeline.prepare.steps.progress import Progress, silent
from shardrec.data_pipeline.prepare.steps.recipe import Recipe
from shardrec.data_pipeline.prepare.steps.recipe_features import RecipeId
from shardrec.data_pipeline.prepare.steps.source import RawSource, compressed_too, existing_folder, plain_or_compressed
from shardrec.data_pipeline.prepare.steps.splits import draw
from shardrec.data_pipeline.prepare.steps.text import TextFile, TextFormat
from shardrec.data_pipeline.prepare.steps.writer import Split

TRAIN, TEST, NEGATIVE = "train.rating", "test.rating", "test.negative"
VALIDATION_NEGATIVES = 99
_RATINGS = ("user", "item", "rating", "timestamp")
_PAIR = r"^\((?P<user>\d{1,9}),\s*(?P<item>\d{1,9})\)$"


def recipe(num_users: int, num_items: int) -> Recipe:
    """Returns the recipe: user and item as they are; a user's rows are a group."""
    return Recipe(
        features=(
            RecipeId(name="user", role="user", ids=Identity(num_ids=num_users)),
            RecipeId(name="item", role="item", ids=Identity(num_ids=num_items)),
        ),
        group="user",
    )


def prepare_ncf(
    folder: str | Path,
    output: Output,
    name: str | None = None,
    validation: bool = True,
    seed: int = 0,
    progress: Progress = silent,
) -> Report:
    """Prepares `NAME.*` in `folder`: train (positives only, shuffled), validation, and test as it is given.

    Groups are kept as they are given, also where no training row has the positive; the report counts those.

    A given negative that is the line's own positive is left out (ml-1m has 156), as in the authors' evaluation.

    validation: takes one random training item a user (who has two) out of training; its 99 candidates are drawn from
        the items that occur in training, without the user's training items and the user's test item

    Raises UserError for missing files and for lines that are not as published.
    """
    train, test, negative = _files(Path(folder), name)
    users, items = _pairs(train)
    test_users, candidates = _candidates(negative, _pairs(test), test)
    num_users = 1 + int(max(users.max(), test_users.max()))
    num_items = 1 + int(max(items.max(), candidates.max()))
    values = CodeValues(pa.array(np.arange(num_users)), pa.array(np.arange(num_items)))
    known = np.concatenate([users, test_users]), np.concatenate([items, candidates[:, 0]])
    pool = Pool.of(*known, num_items, items)
    order = shuffled(users, items, seed)
    sources: list[RawSource] = []
    held_out: dict[Split, np.ndarray] = {"test": candidates[:, 0]}
    if validation:
        validation_rows = _one_a_user(users, items, seed)
        order = order[~np.isin(order, validation_rows)]
        held_out["validation"] = items[validation_rows]
        sources.append(
            SampledRows(
                path=train,
                split="validation",
                values=values,
                users=users[validation_rows],
                items=items[validation_rows, None],
                pool=pool,
                negatives=VALIDATION_NEGATIVES,
                seed=seed,
            )
        )
    train_rows = CandidateRows(path=train, split="train", values=values, users=users[order], items=items[order, None])
    repeated = int((candidates[:, 1:] == candidates[:, :1]).sum())
    if repeated:
        progress(f"{negative}: left out {repeated} negatives that are their user's own test item")
    test_rows = CandidateRows(path=negative, split="test", values=values, users=test_users, items=candidates)
    sources = [train_rows, *sources, test_rows]
    unknown = {
        split: (int((~np.isin(held_out_items, items[order])).sum()), len(held_out_items))
        for split, held_out_items in held_out.items()
    }
    report = prepare(sources, recipe(num_users, num_items), output, progress)
    return replace(report, notes=note_unknown(unknown, "kept, untrained"))


def _files(folder: Path, name: str | None) -> tuple[str, str, str]:
    """Returns the three files of one data set."""
    existing_folder(folder, f"NAME.{TRAIN}, NAME.{TEST}, NAME.{NEGATIVE}")
    ends = compressed_too(f".{TRAIN}")
    names = sorted({f.name[: f.name.rindex(f".{TRAIN}")] for f in folder.glob(f"*.{TRAIN}*") if f.name.endswith(ends)})
    if not names:
        raise UserError(f"{folder}: no NAME.{TRAIN} (plain or compressed) in this folder")
    if name is None and len(names) > 1:
        raise UserError(f"{folder}: holds several data sets ({', '.join(names)}); choose one by --name")
    if name is not None and name not in names:
        raise UserError(f"{folder}: {unknown('data set', name, names)}")
    return (
        _file(folder, f"{name or names[0]}.{TRAIN}"),
        _file(folder, f"{name or names[0]}.{TEST}"),
        _file(folder, f"{name or names[0]}.{NEGATIVE}"),
    )


def _file(folder: Path, name: str) -> str:
    path = plain_or_compressed(folder, name)
    if path is None:
        raise UserError(f"{folder}: no {name} (plain or compressed) in this folder")
    return path


def _read(
    path: str, columns: tuple[str, ...], types: dict[str, pa.DataType]
) -> Iterator[tuple[pa.RecordBatch, Origin]]:
    """Yields a file's rows. Raises UserError (file, line) for what is no row, and for a file without any."""
    form = TextFormat(delimiter="\t", header=False, quote=None, columns=columns)
    rows = 0
    for batch, origin in TextFile(path, form, types).batches():
        rows += batch.num_rows
        yield batch, origin
    if not rows:
        raise UserError(f"{path}: has no rows")


def _pairs(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns [lines] int64 users and items of a file of ratings. Raises UserError for what is no id."""
    read = _read(path, _RATINGS, {"user": pa.int64(), "item": pa.int64()})
    parts = [(_ids(batch, "user", origin), _ids(batch, "item", origin)) for batch, origin in read]
    users, items = (np.concatenate(part) for part in zip(*parts, strict=True))
    return users, items


def _ids(batch: pa.RecordBatch, column: str, origin: Origin) -> np.ndarray:
    values = batch.column(column)
    ids = values.fill_null(-1).to_numpy()
    wrong = np.flatnonzero((ids < 0) | (ids >= 2**31))
    if len(wrong):
        value = values[int(wrong[0])].as_py()
        raise Place(origin, column).error(wrong[0], value, "an id from 0 to 2^31 - 1")
    return ids


def _candidates(path: str, test: tuple[np.ndarray, np.ndarray], test_path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns [lines] users and [lines, C] items, the positive first. Raises UserError where the two files differ."""
    negatives = tuple(f"negative {i}" for i in range(1, len(first_line(path).split("\t"))))
    if not negatives:
        raise UserError(f"{path}, line 1: found no negatives, expected `(user,item)` and items, separated by tabs")
    types = {"pair": pa.string(), **dict.fromkeys(negatives, pa.int64())}
    users, items, first = [], [], 0
    read = [(batch, origin, _given(batch, origin)) for batch, origin in _read(path, ("pair", *negatives), types)]
    lines = sum(batch.num_rows for batch, *_ in read)
    if lines != len(test[0]):
        raise UserError(f"{path}: found {lines} lines, expected {len(test[0])} as in {test_path}")
    for batch, origin, (given_users, given_items) in read:
        expected = [of_all[first : first + batch.num_rows] for of_all in test]
        differ = np.flatnonzero((given_users != expected[0]) | (given_items != expected[1]))
        if len(differ):
            at = int(differ[0])
            pair = f"({expected[0][at]},{expected[1][at]})"
            raise Place(origin, "pair").error(at, batch.column("pair")[at].as_py(), f"{pair} as in {test_path}")
        users.append(given_users)
        items.append(np.stack([given_items, *(_ids(batch, column, origin) for column in negatives)], axis=1))
        first += batch.num_rows
    return np.concatenate(users), np.concatenate(items)


def _given(batch: pa.RecordBatch, origin: Origin) -> tuple[np.ndarray, np.ndarray]:
    """Returns the users and items of `(user,item)`. Raises UserError (file, line) for what is no such pair."""
    pairs = batch.column("pair")
    matched = pc.extract_regex(pairs, _PAIR)
    if matched.null_count:
        at = int(matched.is_null().to_numpy(zero_copy_only=False).argmax())
        raise Place(origin, "pair").error(at, repr(pairs[at].as_py()), "`(user,item)`")
    users, items = (pc.struct_field(matched, part).cast(pa.int64()).to_numpy() for part in ("user", "item"))
    return users, items


def _one_a_user(users: np.ndarray, items: np.ndarray, seed: int) -> np.ndarray:
    """Returns one row of each user with more than one, by the seed; by ascending user."""
    random = draw("validate", seed, [users.astype(np.uint64), items.astype(np.uint64)])
    order = np.lexsort((random, users))
    _, first, counts = np.unique(users[order], return_index=True, return_counts=True)
    return order[first[counts > 1]]
