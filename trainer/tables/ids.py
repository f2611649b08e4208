"""The rows of a table are called outside by the values of its vocabulary where it has one, else by number.

Rows of a dynamic table are called by the ids that have them: raw ids as they are; others are numbers of rows that a
fixed table would have, and called as those would be. Rows that are free, and the default row, have no name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import expect_type, integers, plain_type
from shardrec.data_pipeline.features.hashing import hash_array, is_string
from shardrec.data_pipeline.features.id_transforms import Raw, Vocabulary
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.features.vocabulary import Lookup, kept_values
from shardrec.sharding.checkpoints.id_maps import SavedIdMap
from shardrec.trainer.run_folder.folder import RunFolder

ROW_NUMBERS, RAW_IDS, SCHEMA_IDS = "row numbers", "64-bit ids", "ids that the schema makes"


@dataclass(frozen=True)
class TableIds:
    """The ids of a table are what its rows are called: numbers, or the values that a vocabulary has for them.

    num_ids: ids are the numbers from 0 to `num_ids - 1`; of raw ids, which are any integers, or strings by their
    hashes, there are 2^64. vocabulary: names the numbers 1 to `vocabulary.size`; its file is under `folder`. id_map:
    gives rows of a dynamic table to ids; None: an id is the number of its row. why: rows go by number, in words.
    """

    folder: Path
    num_ids: int
    vocabulary: Vocabulary | None = None
    id_map: SavedIdMap | None = None
    why: str = ""

    @classmethod
    def of(
        cls,
        folder: RunFolder,
        features: Sequence[str],
        num_rows: int,
        *,
        id_map: SavedIdMap | None = None,
        by_number: bool = False,
    ) -> "TableIds":
        """Returns the ids of the table that `features` of the run read; `id_map`: of a dynamic table.

        by_number: rows go by number even where there is a vocabulary or an id map.
        """
        if by_number:
            return cls(folder.path, num_rows, why="as asked for")
        schema = folder.schema()
        num_ids = num_rows if id_map is None else max(schema[name].num_embeddings for name in features)
        vocabulary, why = _vocabulary(folder, schema, features)
        return cls(folder.path, num_ids, vocabulary, id_map, why)

    @property
    def raw(self) -> bool:
        """Says whether any 64 bits may be an id."""
        return self.num_ids == Raw().num_rows

    @property
    def kind(self) -> str:
        """Says what ids are, in the words of exported files."""
        if self.vocabulary is not None:
            return f"values of {self.vocabulary.path}"
        if self.id_map is None:
            return ROW_NUMBERS
        return RAW_IDS if self.raw else SCHEMA_IDS

    @property
    def nameless(self) -> str:
        """Says which rows have no id, in words that follow `rows`."""
        if self.id_map is None:
            return "of unknown and missing values"
        return f"that are free or the default row{', or of unknown and missing values' if self.vocabulary else ''}"

    @property
    def value_type(self) -> pa.DataType:
        """Returns the Arrow type of ids: the vocabulary's, else int64."""
        values = self._values()
        return pa.int64() if values is None else values.type

    @property
    def rows(self) -> range:
        """Returns the range that holds all rows that have an id."""
        if self.id_map is not None:
            return range(self.id_map.rows.num_embeddings)
        return range(1, self.vocabulary.size + 1) if self.vocabulary else range(self.num_ids)

    def blocks(self, step: int) -> Iterator[tuple[pa.Array, Tensor | None]]:
        """Yields, for blocks of `step` of the `rows`, the ids and a mask [n] of the block's rows that have them.

        A mask of None says that all of them do.

        Raises UserError for a vocabulary, or files of an id map, that are damaged or gone.
        """
        values, rows = self._values(), self.rows
        if self.id_map is not None:
            vocabulary = None if values is None else values.combine_chunks()
            columns = (self.id_map.rows.blocks(name, step) for name in ("id", "count"))
            for (_, ids), (_, counts) in zip(*columns, strict=True):
                with_id = counts > 0
                if vocabulary is not None:
                    with_id &= (ids >= 1) & (ids <= len(vocabulary))
                numbers = pa.array(ids[with_id].numpy())
                yield numbers if vocabulary is None else vocabulary.take(pc.subtract(numbers, 1)), with_id
            return
        for start in range(rows.start, rows.stop, step):
            count = min(step, rows.stop - start)
            if values is None:
                yield pa.array(np.arange(start, start + count)), None
            else:
                yield values.slice(start - rows.start, count).combine_chunks(), None

    def _values(self) -> pa.ChunkedArray | None:
        """Returns the vocabulary's values, if there is one. Raises UserError where its file is damaged or gone."""
        if self.vocabulary is None:
            return None
        values = kept_values(self.folder, self.vocabulary.path)
        if values is None or len(values) != self.vocabulary.size:
            state = "cannot be read" if values is None else f"holds {len(values)} values"
            raise UserError(
                f"{self.folder / self.vocabulary.path}: {state}, the schema expects {self.vocabulary.size}; "
                "restore it, or go by row numbers with --rows"
            )
        return values

    def finder(self, step: int) -> "RowFinder | DynamicRowFinder":
        """Returns what looks up the rows of ids; of a dynamic table it gives free rows to new ids, as of `step`.

        Raises UserError for a vocabulary, or files of an id map, that are damaged or gone.
        """
        self._values()
        lookup = self.vocabulary and Lookup.open(self.folder, self.vocabulary.path, self.vocabulary.size)
        numbers = RowFinder(self, lookup or None)
        return numbers if self.id_map is None else DynamicRowFinder(self.id_map, step, None if self.raw else numbers)


class RowFinder:
    """A row finder tells the row of each id of a fixed table, or the number by which a dynamic one knows it."""

    def __init__(self, ids: TableIds, lookup: Lookup | None) -> None:
        self._ids, self._lookup = ids, lookup

    @property
    def expected(self) -> str:
        """Says what a known id is, in the words of an error line."""
        ids = self._ids
        if ids.vocabulary is not None:
            return f"one of the {ids.kind}"
        return f"{'a row' if ids.id_map is None else 'an id'} in [0, {ids.num_ids})"

    def check(self, kind: pa.DataType, file: str, column: str) -> None:
        """Raises UserError unless a column of type `kind` can hold ids of this table."""
        plain = plain_type(kind)
        strings = self._lookup is not None and self._lookup.strings
        right = is_string(plain) if strings else pa.types.is_integer(plain)
        wanted = f"{'strings' if strings else 'integers'} ({self._ids.kind})"
        expect_type(right, file, column, kind, wanted, "the import")

    def rows(self, ids: pa.Array) -> np.ndarray:
        """Returns the rows [n] int64 of [n] ids, none of them null; -1 where an id has no row."""
        if pa.types.is_dictionary(ids.type):
            ids = ids.dictionary_decode()
        if self._lookup is not None:
            rows = self._lookup.rows(ids)
            return np.where(rows == 0, -1, rows)
        numbers = ids.to_numpy()
        return np.where((numbers >= 0) & (numbers < self._ids.num_ids), numbers, -1).astype(np.int64, copy=False)


class DynamicRowFinder:
    """A dynamic row finder tells the row of each id; an id that has none gets one that is free, as of `step`.

    numbers: makes ids of what files call them, and knows which there are; None: they are raw ids.
    """

    def __init__(self, saved: SavedIdMap, step: int, numbers: RowFinder | None = None) -> None:
        self.id_map = saved.whole()
        self._step, self._numbers = step, numbers
        self._fresh: list[Tensor] = []

    @property
    def expected(self) -> str:
        """Says what a known id is, in the words of an error line."""
        return f"{self._numbers.expected if self._numbers else 'an id'} that has a row, or for which one is free"

    @property
    def fresh(self) -> Tensor:
        """Returns (row, id) [n, 2] of all ids that got a row, ascending by row."""
        pairs = torch.cat([torch.empty((0, 2), dtype=torch.int64), *self._fresh])
        return pairs[torch.sort(pairs[:, 0]).indices]

    def check(self, kind: pa.DataType, file: str, column: str) -> None:
        """Raises UserError unless a column of type `kind` can hold ids of this table."""
        if self._numbers is not None:
            self._numbers.check(kind, file, column)
            return
        plain = plain_type(kind)
        right = pa.types.is_integer(plain) or is_string(plain)
        expect_type(right, file, column, kind, f"integers or strings ({RAW_IDS})", "the import")

    def rows(self, ids: pa.Array) -> np.ndarray:
        """Returns the rows [n] int64 of [n] ids, none of them null; -1 where an id has no row and none is free."""
        if pa.types.is_dictionary(ids.type):
            ids = ids.dictionary_decode()
        if self._numbers is None:
            words = hash_array(ids) if is_string(ids.type) else integers(ids)
            return self._rows(words.astype(np.int64))
        numbers = self._numbers.rows(ids)
        known = numbers >= 0
        rows = np.full_like(numbers, -1)
        rows[known] = self._rows(numbers[known])
        return rows

    def _rows(self, ids: np.ndarray) -> np.ndarray:
        """Returns the rows [n] int64 of ids [n] int64, as `rows` does."""
        named = torch.from_numpy(ids)
        rows = self.id_map.find(named)
        new = named[rows < 0].unique()
        if len(new):
            filled = self.id_map.fill(new, self._step)  # -1 where no row is free
            if (filled >= 0).any():
                self._fresh.append(torch.stack([filled, new], 1)[filled >= 0])
                rows = self.id_map.find(named)
        return rows.numpy()


def _vocabulary(folder: RunFolder, schema: Schema, features: Sequence[str]) -> tuple[Vocabulary | None, str]:
    """Returns the vocabulary by which raw rows name a table's rows in all of its features; else why there is none."""
    raw = schema.raw()
    makers = list(dict.fromkeys(raw[name].ids for name in features))
    vocabularies = [ids for ids in makers if isinstance(ids, Vocabulary)]
    if not vocabularies:
        kinds = sorted({ids.kind for ids in makers})
        plain = kinds in (["identity"], ["raw"])
        return None, "the ids of the data" if plain else f"its ids are made by {' and '.join(kinds)}"
    if len(makers) > 1:
        return None, f"its features {', '.join(features)} name its rows in different ways"
    path = vocabularies[0].path
    if path not in schema.vocabularies and not (folder.path / path).exists():  # of prepared rows it need not be kept
        return None, f"{path} is not in the run folder"
    return vocabularies[0], ""
