"""Rows to be scored are files, or lie in memory: then they are written to a file of their own, and come back."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.sealed_parquet import write_sealed
from shardrec.trainer.config.paths import absolute

Data: TypeAlias = Any
"""Files, folders, globs or URIs; or rows in memory: a pyarrow.Table or a pandas.DataFrame."""


@dataclass(frozen=True)
class Rows:
    """Rows are either `paths` or `given` in memory; `columns` are known of the latter alone."""

    given: Any = None
    paths: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: Data) -> "Rows":
        """Takes what a user passed. Raises UserError for anything but files, a pyarrow.Table and a pandas.DataFrame."""
        if isinstance(data, pa.RecordBatch):
            data = pa.Table.from_batches([data])
        if isinstance(data, pa.Table) or _is_frame(data):
            return cls(given=data)
        paths = [data] if isinstance(data, str | Path) else data
        if isinstance(paths, list | tuple) and paths and all(isinstance(path, str | Path) for path in paths):
            return cls(paths=absolute(tuple(map(str, paths))))
        found = "no files" if isinstance(paths, list | tuple) and not paths else f"a {type(data).__name__}"
        raise UserError(f"data: found {found}, expected files, a pyarrow.Table or a pandas.DataFrame")

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Returns the columns of rows in memory; None for files."""
        if self.given is None:
            return None
        return tuple(self.given.column_names if isinstance(self.given, pa.Table) else map(str, self.given.columns))

    @contextmanager
    def files(self, wanted: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Yields the files to read; those of rows in memory hold the `wanted` columns and are removed afterwards.

        Raises UserError for rows in memory that lack one of them, or have one that Arrow has no form for.
        """
        if self.given is None:
            yield self.paths
            return
        with tempfile.TemporaryDirectory() as scratch:
            path = os.path.join(scratch, "rows.parquet")
            try:
                write_sealed(self.selected(tuple(dict.fromkeys(wanted))), path)
                yield (path,)
            except UserError as error:
                raise UserError(str(error).replace(path, "the rows given")) from None

    @property
    def num_rows(self) -> int | None:
        """Returns the number of rows in memory; None for files."""
        return None if self.given is None else len(self.given)

    def answer(self, scores: pa.Table) -> Any:
        """Returns scores in the form in which the rows came: a table, or a frame under the same index."""
        return scores if isinstance(self.given, pa.Table) else scores.to_pandas().set_index(self.given.index)

    def reordered(self, rows: pa.Table, place: str) -> Any:
        """Returns rows in an order of their own, in the form in which they came; `place`: the column of their places.

        A frame has the index of the rows that they were.
        """
        if self.given is None or isinstance(self.given, pa.Table):
            return rows
        return rows.to_pandas().set_index(self.given.index.take(rows[place].to_numpy()))

    def selected(self, wanted: tuple[str, ...]) -> pa.Table:
        """Returns some columns of rows in memory. Raises UserError as `files` does."""
        columns = self.columns or ()
        for name in wanted:
            if columns.count(name) != 1:
                problem = f"column {name!r} is there {columns.count(name)} times" if name in columns else ""
                raise UserError(f"the rows given: {problem or unknown('column', name, list(columns))}")
        if isinstance(self.given, pa.Table):
            return self.given.select(list(wanted))
        try:
            return pa.Table.from_pandas(self.given[list(wanted)], preserve_index=False)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise UserError(f"the rows given: {str(error).splitlines()[0]}") from None


def _is_frame(data: Any) -> bool:
    """Returns whether data are a pandas.DataFrame, without loading pandas."""
    return type(data).__module__.split(".")[0] == "pandas" and hasattr(data, "columns")
