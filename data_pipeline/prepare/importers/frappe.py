"""Frappe (Baltrunas et al. 2015) is app use in context, as the published libfm files or from the raw log.

The raw log has positives only; each gets two negatives of the same user and context, whose app is drawn uniformly among
those that the user never used, as in the published libfm files.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import Origin
from shardrec.data_pipeline.features.feature_kinds import Role
from shardrec.data_pipeline.features.schema import Label
from shardrec.data_pipeline.prepare.importers.libfm import prepare_libfm
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report, prepare
from shardrec.data_pipeline.prepare.steps.progress import Progress, silent
from shardrec.data_pipeline.prepare.steps.recipe import Recipe
from shardrec.data_pipeline.prepare.steps.recipe_features import FitVocabulary, RecipeId
from shardrec.data_pipeline.prepare.steps.source import Inputs, RawSource, existing_folder, the_file
from shardrec.data_pipeline.prepare.steps.splits import HashSplit, SplitRule, draw
from shardrec.data_pipeline.prepare.steps.text import TextFile, TextFormat
from shardrec.data_pipeline.prepare.steps.writer import Split
from shardrec.data_pipeline.reading.finding import UNFINISHED

CONTEXT = ("daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")
FIELDS = dict(zip(("user", "item", *CONTEXT), (0, 957, 5039, 5046, 5053, 5055, 5058, 5060, 5069, 5149), strict=True))
ROLES: dict[str, Role] = {"user": "user", "item": "item", **dict.fromkeys(CONTEXT, "context")}
FRACTIONS: dict[Split, float] = {"train": 0.7, "validation": 0.2, "test": 0.1}
_MOST_DRAWS = 1000


@dataclass
class FrappeLog(RawSource):
    """The raw log is read with negatives drawn for its rows.

    Rows of one log line follow each other, the positive first; labels are 1 and -1.
    """

    path: str
    negatives: int = 2
    seed: int = 0

    def batches(self, columns: Iterable[str] | None = None) -> Iterator[tuple[pa.RecordBatch, Origin]]:
        """Yields the log's rows with their negatives. Raises UserError for a log without rows."""
        types = {"user": pa.int64(), "item": pa.int64(), **dict.fromkeys(CONTEXT, pa.string())}
        file = TextFile(self.path, TextFormat(delimiter="\t", quote=None), types)
        parts = [batch for batch, _ in file.batches()]  # the log has 96,203 lines, and drawing needs all of them
        if not parts:
            raise UserError(f"{self.path}: has no rows")
        log = pa.Table.from_batches(parts).combine_chunks()
        each = 1 + self.negatives
        rows = log.take(pa.array(np.repeat(np.arange(len(log)), each)))
        items = np.repeat(log.column("item").to_numpy(), each).reshape(-1, each)
        items[:, 1:] = self._drawn(log.column("user").to_numpy(), items[:, 0])
        labels = np.full(items.shape, -1, np.int8)
        labels[:, 0] = 1
        rows = rows.set_column(rows.schema.get_field_index("item"), "item", pa.array(items.ravel()))
        rows = rows.append_column("label", pa.array(labels.ravel()))
        first = 0
        for batch in rows.combine_chunks().to_batches():
            yield batch, Origin(self.path, first, "instance")
            first += len(batch)

    def _drawn(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Returns [lines, negatives] items that the user of each of [lines] users and items never used."""
        catalogue = np.unique(items)
        used = np.unique(users * (catalogue[-1] + 1) + items)
        lines, draws = np.divmod(np.arange(len(users) * self.negatives, dtype=np.uint64), np.uint64(self.negatives))
        drawn = np.empty(len(lines), np.int64)
        waiting = np.arange(len(lines))
        for attempt in range(_MOST_DRAWS):
            words = [lines[waiting], draws[waiting], np.full(len(waiting), attempt, np.uint64)]
            chosen = catalogue[(draw("item", self.seed, words) * len(catalogue)).astype(np.int64)]
            drawn[waiting] = chosen
            again = np.isin(users[lines[waiting].astype(np.int64)] * (catalogue[-1] + 1) + chosen, used)
            waiting = waiting[again]
            if not len(waiting):
                return drawn.reshape(-1, self.negatives)
        user = users[int(lines[waiting[0]])]
        raise UserError(f"{self.path}: user {user} used all {len(catalogue)} apps or nearly, so none is left to draw")


def recipe(split: SplitRule, negative_rate: float = 1.0) -> Recipe:
    """Returns the recipe: user, app and contexts by vocabulary; labels as 0/1 (`label`) and as -1/1 (`target`)."""
    ids = FitVocabulary()
    return Recipe(
        features=(
            RecipeId(name="user", role="user", ids=ids, type="integer"),
            RecipeId(name="item", role="item", ids=ids, type="integer"),
            *(RecipeId(name=name, role="context", ids=ids) for name in CONTEXT),
        ),
        labels=(Label(name="label", threshold=0.5), Label(name="target", column="label")),
        group="user",
        split=split,
        negative_rate=negative_rate,
    )


def prepare_frappe(
    folder: str | Path,
    output: Output,
    raw: bool = False,
    seed: int = 0,
    progress: Progress = silent,
) -> Report:
    """Prepares the libfm files in `folder` as they are split, or the raw log (`frappe.csv`) split 70/20/10 by hash."""
    folder = existing_folder(folder, "Frappe's files")
    split = HashSplit(fractions=FRACTIONS, seed=seed)
    if raw:
        return prepare([FrappeLog(the_file(folder, "frappe.csv"), seed=seed)], recipe(split), output, progress)
    names = [str(f) for f in sorted(folder.glob("*.libfm*")) if f.is_file() and not f.name.startswith(UNFINISHED)]
    files = {part: [f for f in names if part in Path(f).name] for part in ("train", "validation", "test")}
    missing = [part for part, paths in files.items() if not paths]
    if missing:
        raise UserError(
            f"{folder}: no *{missing[0]}*.libfm file in this folder; for the raw log (frappe.csv) give --raw"
        )
    inputs = Inputs(files["train"], files["validation"], files["test"])
    return prepare_libfm(inputs, output, split, FIELDS, group="user", roles=ROLES, progress=progress)
