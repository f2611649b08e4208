"""libfm and svmlight files, `label id:value id:value ...`, become one id feature per field where fields can be told.

Fields are told by a field map (name and first id of each), else by position where every line has equally many ids of
value 1. What is neither becomes one weighted id list. A first pass over all files finds the shape.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError, shortened
from shardrec.data_pipeline.features.arrow_values import Origin, Place
from shardrec.data_pipeline.features.feature_kinds import Role
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Label
from shardrec.data_pipeline.prepare.steps.lines import line_blocks
from shardrec.data_pipeline.prepare.steps.parallel import Workers
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report, prepare
from shardrec.data_pipeline.prepare.steps.progress import Progress, silent
from shardrec.data_pipeline.prepare.steps.recipe import Recipe
from shardrec.data_pipeline.prepare.steps.recipe_features import RecipeFeature, RecipeId, RecipeIdList
from shardrec.data_pipeline.prepare.steps.source import Inputs, RawSource, compressed_too
from shardrec.data_pipeline.prepare.steps.splits import SplitRule
from shardrec.data_pipeline.prepare.steps.text import MOST_FIELDS, TextFile, TextFormat, converted
from shardrec.data_pipeline.prepare.steps.writer import Split

LARGEST_ID = 2**62
_LINE = TextFormat(delimiter="\x01", header=False, columns=("line",), quote=None)
PATTERNS = compressed_too("*.libfm", "*.svm", "*.libsvm")


class Entries(NamedTuple):
    """Entries are parsed lines.

    labels: [n] float64; queries: [n] int64 query ids, or None
    rows, ids, values: [m] for each id its line, itself and its value
    """

    labels: np.ndarray
    queries: np.ndarray | None
    rows: np.ndarray
    ids: np.ndarray
    values: np.ndarray


class LibfmField(NamedTuple):
    """A field is one feature: ids of [start, stop), or with `position` the ids at that place of every line.

    single: at most one id a line; complete: at least one; weighted: with values other than 1
    """

    name: str
    start: int
    stop: int
    position: int | None = None
    single: bool = True
    complete: bool = True
    weighted: bool = False


@dataclass
class Shape:
    """A shape is what a first pass finds in one file or all of them.

    fewest, most: ids a line. lows, highs: smallest and largest id at each position, while `fewest` equals `most`.
    field_fewest, field_most: ids of each mapped field a line; field_weighted: whether it has values other than 1
    """

    largest: int = -1
    fewest: int | None = None
    most: int = 0
    lows: np.ndarray | None = None
    highs: np.ndarray | None = None
    field_fewest: np.ndarray | None = None
    field_most: np.ndarray | None = None
    field_weighted: np.ndarray | None = None
    binary: bool = True
    queries: bool = False

    def merge(self, other: "Shape") -> "Shape":
        """Returns the shape of both together."""
        if self.fewest is None or other.fewest is None:
            return other if self.fewest is None else self
        return Shape(
            max(self.largest, other.largest),
            min(self.fewest, other.fewest),
            max(self.most, other.most),
            _both(np.minimum, self.lows, other.lows),
            _both(np.maximum, self.highs, other.highs),
            _both(np.minimum, self.field_fewest, other.field_fewest),
            _both(np.maximum, self.field_most, other.field_most),
            _both(np.logical_or, self.field_weighted, other.field_weighted),
            self.binary and other.binary,
            self.queries and other.queries,
        )

    @classmethod
    def of(cls, entries: Entries, starts: np.ndarray) -> "Shape":
        """Returns the shape of some lines, under a field map."""
        n, fields = len(entries.labels), len(starts)
        lengths = np.bincount(entries.rows, minlength=n)
        constant = bool(lengths[0] > 0 and (lengths == lengths[0]).all())
        table = entries.ids.reshape(n, -1) if constant else None
        places = np.searchsorted(starts, entries.ids, side="right") - 1
        each = np.bincount(entries.rows * fields + places, minlength=n * fields).reshape(n, fields)
        odd = np.bincount(places[entries.values != 1], minlength=fields) > 0
        return cls(
            int(entries.ids.max(initial=-1)),
            int(lengths.min()),
            int(lengths.max()),
            table.min(axis=0) if table is not None else None,
            table.max(axis=0) if table is not None else None,
            each.min(axis=0),
            each.max(axis=0),
            odd,
            bool(np.isin(entries.labels, (-1, 0, 1)).all()),
            entries.queries is not None,
        )


def _both(combine: np.ufunc, a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    return combine(a, b) if a is not None and b is not None and len(a) == len(b) else None


@dataclass
class LibfmFile(RawSource):
    """A libfm file has one column per field, `label` and, where lines have `qid:`, `query`."""

    path: str
    starts: np.ndarray
    fields: tuple[LibfmField, ...] = ()
    split: Split | None = None

    def batches(self, columns: Iterable[str] | None = None) -> Iterator[tuple[pa.RecordBatch, Origin]]:
        """Yields the lines with a column per field."""
        for entries, origin in self.entries():
            arrays: dict[str, pa.Array] = {"label": pa.array(entries.labels)}
            if entries.queries is not None:
                arrays["query"] = pa.array(entries.queries)
            for f in self.fields:
                arrays.update(_columns(entries, f))
            yield pa.RecordBatch.from_pydict(arrays), origin

    def entries(self) -> Iterator[tuple[Entries, Origin]]:
        """Yields the file's lines, parsed. Raises UserError (file, line) for what is not `label id:value ...`."""
        for batch, origin in TextFile(self.path, _LINE, {"line": pa.string()}).batches():
            parsed = _parsed(batch.column(0), origin)
            wrong = np.flatnonzero((parsed.ids < self.starts[0]) | (parsed.ids >= LARGEST_ID))
            if len(wrong):
                where = origin.row(int(parsed.rows[wrong[0]]))
                below = f"from {self.starts[0]} on" + (", below 2^62" if parsed.ids[wrong[0]] > 0 else "")
                raise UserError(f"{where}: found id {parsed.ids[wrong[0]]}, expected ids {below}")
            yield parsed, origin

    def shape(self) -> Shape:
        """Returns what a pass over the file finds."""
        shape = Shape()
        for entries, _ in self.entries():
            shape = shape.merge(Shape.of(entries, self.starts))
        return shape


def _parsed(lines: pa.Array, origin: Origin) -> Entries:
    lines = pc.replace_substring_regex(lines, "#.*$", "") if pc.any(pc.match_substring(lines, "#")).as_py() else lines
    tokens = pc.ascii_split_whitespace(pc.ascii_trim_whitespace(lines))
    offsets = tokens.offsets.to_numpy().astype(np.int64)
    flat = tokens.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    offsets = offsets - offsets[0]
    lengths = np.diff(offsets)
    labels = converted(flat.take(pa.array(offsets[:-1])), pa.float64(), Place(origin, "label"))
    rows = np.repeat(np.arange(len(lengths)), lengths - 1)
    is_label = np.zeros(len(flat), bool)
    is_label[offsets[:-1]] = True
    entries = flat.filter(pa.array(~is_label))
    place = Place(origin, "id:value", lambda at: int(rows[at]))
    pairs = pc.split_pattern(entries, ":", max_splits=1)
    parts = pc.list_value_length(pairs).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(parts != 2)
    if len(wrong):
        raise place.error(wrong[0], repr(entries[int(wrong[0])].as_py()), "id:value")
    halves = pairs.flatten()
    every = np.arange(0, len(halves), 2)
    names, numbers = halves.take(pa.array(every)), halves.take(pa.array(every + 1))
    queries = None
    is_query = pc.equal(names, "qid").to_numpy(zero_copy_only=False)
    if is_query.any():
        if is_query.sum() != len(lengths) or (rows[is_query] != np.arange(len(lengths))).any():
            raise UserError(f"{origin.file}: some lines have one `qid:` and others not; give each line one, or none")
        at_query = rows[is_query]
        place_query = Place(origin, "qid", lambda at: int(at_query[at]))
        queries = converted(numbers.filter(pa.array(is_query)), pa.int64(), place_query).to_numpy()
        names, numbers = names.filter(pa.array(~is_query)), numbers.filter(pa.array(~is_query))
        rows = rows[~is_query]
    place = place._replace(rows=lambda at: int(rows[at]))
    ids = converted(names, pa.int64(), place._replace(column="id")).to_numpy()
    values = converted(numbers, pa.float64(), place._replace(column="value")).to_numpy()
    return Entries(labels.to_numpy(), queries, rows, ids, values)


def _columns(entries: Entries, f: LibfmField) -> dict[str, pa.Array]:
    """Returns the field's columns: ids from 0 (or lists of them), and its values where it is weighted."""
    line_count = len(entries.labels)
    if f.position is not None:
        return {f.name: pa.array(entries.ids.reshape(line_count, -1)[:, f.position])}
    mine = (entries.ids >= f.start) & (entries.ids < f.stop)
    rows, ids = entries.rows[mine], entries.ids[mine] - f.start
    if f.single and not f.weighted:
        id_or_none = np.full(line_count, -1, np.int64)
        id_or_none[rows] = ids
        return {f.name: pa.array(id_or_none, mask=id_or_none < 0)}
    offsets = pa.array(np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=line_count))]), pa.int32())
    result = {f.name: pa.ListArray.from_arrays(offsets, pa.array(ids))}
    if f.weighted:
        result[f"{f.name}_values"] = pa.ListArray.from_arrays(offsets, pa.array(entries.values[mine]))
    return result


def fields_of(shape: Shape, field_map: dict[str, int] | None) -> tuple[LibfmField, ...]:
    """Returns the features that files of this shape have."""
    stop = shape.largest + 1
    if field_map is not None:
        assert shape.field_fewest is not None and shape.field_most is not None and shape.field_weighted is not None
        stops = [*list(field_map.values())[1:], max(stop, list(field_map.values())[-1] + 1)]
        return tuple(
            LibfmField(name, start, end, None, most <= 1, fewest >= 1, bool(weighted))
            for (name, start), end, fewest, most, weighted in zip(
                field_map.items(), stops, shape.field_fewest, shape.field_most, shape.field_weighted, strict=True
            )
        )
    weighted = shape.field_weighted is None or bool(shape.field_weighted.any())
    if shape.fewest != shape.most or not shape.most or weighted or shape.lows is None or shape.highs is None:
        return (LibfmField("features", 0, stop, single=False, weighted=weighted),)
    if (shape.highs[:-1] < shape.lows[1:]).all():
        spans = zip(shape.lows.tolist(), shape.highs.tolist(), strict=True)
        return tuple(LibfmField(f"field_{i}", low, high + 1) for i, (low, high) in enumerate(spans, 1))
    return tuple(LibfmField(f"field_{i + 1}", 0, stop, position=i) for i in range(shape.most))


def parse_field_map(text: str) -> dict[str, int]:
    """Returns the first id of each field, by name.

    text: `user:0,item:957`, or a file with a name and a first id per line

    Raises UserError where it is neither.
    """
    entries = [e.rsplit(":", 1) for e in text.split(",")]
    where = "--fields"
    if ":" not in text or os.path.isfile(text):
        where = shortened(text, 200)
        lines = (numbered for block in line_blocks(text) for numbered in block.numbered(text))
        entries = [line.replace(",", " ").split() for _, line in islice(lines, MOST_FIELDS)]
    try:
        first_ids = {name.strip(): int(start) for name, start in entries}
    except ValueError:
        raise UserError(f"{where}: expected a name and the first id of each field, such as user:0,item:957") from None
    starts = list(first_ids.values())
    if (
        not starts
        or starts != sorted(set(starts))
        or len(first_ids) != len(entries)
        or not 0 <= starts[0] <= starts[-1] < LARGEST_ID
    ):
        raise UserError(
            f"{where}: fields must have names of their own and ascending first ids, found {shortened(first_ids)}"
        )
    return first_ids


def recipe(
    fields: Sequence[LibfmField],
    shape: Shape,
    split: SplitRule,
    negative_rate: float = 1.0,
    seed: int = 0,
    group: str | None = None,
    roles: Mapping[str, Role] | None = None,
) -> Recipe:
    """Returns the recipe: ids as they are; labels of -1, 0 and 1 as 0/1 (`label`) and as they are (`target`)."""
    features: list[RecipeFeature] = []
    for f in fields:
        role = (roles or {}).get(f.name)
        ids = Identity(num_ids=f.stop - f.start)
        if f.single and not f.weighted:
            table = "features" if f.position is not None else None
            missing: Literal["error", "row"] = "error" if f.complete else "row"
            features.append(RecipeId(name=f.name, role=role, ids=ids, table=table, missing=missing))
        else:
            weights = f"{f.name}_values" if f.weighted else None
            features.append(RecipeIdList(name=f.name, role=role, ids=ids, weights=weights))
    both = (Label(name="label", threshold=0.5), Label(name="target", column="label"))
    return Recipe(
        features=tuple(features),
        labels=both if shape.binary else (Label(name="label"),),
        split=split,
        group=group or ("query" if shape.queries else None),
        negative_rate=negative_rate,
        seed=seed,
    )


def prepare_libfm(
    inputs: Inputs,
    output: Output,
    split: SplitRule,
    field_map: dict[str, int] | None = None,
    negative_rate: float = 1.0,
    seed: int = 0,
    group: str | None = None,
    roles: Mapping[str, Role] | None = None,
    progress: Progress = silent,
) -> Report:
    """Prepares libfm or svmlight files. Raises UserError (file, line) for lines that cannot be parsed."""
    starts = np.array(list(field_map.values()) if field_map else [0], np.int64)
    files = inputs.sources(lambda path, part: LibfmFile(path, starts, split=part))
    shape = Shape()
    with Workers(output.workers) as workers:
        for shape_of_file in workers.map(LibfmFile.shape, files):
            shape = shape.merge(shape_of_file)
    if shape.fewest is None:
        raise UserError(f"{files[0].path}: has no rows")
    if shape.largest < 0:
        raise UserError(f"{files[0].path}: no line has an id, expected `label id:value ...`")
    fields = fields_of(shape, field_map)
    single = [f.name for f in fields if f.single and not f.weighted]
    if group is not None and group not in single:
        raise UserError(f"--group: {unknown('field of one id a line', group, single)}")
    sources = [replace(f, fields=fields) for f in files]
    return prepare(sources, recipe(fields, shape, split, negative_rate, seed, group, roles), output, progress)
