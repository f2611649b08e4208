"""Prepared data is written to folders that appear complete or not at all, in Parquet files of bounded size."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, get_args

import pyarrow as pa

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.owned_files import check_replaceable
from shardrec.data_pipeline.files.sealed_parquet import SealedWriter
from shardrec.data_pipeline.files.whole_files import whole_folder
from shardrec.data_pipeline.prepare.steps.option_values import FILE_ROWS, ROW_GROUP_ROWS

SCHEMA_FILE = "schema.yaml"
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


def staged(out: str | Path, overwrite: bool = False, inputs: Iterable[str | Path] = ()) -> AbstractContextManager[Path]:
    """Yields a folder to be filled, which then becomes `out`; it is removed if anything is raised.

    Raises UserError where `out` holds anything, unless `overwrite` is given and all in `out` is a preparation's: what
    else is there, `inputs` and the working directory among it, is never replaced.
    """
    check = partial(_check_vacant, overwrite=overwrite, inputs=tuple(inputs))
    return whole_folder(Path(out).expanduser().absolute(), check, listed=True)


def _check_vacant(out: Path, overwrite: bool, inputs: Sequence[str | Path]) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out}: is a file; name a folder for the prepared data")
    if not any(out.iterdir()):
        return
    if not overwrite:
        raise UserError(f"{out}: is not empty; name another folder or give --overwrite")
    check_replaceable(out, inputs)


class RowsWriter:
    """A rows writer makes `folder/part-<part>-<n>.parquet` of rows.

    Files are compressed by zstd, sealed against flipped bytes, and have row groups of exactly `row_group_rows`, but for
    a file's last one. Nothing is created before the first row comes.

    part: place of the input in the order of inputs, so that the files' names sort in row order
    rows: rows written so far
    """

    def __init__(
        self, folder: str | Path, part: int = 0, row_group_rows: int = ROW_GROUP_ROWS, file_rows: int = FILE_ROWS
    ) -> None:
        self._folder = Path(folder)
        self._part = part
        self._group_rows = row_group_rows
        self._groups_a_file = max(1, file_rows // row_group_rows)
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._groups = 0
        self._file: SealedWriter | None = None
        self.rows = 0

    def __enter__(self) -> "RowsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._file is not None:
            self._file.close()

    def write(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Adds rows; all must have the schema of the first ones."""
        table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        if not len(table):
            return
        self._waiting.append(table)
        self._waiting_rows += len(table)
        self.rows += len(table)
        if self._waiting_rows >= self._group_rows:
            waiting = pa.concat_tables(self._waiting)
            start = 0
            while len(waiting) - start >= self._group_rows:
                self._write_group(waiting.slice(start, self._group_rows))
                start += self._group_rows
            self._waiting = [waiting.slice(start)]
            self._waiting_rows = len(waiting) - start

    def close(self) -> None:
        """Writes the last, short row group."""
        if self._waiting_rows:
            self._write_group(pa.concat_tables(self._waiting))
            self._waiting, self._waiting_rows = [], 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write_group(self, group: pa.Table) -> None:
        if self._groups % self._groups_a_file == 0:
            if self._file is not None:
                self._file.close()
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"part-{self._part:05d}-{self._groups // self._groups_a_file:05d}.parquet"
            self._file = SealedWriter(self._folder / name, group.schema)
        assert self._file is not None
        self._file.write_table(group.combine_chunks(), row_group_size=self._group_rows)
        self._groups += 1
