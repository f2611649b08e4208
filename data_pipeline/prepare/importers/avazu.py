"""Avazu's click log (Kaggle) is CSV with or without header line; `hour` (YYMMDDHH) becomes hour and weekday."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import Origin, Place
from shardrec.data_pipeline.features.id_transforms import Hash, Identity
from shardrec.data_pipeline.features.schema import Label
from shardrec.data_pipeline.prepare.steps.lines import first_line
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report, prepare
from shardrec.data_pipeline.prepare.steps.progress import Progress, silent
from shardrec.data_pipeline.prepare.steps.recipe import Recipe
from shardrec.data_pipeline.prepare.steps.recipe_features import FitVocabulary, RecipeId
from shardrec.data_pipeline.prepare.steps.source import Inputs, RawSource, compressed_too
from shardrec.data_pipeline.prepare.steps.splits import SplitRule
from shardrec.data_pipeline.prepare.steps.text import TextFile, TextFormat
from shardrec.data_pipeline.prepare.steps.writer import Split

CATEGORIES = (
    *("C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category"),
    *("device_id", "device_ip", "device_model", "device_type", "device_conn_type"),
    *(f"C{i}" for i in range(14, 22)),
)
COLUMNS = ("id", "click", "hour", *CATEGORIES)
PATTERNS = compressed_too("train", "train.csv")


@dataclass
class AvazuFile(RawSource):
    """An Avazu file has the log's columns, and hour_of_day and weekday (Monday 0), which are derived from `hour`."""

    file: TextFile

    def __post_init__(self) -> None:
        self.path, self.split, self.labeled = self.file.path, self.file.split, self.file.labeled

    def batches(self, columns: Iterable[str] | None = None) -> Iterator[tuple[pa.RecordBatch, Origin]]:
        """Yields the file's batches, with the derived columns always."""
        wanted = None if columns is None else ({*columns} - {"hour_of_day", "weekday"}) | {"hour"}
        for batch, origin in self.file.batches(wanted):
            hour = batch.column("hour")
            values = pc.strptime(pc.cast(hour, pa.string()), "%y%m%d%H", "s", error_is_null=True)
            if values.null_count:
                at = int(values.is_null().to_numpy(zero_copy_only=False).argmax())
                raise Place(origin, "hour").error(at, repr(hour[at].as_py()), "YYMMDDHH")
            batch = batch.append_column("hour_of_day", pc.hour(values))
            yield batch.append_column("weekday", pc.day_of_week(values)), origin


def recipe(
    split: SplitRule, min_count: int = 2, num_ids: int | None = None, negative_rate: float = 1.0, seed: int = 0
) -> Recipe:
    """Returns the recipe: all fields as ids, by vocabulary or with `num_ids` by hash; the ad's `id` is kept as key."""
    ids = FitVocabulary(min_count=min_count) if num_ids is None else Hash(num_ids=num_ids)
    return Recipe(
        features=(
            RecipeId(name="hour", column="hour_of_day", ids=Identity(num_ids=24)),
            RecipeId(name="weekday", ids=Identity(num_ids=7)),
            *(RecipeId(name=name, ids=ids) for name in CATEGORIES),
        ),
        labels=(Label(name="click"),),
        keys=("id",),
        split=split,
        negative_rate=negative_rate,
        seed=seed,
    )


def prepare_avazu(inputs: Inputs, recipe: Recipe, output: Output, progress: Progress = silent) -> Report:
    """Prepares files of Avazu's format by `recipe`. Raises UserError for other columns, with the line."""
    types = {c: t for c, t in recipe.raw_columns().items() if c in COLUMNS} | {"hour": pa.int64()}
    unlabeled = tuple(c for c in COLUMNS if c != "click")

    def make(path: str, split: Split | None) -> RawSource:
        fields = first_line(path).split(",")
        header = fields[0] == "id"
        labeled = "click" in fields if header else len(fields) == len(COLUMNS)
        if not header and len(fields) not in (len(COLUMNS), len(unlabeled)):
            raise UserError(f"{path}, line 1: found {len(fields)} fields, expected 24 (23 without click), with commas")
        if not labeled and split in (None, "train"):
            raise UserError(f"{path}, line 1: no column click; such a file can only be a --test file")
        columns = None if header else COLUMNS if labeled else unlabeled
        form = TextFormat(header=header, columns=columns, quote=None)
        kept = types if labeled else {c: t for c, t in types.items() if c != "click"}
        return AvazuFile(TextFile(path, form, kept, split=split, labeled=labeled))

    return prepare(inputs.sources(make), recipe, output, progress)
