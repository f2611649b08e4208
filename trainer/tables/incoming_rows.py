"""Rows of a table come in as Parquet files of `id` and `vector`, in any order; they are checked and read in blocks."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from shardrec.data_pipeline.errors import UserError, in_quotes
from shardrec.data_pipeline.features.arrow_values import Origin, column_type, expect_type, is_list, is_number
from shardrec.data_pipeline.files.sealed_parquet import UNREADABLE
from shardrec.data_pipeline.reading.files import File, Sightings, short_message
from shardrec.sharding.checkpoints.saved_tables import SavedTable
from shardrec.sharding.tables.live import DTYPES
from shardrec.sharding.tables.magnitudes import LARGEST_VALUE
from shardrec.trainer.tables.export import ID, METADATA, VECTOR
from shardrec.trainer.tables.ids import ROW_NUMBERS, DynamicRowFinder, RowFinder

BLOCK_BYTES = 32 << 20
"""Bytes of vectors, as float64, that are sorted and written together."""

READER = "the import"


@dataclass(frozen=True)
class CheckedIds:
    """Checked ids are what the files name: `rows` of the table, `unknown` ids that are no row's and are left out.

    ignored: columns that are not read.
    """

    rows: int
    unknown: int
    ignored: tuple[str, ...]


class IncomingRows:
    """Incoming rows are the vectors that Parquet files have for rows of one table, read as often as asked for."""

    def __init__(
        self,
        files: Sequence[File],
        table: SavedTable,
        kind: str,
        finder: RowFinder | DynamicRowFinder,
        columns: tuple[str, str] = (ID, VECTOR),
    ) -> None:
        """Opens the files. kind: what ids are, as exported files say it. columns: those of ids and of vectors.

        Raises UserError for a column that is missing or of another type, for vectors of another length, and for files
        that `shardrec checkpoint export` wrote with another kind of ids.
        """
        self._files, self._table, self._finder = files, table, finder
        self._id, self._vector = columns
        self._ignored: dict[str, None] = {}
        self._sightings = Sightings()
        for file in files:
            self._check_file(file, kind)

    def check_ids(self, *, skip_unknown: bool) -> CheckedIds:
        """Reads all ids, remembering one bit a row of the table.

        Raises UserError for nulls, for an id that is named twice, and (unless `skip_unknown`) for one that is no row's.
        """
        seen = np.zeros(-(-self._table.num_embeddings // 8), np.uint8)
        rows_seen = unknown = total = 0
        first_unknown = ""
        for origin, batch in self._batches([self._id], step=1 << 20):
            ids = batch.column(0)
            rows = self._rows(ids, origin)
            total += len(rows)
            missing = np.flatnonzero(rows < 0)
            if len(missing) and not unknown:
                at = int(missing[0])
                first_unknown = f"{origin.row(at)}, column {self._id!r}: {ids[at].as_py()!r}"
            unknown += len(missing)
            if (again := mark(seen, rows)) is not None:
                where = f"{origin.row(again)}, column {self._id!r}"
                raise UserError(f"{where}: {ids[again].as_py()!r} is there a second time; keep one row of each id")
            rows_seen += len(rows) - len(missing)
        if unknown and not skip_unknown:
            more = f" ({unknown} of {total} ids are not)" if unknown > 1 else ""
            raise UserError(f"{first_unknown} is not {self._finder.expected}{more}; --skip-unknown leaves such ids out")
        if not rows_seen:
            raise UserError(f"{self._files[0].path}: no id of {total} is a row of table {self._table.name!r}")
        return CheckedIds(rows_seen, unknown, tuple(self._ignored))

    def blocks(self) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yields ascending rows [n] int64 and their vectors [n, columns] in the table's dtype.

        Ids that are no row's are left out. Raises UserError for nulls, other lengths, and what is not finite in the
        table's dtype, or too large to train on.
        """
        dim = self._table.embedding_dim
        for origin, batch in self._batches([self._id, self._vector], step=max(1, BLOCK_BYTES // (8 * dim))):
            rows = self._rows(batch.column(0), origin)
            vectors = torch.from_numpy(self._vectors(batch.column(1), origin)).to(DTYPES[self._table.dtype])
            sound = (vectors.isfinite() & (vectors.abs() <= LARGEST_VALUE)).all(1).numpy()
            if not sound.all():
                at = int(sound.argmin())
                beyond = self._table.dtype if not vectors[at].isfinite().all() else f"{LARGEST_VALUE:g}"
                raise self._error(origin, at, f"a value beyond {beyond}", "smaller numbers")
            order = np.argsort(rows, kind="stable")
            order = order[np.searchsorted(rows, 0, sorter=order) :]
            yield rows[order], vectors[torch.from_numpy(order)]

    # ------------------------------------------------------------ files and columns

    def _check_file(self, file: File, ids: str) -> None:
        schema = self._opened(file).schema_arrow
        kind = column_type(schema, file.path, self._id, READER)
        if (made := _ids_said(schema, file.path) or ids) != ids:
            remedy = "add --rows" if made == ROW_NUMBERS else "name the run whose ids they are"
            raise UserError(f"{file.path}: its ids are {made}, but {ids} are expected; {remedy}")
        self._finder.check(kind, file.path, self._id)
        kind = column_type(schema, file.path, self._vector, READER)
        expect_type(
            is_list(kind) and is_number(kind.value_type), file.path, self._vector, kind, "lists of numbers", READER
        )
        if pa.types.is_fixed_size_list(kind) and kind.list_size != self._table.embedding_dim:
            raise UserError(f"{file.path}, column {self._vector!r}: {self._lengths(kind.list_size)}")
        self._ignored |= dict.fromkeys(name for name in schema.names if name not in (self._id, self._vector))

    def _lengths(self, length: int) -> str:
        table = self._table
        return f"vectors of {length} numbers, but the rows of table {table.name!r} have {table.embedding_dim} columns"

    def _opened(self, file: File) -> pq.ParquetFile:
        """Opens a file. Raises UserError where it is not the one that was opened before."""
        opened = file.open(piecewise=True)
        self._sightings.add(file, opened.stamp)
        return opened.parquet

    def _batches(self, columns: list[str], step: int) -> Iterator[tuple[Origin, pa.RecordBatch]]:
        for file in self._files:
            first = 0
            try:
                for batch in self._opened(file).iter_batches(step, columns=columns):
                    self._sightings.check(file)
                    yield Origin(file.path, first), batch.select(columns)
                    first += len(batch)
            except UNREADABLE as error:
                raise UserError(f"{file.path}: cannot be read ({short_message(error)}); write it again") from error

    def _rows(self, ids: pa.Array, origin: Origin) -> np.ndarray:
        if ids.null_count:
            at = int(ids.is_null().to_numpy(zero_copy_only=False).argmax())
            raise UserError(f"{origin.row(at)}, column {self._id!r}: found null, expected {self._finder.expected}")
        return self._finder.rows(ids)

    def _vectors(self, lists: pa.Array, origin: Origin) -> np.ndarray:
        """Returns the vectors [n, columns] of a column of lists, all finite."""
        dim = self._table.embedding_dim
        if lists.null_count:
            at = int(lists.is_null().to_numpy(zero_copy_only=False).argmax())
            raise self._error(origin, at, "null", "a vector")
        if not pa.types.is_fixed_size_list(lists.type):
            lengths = lists.value_lengths().to_numpy()
            if (lengths != dim).any():
                at = int((lengths != dim).argmax())
                raise UserError(f"{origin.row(at)}, column {self._vector!r}: {self._lengths(int(lengths[at]))}")
        values = lists.flatten()
        if values.null_count:
            at = int(values.is_null().to_numpy(zero_copy_only=False).argmax()) // dim
            raise self._error(origin, at, "null in a vector", "a number")
        vectors = values.to_numpy(zero_copy_only=False).reshape(-1, dim)
        if vectors.dtype.kind != "f":
            vectors = vectors.astype(np.float64)
        finite = np.isfinite(vectors)
        if not finite.all():
            at = int(finite.all(1).argmin())
            raise self._error(origin, at, f"{vectors[at][~finite[at]][0]} in a vector", "finite numbers")
        return vectors if vectors.flags.writeable else vectors.copy()

    def _error(self, origin: Origin, at: int, found: str, expected: str) -> UserError:
        return UserError(f"{origin.row(at)}, column {self._vector!r}: found {found}, expected {expected}")


def mark(seen: np.ndarray, rows: np.ndarray) -> int | None:
    """Sets the bit in `seen` of each row that is not negative; returns the place of one that was set before, if any."""
    order = np.argsort(rows, kind="stable")
    order = order[np.searchsorted(rows, 0, sorter=order) :]
    ascending = rows[order]
    if not len(order):
        return None
    byte, bit = ascending >> 3, np.uint8(1) << (ascending & 7).astype(np.uint8)
    again = (seen[byte] & bit) != 0
    again[1:] |= ascending[1:] == ascending[:-1]
    if again.any():
        return int(order[again].min())
    starts = np.flatnonzero(np.diff(byte, prepend=-1))
    seen[byte[starts]] |= np.bitwise_or.reduceat(bit, starts)
    return None


def _ids_said(schema: pa.Schema, path: str) -> str | None:
    """Returns what `checkpoint export` said of a file's ids, if it wrote it. Raises UserError for anything else."""
    text = (schema.metadata or {}).get(METADATA, b"{}")
    try:
        said = json.loads(text)
        found = said.get("ids")
    except (ValueError, AttributeError, RecursionError):
        found = 0
    if found is None or isinstance(found, str):
        return found
    shown = in_quotes(text.decode(errors="replace"))
    raise UserError(
        f"{path}: its metadata under {METADATA.decode()!r} is {shown}, expected what `shardrec checkpoint export` says "
        "of ids; export the rows again, or leave the metadata out"
    )
