"""A row goes to a split by hash, by time, by a column, or as its file says, whatever the workers and batches."""

from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from shardrec.data_pipeline.declared.declaration import Declaration
from shardrec.data_pipeline.errors import UserError, shortened
from shardrec.data_pipeline.features.arrow_values import Origin, Place, missing_values
from shardrec.data_pipeline.features.hashing import hash_array, hash_words
from shardrec.data_pipeline.prepare.steps.writer import SPLITS, Split

LEFT_OUT = -1  # the code of rows that are not written; other codes are places in SPLITS


def draw(purpose: str, seed: int, words: list[np.ndarray]) -> np.ndarray:
    """Returns [n] float64, uniform in [0, 1): a pure function of (purpose, seed, words), k arrays [n] uint64."""
    named = np.full(len(words[0]), int.from_bytes(purpose.encode()[:8].ljust(8), "little"), np.uint64)
    return (hash_words([named, *words], seed) >> np.uint64(11)) * 2.0**-53


class RowNumbers:
    """Row numbers are those of a batch's rows that do not depend on batches or workers.

    words: the input file's place and the row's number in it, [n] uint64 each
    """

    def __init__(self, part: int, first: int, n: int) -> None:
        self.words = [np.full(n, part, np.uint64), np.arange(first, first + n, dtype=np.uint64)]


FRACTIONS: dict[Split, float] = {"train": 0.8, "validation": 0.1, "test": 0.1}


class _Fractions(Declaration):
    fractions: dict[Split, float] = Field(default=FRACTIONS, validate_default=True)

    @model_validator(mode="after")
    def _whole(self) -> "_Fractions":
        shares = list(self.fractions.values())
        if any(not 0 <= s <= 1 for s in shares) or abs(sum(shares) - 1) > 1e-6 or not self.fractions.get("train"):
            raise ValueError("fractions must be shares that sum to 1, with some for train")
        return self

    def ends(self) -> np.ndarray:
        """Returns [2] float64: where train and validation end, in [0, 1]."""
        shares = [self.fractions.get(name, 0.0) for name in SPLITS]
        total = np.cumsum(shares)[:2]
        return np.where(np.cumsum(shares)[:2] > 1 - 1e-9, 1.0, total)


class HashSplit(_Fractions):
    """A hash split goes by XXH64 of the values of `columns` (none: of the row's number): equal values stay together."""

    by: Literal["hash"] = "hash"
    columns: tuple[str, ...] = ()
    seed: int = Field(default=0, ge=0, lt=2**64)

    def codes(self, batch: pa.RecordBatch, rows: RowNumbers, origin: Origin) -> np.ndarray:
        """Returns [n] int8 places in SPLITS. A null is a value like others."""
        words = rows.words
        if self.columns:
            words = []
            for name in self.columns:
                values = batch.column(name)
                missing = missing_values(values)
                hashes = hash_array(values)
                words.append(hashes if missing is None else np.where(missing, np.uint64(0), hashes))
        return np.searchsorted(self.ends(), draw("split", self.seed, words), side="right").astype(np.int8)


class TimeSplit(_Fractions):
    """A time split sends rows to train before `cuts[0]`, to validation before `cuts[1]`, to test from there on.

    One cut leaves out validation, `[cut, null]` test.

    Without cuts they are found so that the splits have these `fractions` of the rows (rows of one time stay together).
    """

    by: Literal["time"] = "time"
    column: str
    type: Literal["integer", "number", "string"] = "integer"
    cuts: tuple[int | float | str | None, ...] = Field(default=(), max_length=2)

    @model_validator(mode="after")
    def _comparable(self) -> "TimeSplit":
        cuts: list[Any] = [c for c in self.cuts if c is not None]
        kinds: dict[str, Any] = {"integer": int, "number": int | float, "string": str}
        if not all(isinstance(c, kinds[self.type]) and (isinstance(c, str) or abs(c) < 2**63) for c in cuts):
            raise ValueError(f"cuts of type {self.type} expected, found {shortened(cuts)}")
        if cuts != sorted(cuts) or (None in self.cuts and self.cuts != (*cuts, None)):
            raise ValueError("cuts must ascend")
        return self

    def codes(self, batch: pa.RecordBatch, rows: RowNumbers, origin: Origin) -> np.ndarray:
        """Returns [n] int8 places in SPLITS. Raises UserError for a null."""
        times = batch.column(self.column)
        _no_null(times, self.column, origin, "a time")
        codes = np.zeros(len(times), np.int8)
        for place, cut in zip(range(3 - len(self.cuts), 3), self.cuts, strict=True):
            if cut is not None:
                codes[pc.greater_equal(times, pa.scalar(cut, times.type)).to_numpy(zero_copy_only=False)] = place
        return codes

    def cut(self, counts: pa.Table) -> "TimeSplit":
        """Returns the split with cuts that give its fractions.

        counts: columns value (times, ascending) and count
        """
        if not len(counts):
            raise UserError(f"column {self.column!r}: the input has no rows to split")
        below = np.cumsum(counts.column("count").to_numpy())  # rows up to and with each time
        times = counts.column("value").to_pylist()
        cuts: list[int | float | str | None] = []
        for end in self.ends():
            if end == 1:
                cuts.append(None)
                continue
            place = int(np.searchsorted(below, round(end * below[-1]))) + 1
            if place >= len(times):
                raise UserError(
                    f"column {self.column!r} has {len(times)} distinct times, too few to split; give `cuts`"
                )
            cuts.append(times[place])
        return self.model_copy(update={"cuts": tuple(cuts)})


class ColumnSplit(Declaration):
    """A column split goes by the value of a column, which `values` maps to a split."""

    by: Literal["column"] = "column"
    column: str
    values: dict[str, Split] = Field(default={"train": "train", "validation": "validation", "test": "test"})

    def codes(self, batch: pa.RecordBatch, rows: RowNumbers, origin: Origin) -> np.ndarray:
        """Returns [n] int8 places in SPLITS. Raises UserError for a value that is not in `values`."""
        values = batch.column(self.column).cast(pa.string())
        _no_null(values, self.column, origin, "the name of a split")
        names = list(self.values)
        place = pc.index_in(values, pa.array(names, pa.string()))
        if place.null_count:
            at = int(place.is_null().to_numpy(zero_copy_only=False).argmax())
            raise Place(origin, self.column).error(at, repr(values[at].as_py()), f"one of {', '.join(names)}")
        codes = np.array([SPLITS.index(self.values[name]) for name in names], np.int8)
        return codes[place.to_numpy()]


def _no_null(values: pa.Array, column: str, origin: Origin, expected: str) -> None:
    missing = missing_values(values)
    if missing is not None:
        raise Place(origin, column).error(missing.argmax(), "null", expected)


SplitRule = Annotated[HashSplit | TimeSplit | ColumnSplit, Field(discriminator="by")]
