"""A bundle scores raw rows, and finds items for users."""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from .calibration import Calibration
from .features import Column, Feature, check_equal
from .manifest import read_manifest
from .programs import Program
from .rows import RowError, Rows
from .tables import DamagedError, Mapped, Tables, opened

BLOCK_ITEMS = 8192  # items whose products with users are made at once


class Bundle:
    """A bundle scores raw rows. It opens at once, whatever its tables' sizes: they are mapped into memory.

    manifest: what `bundle.json` says. columns: the raw columns that rows have, each with the Arrow type it is read as,
    and a `?` where it may be missing. item_columns, context_columns: those that describe the candidate item, and the
    others. user_columns: those that the user's half of the tower reads. retrieves: whether `user_vectors`, `top_n` and
    `similar` are there.
    """

    def __init__(self, folder: str | os.PathLike[str], *, threads: int | None = None, prepared: bool = False) -> None:
        """Opens a bundle's folder.

        threads: of torch in this process; None: as it is. prepared: rows are as `shardrec prepare` wrote them, where
        ids are numbers, and not as they were before. Raises ValueError for a folder that is no whole bundle.
        """
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        if threads is not None:
            torch.set_num_threads(threads)
        self._tables = Tables(self.folder, self.manifest)
        rows = self.manifest["prepared" if prepared else "raw"]
        self.columns: dict[str, str] = rows["columns"]
        self.item_columns: list[str] = rows["item_columns"]
        self.context_columns = [c for c in self.columns if c not in self.item_columns]
        self._features = {spec["name"]: Feature(spec, self.columns, self._tables) for spec in rows["features"]}
        self._programs = {
            name: Program(self.folder / spec["file"], spec, self._tables)
            for name, spec in self.manifest["programs"].items()
        }
        self._columns_of = {
            name: list(dict.fromkeys(c for feature in program.features for c in self._features[feature].columns))
            for name, program in self._programs.items()
        }
        self.user_columns = self._columns_of.get("user", [])
        self._calibration = None
        if (self.folder / "calibration.json").exists():
            self._calibration = Calibration(self.folder, self.manifest.get("run", {}))
        self.retrieves = "user" in self._programs

    # ------------------------------------------------------------ scores

    def score(self, rows: Any) -> Any:
        """Returns a prediction for each row: [B] float32; of C classes [B, C], for a list of ids a list of B arrays.

        rows: a pyarrow.Table or RecordBatch, a pandas.DataFrame, a dict of columns, or a list of dicts; other columns
        than the bundle's own are passed over. Raises RowError for a row that cannot be read.
        """
        return self._calibrated(self._run("tower", rows))

    def score_candidates(self, context: Any, candidates: Any) -> Any:
        """Returns a prediction for each candidate beside one row of context, as `score` does.

        context: a dict of values, or a table of one row. candidates: C rows of the columns in which they differ
        (`item_columns`, or others). What depends on the context alone is computed once. Raises RowError.
        """
        one, rows = self._context(context), Rows.of(candidates, self.columns)
        if not rows.count:
            return self._run("tower", [])
        own = {column for column in self.columns if rows.get(column) is not None}
        varying = {name for name, feature in self._features.items() if own.intersection(feature.columns)}
        cut = "candidate" in self._programs and varying.isdisjoint(self._programs["shared"].features)
        programs = [self._programs[name] for name in (("shared", "candidate") if cut else ("tower",))]
        names = dict.fromkeys(name for program in programs for name in program.features)
        shared = {name: self._features[name].read(one) for name in names if name not in varying}
        once = programs[0](shared, 1) if cut else ()

        def read(block: Rows) -> Mapping[str, Column]:
            return self._aligned(shared | {name: self._features[name].read(block) for name in names if name in varying})

        return self._calibrated(programs[-1].by_block(rows.beside(one), read, *once))

    def _context(self, context: Any) -> Rows:
        """Returns the one row that candidates have in common, which may have no columns at all."""
        if isinstance(context, Mapping) and not context:
            return Rows(1, lambda name: None)
        try:
            one = Rows.of([context] if isinstance(context, Mapping) else context, self.columns)
        except RowError as error:
            raise RowError(f"context: {error.message}") from None
        if one.count != 1:
            raise RowError(f"the context is one row, found {one.count}")
        return one

    def _run(self, program: str, rows: Any) -> Any:
        read = partial(self._read, self._programs[program].features)
        return self._programs[program].by_block(Rows.of(rows, self._columns_of[program]), read)

    def _read(self, features: Iterable[str], rows: Rows) -> dict[str, Column]:
        return self._aligned({name: self._features[name].read(rows) for name in features})

    def read(self, rows: Any) -> dict[str, Column]:
        """Returns what rows become: by feature its table rows or numbers. Raises RowError."""
        return self._read(self._features, Rows.of(rows, self.columns))

    def _aligned(self, columns: dict[str, Column]) -> dict[str, Column]:
        """Returns the columns. Raises RowError where aligned lists are not equally long."""
        first: dict[str, tuple[str, np.ndarray]] = {}
        for name, column in columns.items():
            if (aligned := self._features[name].aligned) is not None and column.full is not None:
                other, full = first.setdefault(aligned, (name, column.full))
                check_equal(column.full, full, name, f"found {{}} elements beside {{}} of {other!r}")
        return columns

    def _calibrated(self, scores: Any) -> Any:
        return scores if self._calibration is None else self._calibration(scores)

    # ------------------------------------------------------------ items for users, where `retrieves`

    def user_vectors(self, rows: Any) -> np.ndarray:
        """Returns users' vectors, [B, D] float32, of rows with the user tower's columns. Raises RowError."""
        if not self.retrieves:
            raise ValueError(f"{self.folder}: this bundle makes no lists of items: {self.no_shared_space}")
        return np.asarray(self._run("user", rows))

    def top_n(
        self, rows: Any, n: int, *, seen: Sequence[Sequence[Any]] | None = None
    ) -> tuple[list[list[Any]], np.ndarray]:
        """Returns for each row the n best items of the catalogue: their ids, best first, and scores [B, n] float32.

        seen: for each row the ids of items to leave out; unknown ones are passed over. Where fewer than n are left, ids
        are fewer and scores end in -inf. Raises RowError.
        """
        users = self.user_vectors(rows)
        if seen is not None and len(seen) != len(users):
            raise RowError(f"`seen` has lists for {len(seen)} rows, the rows are {len(users)}")
        return self._nearest(users, n, [[self._places[i] for i in ids if i in self._places] for ids in seen or ()])

    def similar(self, ids: Sequence[Any], n: int) -> tuple[list[list[Any]], np.ndarray]:
        """Returns for each item the n others of the largest cosines, as `top_n` does. Raises RowError."""
        self.user_vectors([])
        for row, item in enumerate(ids):
            if item not in self._places:
                raise RowError(f"found the item {item!r}, which is not in the catalogue", row)
        at = [self._places[item] for item in ids]
        vectors = self._items[at] / self._norms[at, None]
        return self._nearest(vectors.numpy(), n, [[i] for i in at], self._norms)

    def _nearest(
        self, queries: np.ndarray, n: int, left_out: Sequence[Sequence[int]], norms: Tensor | None = None
    ) -> tuple[list[list[Any]], np.ndarray]:
        """Returns the items of the largest products with queries [B, D], by blocks of items."""
        if n < 1:
            raise ValueError(f"found n = {n}, expected at least 1")
        best, at = torch.full((len(queries), 0), -torch.inf), torch.zeros((len(queries), 0), dtype=torch.int64)
        excluded = [(row, place) for row, places in enumerate(left_out) for place in places]
        row, place = torch.tensor(excluded, dtype=torch.int64).reshape(-1, 2).T
        for start in range(0, len(self._items), BLOCK_ITEMS):
            items = self._items[start : start + BLOCK_ITEMS]
            products = torch.from_numpy(queries) @ items.T
            if norms is not None:
                products /= norms[start : start + BLOCK_ITEMS]
            here = (place >= start) & (place < start + len(items))
            products[row[here], place[here] - start] = -torch.inf
            top, columns = products.topk(min(n, len(items)), dim=1)
            best, order = torch.cat([best, top], 1).sort(dim=1, descending=True, stable=True)
            best, at = best[:, :n], torch.cat([at, columns + start], 1).gather(1, order)[:, :n]
        if bool(best.isnan().any()):
            raise DamagedError(self.folder / "items.npy", "vectors of items that are no numbers")
        counts = (best > -torch.inf).sum(1).tolist()
        found = [self._item_ids.take(pa.array(of[:c].numpy())).to_pylist() for of, c in zip(at, counts, strict=True)]
        scores = np.full((len(queries), n), -np.inf, np.float32)
        scores[:, : best.shape[1]] = best.numpy()
        return found, scores

    @property
    def no_shared_space(self) -> str:
        """Returns why this bundle makes no lists of items, where it does not."""
        return self.manifest.get("no_shared_space") or "it has no program of users"

    @cached_property
    def _items_file(self) -> Mapped:
        of = self.manifest["catalogue"]
        return opened(self.folder / "items.npy", (of["items"], of["dim"]), mode="c")  # never written

    @property
    def _items(self) -> Tensor:
        return torch.from_numpy(self._items_file.content)

    @cached_property
    def _norms(self) -> Tensor:
        return self._items.norm(dim=1).clamp(min=1e-12)

    @cached_property
    def _item_ids(self) -> pa.Array:
        path, count = self.folder / "items.parquet", self.manifest["catalogue"]["items"]
        try:
            found = pq.read_table(path).column(0).combine_chunks()
        except (pa.ArrowException, OSError, IndexError) as error:
            raise DamagedError(path, error) from None
        if len(found) != count:
            raise DamagedError(path, f"{len(found):,} items, expected {count:,}")
        return found

    @cached_property
    def _places(self) -> dict[Any, int]:
        return {item: place for place, item in enumerate(self._item_ids.to_pylist())}

    # ------------------------------------------------------------ files

    def vectors(self, table: str, rows: np.ndarray) -> np.ndarray:
        """Returns a table's rows: [n] -> float32 [n, D]."""
        return self._tables.vectors(table, rows)
