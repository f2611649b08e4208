"""Amazon reviews are read as published (McAuley et al., SIGIR 2015; 2018's too): raw JSON lines, plain or gzip.

A review is an event of `reviewerID` with `asin` at `unixReviewTime`. Review files are JSON; metadata files are JSON
or, the older ones, Python literals. Metadata give categories: `categories` (paths) or `category` (one path); the last
name of the last path counts, as in the preparation of DIN's authors. Half a character (a surrogate that is escaped
alone) stops nothing in a text or a category, but is an error in an id.
"""

import ast
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json

from shardrec.data_pipeline.errors import UserError, shortened
from shardrec.data_pipeline.prepare.behaviour.events import Coded, Events
from shardrec.data_pipeline.prepare.behaviour.histories import HistoryProtocol, prepare_histories
from shardrec.data_pipeline.prepare.steps.lines import BLOCK_BYTES, Lines, line_blocks
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report
from shardrec.data_pipeline.prepare.steps.progress import Progress, silent
from shardrec.data_pipeline.prepare.steps.source import input_files

USER, ITEM, TIME = "reviewerID", "asin", "unixReviewTime"
LONGEST_LITERAL = 1 << 20
_REVIEW = pa.schema([(USER, pa.string()), (ITEM, pa.string()), (TIME, pa.int64())])


def prepare_amazon(
    reviews: str | Path,
    output: Output,
    protocol: HistoryProtocol | None = None,
    metadata: str | Path | None = None,
    progress: Progress = silent,
) -> Report:
    """Prepares reviews, with the categories of metadata; without those, rows have no category.

    Reviews of equal times keep the order of the file. Raises UserError (file, line) for what cannot be read.
    """
    files, parts = input_files([reviews]), []
    for file in files:
        for lines in line_blocks(file, longest=BLOCK_BYTES):
            users, items, seconds = _reviews(lines, file).columns
            parts.append((users.dictionary_encode(), items.dictionary_encode(), seconds))
    if not sum(len(part[0]) for part in parts):
        raise UserError(f"{files[0]}: has no rows")
    of_users, of_items, times = zip(*parts, strict=True)
    categories = None if metadata is None else _categories(metadata)
    seconds = pa.chunked_array(times).to_numpy()
    events = Events.of(files[0], Coded.of(of_users), Coded.of(of_items), seconds, categories)
    if metadata is None:
        progress("no --metadata: rows have items, but no category")
    return prepare_histories(events, protocol or HistoryProtocol(), output, progress)


def _reviews(lines: Lines, file: str) -> pa.RecordBatch:
    """Returns user, item and time of these lines' reviews. Raises UserError for the first line that lacks one.

    Blocks that Arrow refuses are read line by line: what it refuses may be in a field that is not needed.
    """
    if not (data := lines.data.lstrip()):
        return pa.RecordBatch.from_pylist([], _REVIEW)
    if not data.startswith(b"{"):  # on a first `null` Arrow's reader ends the process
        return _each_review(lines, file)
    try:
        table = pa.json.read_json(
            pa.BufferReader(lines.data),
            pa.json.ReadOptions(use_threads=False, block_size=len(lines.data) + 1),
            pa.json.ParseOptions(explicit_schema=_REVIEW, unexpected_field_behavior="ignore"),
        )
        table.validate(full=True)  # that strings are UTF-8, which the reader takes on trust
    except pa.ArrowInvalid:
        return _each_review(lines, file)
    if any(column.null_count for column in table.columns):
        return _each_review(lines, file)
    return table.select(_REVIEW.names).combine_chunks().to_batches()[0]


def _each_review(lines: Lines, file: str) -> pa.RecordBatch:
    """Does what `_reviews` does, line by line."""
    columns: dict[str, list[str | int]] = {name: [] for name in _REVIEW.names}
    for number, line in lines.numbered(file):
        try:
            review = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}, line {number}: not JSON: {shortened(str(error))}") from None
        for key, values in columns.items():
            value: Any = review.get(key) if isinstance(review, dict) else None
            if not (_is_seconds(value) if key == TIME else _is_text(value)):
                expected = "whole seconds" if key == TIME else "a string of whole characters"
                raise UserError(f"{file}, line {number}: found {key} = {_shown(value)}, expected {expected}")
            values.append(value)
    return pa.RecordBatch.from_pydict(columns, _REVIEW)


def _shown(value: object) -> str:
    return shortened(repr(value) if isinstance(value, str) else value)


def _is_seconds(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_text(value: object) -> bool:
    """Tells whether a value is a string without surrogates, of which JSON may escape one alone."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _categories(path: str | Path) -> dict[object, str]:
    """Returns the category of each item that has one. Raises UserError (file, line) for what is no metadata."""
    category_of: dict[object, str] = {}
    for file in input_files([path]):
        for number, line in (
            numbered for lines in line_blocks(file, longest=BLOCK_BYTES) for numbered in lines.numbered(file)
        ):
            item = _literal(line)
            if not isinstance(item, dict) or not isinstance(item.get(ITEM), str):
                found = shortened(line, 40)
                raise UserError(
                    f"{file}, line {number}: found {found!r}, expected JSON or a Python literal with {ITEM!r}"
                )
            category = _category(item)
            if category:
                category_of.setdefault(item[ITEM], category)
    return category_of


def _literal(line: str) -> Any:
    """Returns the value of a line of JSON, or of Python; None where it is neither.

    Python takes some hundred bytes for each character of a literal, so that longer ones are not read.
    """
    for read in (json.loads, ast.literal_eval) if len(line) <= LONGEST_LITERAL else (json.loads,):
        try:
            return read(line)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _category(item: dict[str, Any]) -> str | None:
    entry = item.get("categories") or item.get("category")
    while isinstance(entry, list):
        entry = entry[-1] if entry else None
    return entry if isinstance(entry, str) else None
