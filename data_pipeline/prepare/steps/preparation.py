"""Raw files are prepared in two passes: fit on training rows, then write every row as table rows and numbers.

Both passes stream, file by file, on as many workers as asked for. What a row becomes depends on its file and its place
there only, so that the output is the same, byte for byte, for any number of workers.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.id_transforms import Raw
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.prepare.steps.fitting import find_cuts, fit
from shardrec.data_pipeline.prepare.steps.option_values import FILE_ROWS, ROW_GROUP_ROWS
from shardrec.data_pipeline.prepare.steps.parallel import Workers
from shardrec.data_pipeline.prepare.steps.progress import Progress, silent
from shardrec.data_pipeline.prepare.steps.recipe import Fitted, Recipe
from shardrec.data_pipeline.prepare.steps.rewriter import Rewriter
from shardrec.data_pipeline.prepare.steps.selection import Numbered, Selection
from shardrec.data_pipeline.prepare.steps.source import RawSource
from shardrec.data_pipeline.prepare.steps.splits import LEFT_OUT, TimeSplit
from shardrec.data_pipeline.prepare.steps.writer import (
    SCHEMA_FILE,
    SPLITS,
    RowsWriter,
    staged,
)


@dataclass(frozen=True)
class Output:
    """An output says where and how prepared data is written."""

    folder: str | Path
    overwrite: bool = False
    workers: int = 1
    row_group_rows: int = ROW_GROUP_ROWS
    file_rows: int = FILE_ROWS


@dataclass
class Tally:
    """A tally counts what was written.

    rows: split -> rows; labels: label -> split -> (sum, how many); dropped: negatives left out of training
    """

    rows: dict[str, int] = field(default_factory=dict)
    labels: dict[str, dict[str, tuple[float, int]]] = field(default_factory=dict)
    dropped: int = 0

    def add_label(self, name: str, split: str, total: float, count: int) -> None:
        """Adds `count` labels that sum to `total`."""
        before = self.labels.setdefault(name, {}).get(split, (0.0, 0))
        self.labels[name][split] = (before[0] + total, before[1] + count)

    def merge(self, other: "Tally") -> None:
        """Adds another file's tally."""
        for split, rows in other.rows.items():
            self.rows[split] = self.rows.get(split, 0) + rows
        for name, sums in other.labels.items():
            for split, (total, count) in sums.items():
                self.add_label(name, split, total, count)
        self.dropped += other.dropped


@dataclass(frozen=True)
class Report:
    """A report says what a finished preparation wrote; as text it is the summary that commands print.

    notes: further lines of it
    """

    folder: Path
    schema: Schema
    tally: Tally
    notes: tuple[str, ...] = field(default=(), kw_only=True)

    def __str__(self) -> str:
        lines = []
        for split in SPLITS:
            if self.tally.rows.get(split):
                means = [
                    f"mean {name} {total / count:.4f}" if count else f"no {name}"
                    for name, sums in self.tally.labels.items()
                    for total, count in [sums.get(split, (0.0, 0))]
                ]
                lines.append(f"{split:<11}{self.tally.rows[split]:>12,} rows   {'   '.join(means)}")
        if self.tally.dropped:
            lines.append(
                f"{self.tally.dropped:,} training negatives left out (negative_rate {self.schema.negative_rate:g})"
            )
        sparse = self.schema.sparse
        ids = sum({f.table_name: f.num_embeddings for f in sparse if not isinstance(f.ids, Raw)}.values())
        line = f"{len(sparse)} features of ids ({ids:,} table rows), {len(self.schema.dense)} dense"
        if self.schema.dense_sequences:
            line += f", {len(self.schema.dense_sequences)} dense sequences"
        lines.append(line)
        lines += [*self.notes, f"written to {self.folder}"]
        return "\n".join(lines)


def prepare(sources: Sequence[RawSource], recipe: Recipe, output: Output, progress: Progress = silent) -> Report:
    """Writes `train/`, `validation/`, `test/` (those with rows), `vocabularies/` and `schema.yaml` as one.

    `progress` gets a line after each input file.

    Raises UserError for input that cannot be read as the recipe says, and where no row is left to train on; nothing is
    left behind then.
    """
    numbered = [Numbered(part, source) for part, source in enumerate(sources)]
    inputs = [source.path for source in sources]
    with staged(output.folder, output.overwrite, inputs) as folder, Workers(output.workers) as workers:
        if isinstance(recipe.split, TimeSplit) and not recipe.split.cuts and any(s.split is None for s in sources):
            cut = find_cuts(numbered, recipe.split, workers)
            recipe = recipe.model_copy(update={"split": cut})
        fitted = Fitted()
        if recipe.needs_fit:
            fitted = fit(numbered, recipe, folder, workers)
            progress(f"fitted on the training rows of {len(sources)} files")
        work = partial(_write_part, recipe=recipe, fitted=fitted, folder=folder, output=output)
        tally = Tally()
        for done, part in enumerate(workers.map(work, numbered), 1):
            tally.merge(part)
            progress(f"wrote {done} of {len(sources)} files, {sum(tally.rows.values()):,} rows")
        if not tally.rows.get("train"):
            raise UserError(f"{sources[0].path}: no training rows; check the input and the split")
        schema = recipe.written_schema(fitted)
        schema.save(folder / SCHEMA_FILE)
    return Report(Path(output.folder), schema, tally)


def _write_part(numbered: Numbered, recipe: Recipe, fitted: Fitted, folder: Path, output: Output) -> Tally:
    """Writes one input file in the second pass."""
    rewrite = Rewriter(recipe, fitted, folder)
    tally = Tally()
    with ExitStack() as stack:
        writers = [
            stack.enter_context(RowsWriter(folder / s, numbered.part, output.row_group_rows, output.file_rows))
            for s in SPLITS
        ]
        for batch, codes, origin in Selection(recipe).batches(numbered):
            rows, labels = rewrite(batch, origin, numbered.source.labeled)
            for code, split in enumerate(SPLITS):
                mine = codes == code
                if not mine.any():
                    continue
                writers[code].write(rows if mine.all() else rows.filter(pa.array(mine)))
                for name, values in labels.items():
                    tally.add_label(name, split, float(values[mine].sum(dtype=np.float64)), int(mine.sum()))
            tally.dropped += int((codes == LEFT_OUT).sum())
    tally.rows = {split: w.rows for split, w in zip(SPLITS, writers, strict=True) if w.rows}
    return tally
