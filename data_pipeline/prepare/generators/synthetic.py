"""`shardrec prepare synthetic` writes a planted click log, and beside it the best scores that any model can reach.

`best.yaml` holds, for each split, the scores of the true click probability on that split's very rows: AUC, log loss,
normalized entropy. A model may beat them by chance only. Files are written block by block in bounded memory, and are
the same, byte for byte, for any number of workers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.declared.comma_lists import numbers_in
from shardrec.data_pipeline.declared.documents import dump_document
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.sealed_parquet import SealedWriter
from shardrec.data_pipeline.prepare.generators.planted import (
    BLOCK_ROWS,
    ClickLog,
    Histories,
    LogRows,
    PlantedLog,
    Strengths,
)
from shardrec.data_pipeline.prepare.steps.option_values import FIELD_IDS
from shardrec.data_pipeline.prepare.steps.parallel import Workers
from shardrec.data_pipeline.prepare.steps.preparation import Report, Tally
from shardrec.data_pipeline.prepare.steps.progress import Progress, silent
from shardrec.data_pipeline.prepare.steps.splits import FRACTIONS
from shardrec.data_pipeline.prepare.steps.writer import SCHEMA_FILE, SPLITS, Split, staged

BEST_FILE = "best.yaml"
_DICTIONARY_IDS = 4096  # columns of more ids are smaller, and 3 x faster to write, without a dictionary
_PART_BLOCKS = 8  # blocks in a file, which is what a worker writes at a time


@dataclass(frozen=True)
class SyntheticReport(Report):
    """A synthetic report says what was written, and what can be reached on it.

    best: split -> name of a metric -> what the true probabilities reach
    """

    best: Mapping[Split, dict[str, float]]

    def __str__(self) -> str:
        lines = [
            f"best attainable on {split}: AUC {scores['auc']:.4f}, log loss {scores['log_loss']:.4f}"
            for split, scores in self.best.items()
            if "auc" in scores
        ]
        return "\n".join([*lines, super().__str__()])


def synthetic(
    out: str | Path,
    *,
    rows: int = 1_250_000,
    fields: int | None = None,
    ids: int | Sequence[int] = FIELD_IDS,
    dense: int = 4,
    skew: float = 1.2,
    reach: float = 20.0,
    histories: Histories | None = None,
    strengths: Strengths | None = None,
    fractions: Mapping[Split, float] | None = None,
    seed: int = 0,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress = silent,
) -> SyntheticReport:
    """Writes `train/`, `validation/`, `test/`, `schema.yaml` and `best.yaml` as one.

    rows: of all splits together; fractions: the splits' shares of them (default: 0.8, 0.1, 0.1)
    fields: number of id columns; `ids` is their number of ids, each, or of all in turn (repeated as needed)
    skew, reach, histories, strengths: see `planted.py`

    Raises UserError for sizes that make no sense and for a folder that is in use.
    """
    sizes = (ids,) if isinstance(ids, int) else tuple(ids)
    fields = len(sizes) if fields is None else fields
    sizes = tuple(sizes[i % len(sizes)] for i in range(fields)) if sizes else ()
    log = PlantedLog(sizes, dense, skew, reach, histories, strengths or Strengths(), seed)
    return write_log(log, out, rows, fractions, workers, overwrite, progress)


def write_log(
    log: ClickLog,
    out: str | Path,
    rows: int,
    fractions: Mapping[Split, float] | None = None,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress = silent,
) -> SyntheticReport:
    """Writes so many rows of a log, with `schema.yaml` and `best.yaml`, as one. Raises as `synthetic`."""
    parts = _parts(_split_rows(rows, fractions or FRACTIONS))
    with staged(out, overwrite) as folder, Workers(workers) as pool:
        tally, sums = Tally(), {split: _Known() for split in SPLITS}
        log.calibrate()
        written = pool.map(partial(_write, log=log, folder=folder), parts)
        for done, (part, part_sums) in enumerate(zip(parts, written, strict=True), 1):
            sums[part.split].merge(part_sums)
            progress(f"wrote {done} of {len(parts)} files")
        for split, part_sums in sums.items():
            if part_sums.rows:
                tally.rows[split] = part_sums.rows
                tally.add_label("label", split, part_sums.clicks, part_sums.rows)
        best = {split: part_sums.best() for split, part_sums in sums.items() if part_sums.rows}
        (folder / BEST_FILE).write_text(dump_document(best))
        log.schema.save(folder / SCHEMA_FILE)
    return SyntheticReport(Path(out), log.schema, tally, best)


def parse_ids(text: str) -> tuple[int, ...]:
    """Returns (1000, 200) for `1000,200`. Raises UserError for anything but whole numbers."""
    try:
        return tuple(map(int, numbers_in(text, float)))
    except ValueError:
        raise UserError(
            f"--ids: found {text!r}, expected whole numbers separated by commas, such as 10000,200"
        ) from None


def _split_rows(rows: int, fractions: Mapping[Split, float]) -> dict[Split, int]:
    split_rows = {split: round(rows * fractions.get(split, 0.0)) for split in SPLITS}
    split_rows["train"] = rows - split_rows["validation"] - split_rows["test"]
    if split_rows["train"] <= 0 or min(split_rows.values()) < 0:
        raise UserError(
            f"synthetic: rows={rows}, fractions={dict(fractions)}, expected to leave some rows for training"
        )
    return split_rows


# ---------------------------------------------------------------- files


@dataclass(frozen=True)
class _Part:
    """A part is rows [number * part rows, ... + rows) of a split, which are one file."""

    split: Split
    number: int
    rows: int


def _parts(split_rows: dict[Split, int]) -> list[_Part]:
    size = _PART_BLOCKS * BLOCK_ROWS
    return [
        _Part(split, number, min(size, rows - number * size))
        for split, rows in split_rows.items()
        for number in range(math.ceil(rows / size))
    ]


def _write(part: _Part, log: ClickLog, folder: Path) -> "_Known":
    sums = _Known()
    ids = {f.name: f.num_embeddings for f in log.schema.sparse}
    first = log.block(part.split, 0, 0)
    few = [name for name in first.columns if ids.get(name, math.inf) <= _DICTIONARY_IDS] + ["label"]
    few += [f"{name}.list.element" for name in first.lists if ids[name] <= _DICTIONARY_IDS]
    schema = _table(first, ids).schema
    path = folder / part.split / f"part-{part.number:05d}.parquet"
    path.parent.mkdir(exist_ok=True)
    with SealedWriter(path, schema, use_dictionary=few) as writer:
        for index in range(math.ceil(part.rows / BLOCK_ROWS)):
            row_count = min(BLOCK_ROWS, part.rows - index * BLOCK_ROWS)
            block = log.block(part.split, part.number * _PART_BLOCKS + index, row_count)
            writer.write_table(_table(block, ids), row_group_size=BLOCK_ROWS)
            sums.add(block)
    return sums


def _table(block: LogRows, ids: Mapping[str, int]) -> pa.Table:
    """Returns a block as Arrow.

    ids: column -> how many ids it may have, of those that have ids
    """
    columns: dict[str, Any] = {}
    for name, values in block.columns.items():
        columns[name] = pa.array(values, _id_type(ids[name]) if name in ids else None)
    for name, (values, offsets) in block.lists.items():
        of_rows = pa.array(offsets, pa.int32())
        columns[name] = pa.ListArray.from_arrays(of_rows, pa.array(values, _id_type(ids[name])))
    return pa.table(columns | {"probability": block.probability, "label": block.label})


def _id_type(num_ids: int) -> pa.DataType:
    return pa.int32() if num_ids <= 2**31 else pa.int64()


# ---------------------------------------------------------------- what is known of the best scores


_BINS = (0x3F800000 >> 13) + 1  # the float32 1.0, down to 10 bits of mantissa: 1,024 bins for each halving


@dataclass
class _Known:
    """These sums over rows give the scores of their true probabilities.

    counts: [2, bins] rows by label and by probability, in bins 0.1 % wide
    """

    counts: np.ndarray = field(default_factory=lambda: np.zeros((2, _BINS), np.int64))
    losses: list[float] = field(default_factory=list)

    def add(self, block: LogRows) -> None:
        """Adds a block's rows."""
        bins = (block.probability.view(np.uint32) >> 13).astype(np.int64)
        for label in (0, 1):
            self.counts[label] += np.bincount(bins[block.label == label], minlength=_BINS)
        probability = block.probability.astype(np.float64)
        of_label = np.where(block.label == 1, probability, 1 - probability)
        self.losses.append(-float(np.log(of_label).sum()))

    def merge(self, other: "_Known") -> None:
        """Adds what another one holds."""
        self.counts += other.counts
        self.losses += other.losses

    @property
    def rows(self) -> int:
        """Returns the number of rows."""
        return int(self.counts.sum())

    @property
    def clicks(self) -> int:
        """Returns the number of clicks."""
        return int(self.counts[1].sum())

    def best(self) -> dict[str, float]:
        """Returns the log loss and, where both labels occur, AUC and normalized entropy.

        The latter is the log loss over that of the click rate.
        """
        negatives, positives = self.counts.astype(np.float64)
        below = np.cumsum(negatives) - negatives
        rate, loss = self.clicks / self.rows, math.fsum(self.losses) / self.rows
        scores = {}
        if 0 < rate < 1:
            scores["auc"] = float((positives * (below + negatives / 2)).sum() / (positives.sum() * negatives.sum()))
            scores["normalized_entropy"] = loss / -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
        scores |= {"log_loss": loss, "click_rate": rate}
        return {name: round(value, 7) for name, value in scores.items()}
