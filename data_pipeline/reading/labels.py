"""Labels are looked at before rows are read: whether a data set has any, and which values they take.

Only footers, and of rows the label's column, are read, no further than until the answer is known.
"""

from collections.abc import Collection, Iterator
from functools import partial

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import Origin, missing_values
from shardrec.data_pipeline.features.feature_kinds import IdListFeature
from shardrec.data_pipeline.features.schema import Label, Schema
from shardrec.data_pipeline.features.transforms import LabelReader
from shardrec.data_pipeline.files.sealed_parquet import UNREADABLE
from shardrec.data_pipeline.reading.files import short_message
from shardrec.data_pipeline.reading.index import DataSet, Index
from shardrec.data_pipeline.stores.retries import gone_on_with, is_away

MOST_ROWS = 1 << 24
"""Rows of which labels are looked at, at most: a second or two."""

_CHUNK_ROWS = 1 << 16


def missing_labels(data: DataSet, schema: Schema) -> str | None:
    """Says in a line which label none of the rows has; None where each label is there in some row.

    What a label's `missing` stands for is there. Raises UserError where a file cannot be read.
    """
    index = data.index
    names = {name for schema, _ in index.schemas for name in schema.names}
    ratings = (f.weights for f in schema.features if isinstance(f, IdListFeature) and f.weights_are == "labels")
    for column in (*(label.columns[0] for label in schema.labels), *filter(None, ratings)):
        if column not in names:
            return f"there is no column {column!r}"
    for label in schema.labels:
        if label.missing == "error" and not _has_values(index, label.columns[0]):
            return f"column {label.columns[0]!r} is null in all {index.num_rows:,} rows"
    return None


def labels_in(data: DataSet, label: Label, wanted: Collection[float]) -> set[float] | None:
    """Returns the values that a label takes in the rows; only some of them once all `wanted` were found.

    None where the first `MOST_ROWS` rows lack some of them, and there are more. Raises UserError for rows that the
    label's reader refuses.
    """
    found: set[float] = set()
    reader, rows = LabelReader(label), 0
    for origin, batch in _batches(data.index, label.columns[0]):
        if rows >= MOST_ROWS:
            return None
        found |= set(np.unique(reader(batch, origin).values).tolist())
        rows += batch.num_rows
        if found.issuperset(float(np.float32(value)) for value in wanted):
            break
    return found


def _has_values(index: Index, column: str) -> bool:
    """Says whether any row of a column is neither null nor NaN."""
    for _, batch in _batches(index, column):
        missing = missing_values(batch.column(0))
        if batch.num_rows and (missing is None or not missing.all()):
            return True
    return False


def _batches(index: Index, column: str) -> Iterator[tuple[Origin, pa.RecordBatch]]:
    """Yields the rows of one column, file after file; files that lack it are passed over.

    Raises UserError where they cannot be decoded, and for a file that has changed.
    """
    for number, file in enumerate(index.files):
        yield from gone_on_with(
            partial(_of_file, index, number, column),
            lambda found: found[1].num_rows,
            partial("{}: column {!r} read".format, file.path, column),
        )


def _of_file(index: Index, number: int, column: str, skipped: int) -> Iterator[tuple[Origin, pa.RecordBatch]]:
    """Yields the rows of one column of a file but for the first ones."""
    file, first = index.files[number], 0
    with index.open(number, piecewise=True) as opened:
        if column not in opened.schema_arrow.names:
            return
        try:
            for batch in opened.iter_batches(_CHUNK_ROWS, columns=[column], use_threads=False):
                first += batch.num_rows
                if first > skipped:
                    yield Origin(file.path, first - batch.num_rows), batch
        except UNREADABLE as error:
            if is_away(error):
                raise
            raise UserError(
                f"{file.path}: column {column!r} cannot be decoded ({short_message(error)}); the file is corrupt: "
                "write it again, or leave it out"
            ) from error
