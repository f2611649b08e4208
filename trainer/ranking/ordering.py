"""Rows of a group, such as the candidates of a request, are ordered by probability, or by probability x bid."""

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.checkpoints.calibration import Calibration
from shardrec.trainer.scoring.predict import ROW, SCORE

RANK, ORDERED_BY, PCTR, BID, ECPM = "rank", "score", "pctr", "bid", "ecpm"

MILLE = 1000
"""Impressions that an eCPM is the price of."""

NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)

OPTIONS = (
    ("group", str, "the name of a column"),
    ("bid", str, "the name of a column"),
    ("reserve", Real, "an eCPM of 0 or more"),
    ("top", Integral, "1 or more"),
)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ordering:
    """An ordering says what rows are grouped and ordered by.

    group: the column whose equal values are one group; None: all rows are one. bid: the column of prices for a click;
    None: rows are ordered by probability alone. reserve: the least eCPM, of 1,000 impressions in the bids' currency,
    that a row is kept with. top: the most rows of a group that are kept.
    """

    group: str | None = None
    bid: str | None = None
    reserve: float | None = None
    top: int | None = None

    def __post_init__(self) -> None:
        for name, kind, expected in OPTIONS:
            if (found := getattr(self, name)) is not None and not isinstance(found, kind):
                raise UserError(f"--{name}: found {found!r}, expected {expected}")
        if self.reserve is not None and self.bid is None:
            raise UserError("--reserve: a least price needs bids; name their column with --bid")
        if self.reserve is not None and not (np.isfinite(self.reserve) and self.reserve >= 0):
            raise UserError(f"--reserve: found {self.reserve:g}, expected an eCPM of 0 or more")
        if self.top is not None and self.top < 1:
            raise UserError(f"--top: found {self.top}, expected 1 or more")

    @property
    def columns(self) -> tuple[str, ...]:
        """Returns the columns of rows that it goes by."""
        return tuple(name for name in (self.group, self.bid) if name is not None)

    @property
    def made(self) -> tuple[str, ...]:
        """Returns the columns that `ordered` adds."""
        return (RANK, ORDERED_BY, PCTR, *((BID, ECPM) if self.bid else ()))

    def check(self, keys: tuple[str, ...]) -> None:
        """Raises UserError where a column to keep takes the name of one that is added."""
        if taken := sorted({ROW, *self.made} & (set(keys) - {self.bid})):
            raise UserError(f"column {taken[0]!r}: the ranking has a column of that name; rename it, or leave it out")

    def ordered(self, scored: pa.Table, calibration: Calibration | None = None) -> pa.Table:
        """Orders rows with `row`, `prediction` and the columns that this goes by; groups come as their first rows do.

        Returns them with `rank` (1 is the best of the group), `score` (what they are ordered by), `pctr` (the
        prediction, calibrated if that is asked for), and with bids `bid` and `ecpm` (1000 x pctr x bid). Of equal
        scores the larger prediction comes first, since a calibration has steps, and then the earlier row. Raises
        UserError for a bid that is no number of 0 or more, and for a score that is NaN.
        """
        prediction = scored[SCORE].to_numpy().astype(np.float64)
        if np.isnan(prediction).any():
            raise UserError(f"the model scores row {_first(scored, np.isnan(prediction))} as NaN; take another step")
        pctr = prediction if calibration is None else calibration(prediction)
        added = {PCTR: pctr}
        score = pctr
        if self.bid is not None:
            bid = self._bids(scored)
            added |= {BID: bid, ECPM: (score := MILLE * pctr * bid)}
        keep = np.ones(len(score), dtype=bool) if self.reserve is None else score >= self.reserve
        group = self._groups(scored)
        order = np.lexsort((scored[ROW].to_numpy(), -prediction, -score, group))
        order = order[keep[order]]
        rank = _places(group[order])
        if self.top is not None:
            order, rank = order[rank <= self.top], rank[rank <= self.top]
        kept = [name for name in scored.column_names if name not in (ROW, SCORE, self.bid)]
        columns: dict[str, Any] = {name: scored[name].take(pa.array(order)) for name in (*kept, ROW)}
        columns |= {RANK: rank, ORDERED_BY: score[order]} | {name: values[order] for name, values in added.items()}
        return pa.table(columns)

    def _bids(self, scored: pa.Table) -> Array:
        column = scored[self.bid]
        if not any(is_type(column.type) for is_type in NUMBERS):
            raise UserError(f"--bid: column {self.bid!r} is {column.type}, expected numbers")
        bid = column.cast(pa.float64()).to_numpy()
        with np.errstate(over="ignore"):
            wrong = ~(np.isfinite(MILLE * bid) & (bid >= 0))
        if wrong.any():
            at = int(wrong.argmax())
            found = "no bid" if not column[at].is_valid else f"a bid of {bid[at]:g}"
            where = f"row {_first(scored, wrong)} has {found} in column {self.bid!r}"
            raise UserError(f"--bid: {where}, expected 0 or more; leave the row out")
        return bid

    def _groups(self, scored: pa.Table) -> NDArray[np.int64]:
        """Returns [n] numbers of groups, in the order of their first rows; `scored` is in the order of rows."""
        if self.group is None:
            return np.zeros(len(scored), dtype=np.int64)
        column = scored[self.group].combine_chunks()
        if column.null_count:
            at = _first(scored, pc.is_null(column).to_numpy(zero_copy_only=False))
            raise UserError(f"--group: row {at} has no {self.group!r}, so that it is not known what it competes with")
        try:
            codes = pc.dictionary_encode(column)
        except pa.ArrowNotImplementedError:
            raise UserError(f"--group: column {self.group!r} is {column.type}, expected one value a row") from None
        codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
        return codes.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _first(scored: pa.Table, wrong: NDArray[np.bool_]) -> int:
    """Returns the place in the data of the first row that is wrong."""
    return int(scored[ROW][int(wrong.argmax())].as_py())


def _places(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the place of each row in its group, from 1 on; groups: ascending."""
    starts = np.flatnonzero(np.append(True, groups[1:] != groups[:-1])[: len(groups)])
    lengths = np.diff(np.append(starts, len(groups)))
    return np.arange(len(groups)) - np.repeat(starts, lengths) + 1
