"""What the rows of a table are called outside: by the values of its vocabulary where it has one, else by number."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_pipeline.arrow_values import expect_type, plain_type
from data_pipeline.errors import UserError
from data_pipeline.hashing import is_string
from data_pipeline.schema import Schema, Vocabulary
from data_pipeline.vocabulary import Lookup, kept_values
from trainer.run_folder import RunFolder

ROW_NUMBERS = "row numbers"


@dataclass(frozen=True)
class TableIds:
    """The ids of a table of `num_rows` rows.

    vocabulary: what names the rows 1 to `vocabulary.size`, a file under `folder`; None: rows are named by number, from
    0 on. why: it is numbers, in words.
    """

    folder: Path
    num_rows: int
    vocabulary: Vocabulary | None
    why: str = ""

    @classmethod
    def of(cls, folder: RunFolder, features: Sequence[str], num_rows: int, *, by_number: bool = False) -> "TableIds":
        """Of the table that `features` of the run read. `by_number`: rows are named by number whatever there is."""
        vocabulary, why = (None, "as asked for") if by_number else _vocabulary(folder, folder.schema(), features)
        return cls(folder.path, num_rows, vocabulary, why)

    @property
    def kind(self) -> str:
        """What ids are, as exported files say it."""
        return f"values of {self.vocabulary.path}" if self.vocabulary else ROW_NUMBERS

    @property
    def named_rows(self) -> range:
        """The rows that have an id. Of a vocabulary's table those for unknown and for missing values have none."""
        return range(1, self.vocabulary.size + 1) if self.vocabulary else range(self.num_rows)

    def values(self) -> pa.ChunkedArray | None:
        """The ids of `named_rows`; None: their numbers. Raises UserError for a vocabulary that is damaged or gone."""
        if self.vocabulary is None:
            return None
        values = kept_values(self.folder, self.vocabulary.path)
        if values is None or len(values) != self.vocabulary.size:
            found = "cannot be read" if values is None else f"holds {len(values)} values"
            raise UserError(
                f"{self.folder / self.vocabulary.path}: {found}, the schema expects {self.vocabulary.size}; "
                "restore it, or go by row numbers with --rows"
            )
        return values

    def finder(self) -> "RowFinder":
        """What looks ids up. Raises UserError for a vocabulary that is damaged or gone."""
        self.values()
        lookup = self.vocabulary and Lookup.open(self.folder, self.vocabulary.path, self.vocabulary.size)
        return RowFinder(self, lookup or None)


class RowFinder:
    """ids -> rows."""

    def __init__(self, ids: TableIds, lookup: Lookup | None) -> None:
        self._ids, self._lookup = ids, lookup

    @property
    def expected(self) -> str:
        """What a known id is, in the words of an error line."""
        ids = self._ids
        return f"a row in [0, {ids.num_rows})" if ids.vocabulary is None else f"one of the {ids.kind}"

    def check(self, kind: pa.DataType, file: str, column: str) -> None:
        """Raises UserError unless a column of type `kind` can hold ids of this table."""
        plain = plain_type(kind)
        strings = self._lookup is not None and self._lookup.strings
        right = is_string(plain) if strings else pa.types.is_integer(plain)
        wanted = f"{'strings' if strings else 'integers'} ({self._ids.kind})"
        expect_type(right, file, column, kind, wanted, "the import")

    def rows(self, ids: pa.Array) -> np.ndarray:
        """[n] ids, none of them null -> [n] int64, -1 where there is no such row."""
        if pa.types.is_dictionary(ids.type):
            ids = ids.dictionary_decode()
        if self._lookup is not None:
            rows = self._lookup.rows(ids)
            return np.where(rows == 0, -1, rows)
        numbers = ids.to_numpy()
        return np.where((numbers >= 0) & (numbers < self._ids.num_rows), numbers, -1).astype(np.int64, copy=False)


def _vocabulary(folder: RunFolder, schema: Schema, features: Sequence[str]) -> tuple[Vocabulary | None, str]:
    """The vocabulary by which all features of a table name its rows, as raw rows hold them; else why there is none."""
    raw = schema.raw()
    makers = list(dict.fromkeys(raw[name].ids for name in features))
    vocabularies = [ids for ids in makers if isinstance(ids, Vocabulary)]
    if not vocabularies:
        kinds = sorted({ids.kind for ids in makers})
        return None, "the ids of the data" if kinds == ["identity"] else f"its ids are made by {' and '.join(kinds)}"
    if len(makers) > 1:
        return None, f"its features {', '.join(features)} name its rows in different ways"
    path = vocabularies[0].path
    if path not in schema.vocabularies and not (folder.path / path).exists():  # of prepared rows it need not be kept
        return None, f"{path} is not in the run folder"
    return vocabularies[0], ""
