"""Criteo's click logs are tab-separated: Kaggle's `train.txt` and `test.txt`, and the Terabyte's `day_*`.

A line is a label, 13 integers, 26 hexadecimal strings; without the label in Kaggle's test file.
"""

from math import exp, sqrt

import pyarrow as pa

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.dense_transforms import Log
from shardrec.data_pipeline.features.id_transforms import Bucketize, Hash
from shardrec.data_pipeline.prepare.steps.lines import first_line
from shardrec.data_pipeline.prepare.steps.option_values import CriteoNumbers
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report, prepare
from shardrec.data_pipeline.prepare.steps.progress import Progress, silent
from shardrec.data_pipeline.prepare.steps.recipe import Recipe
from shardrec.data_pipeline.prepare.steps.recipe_features import (
    FitStandardise,
    FitVocabulary,
    RecipeDense,
    RecipeFeature,
    RecipeId,
)
from shardrec.data_pipeline.prepare.steps.source import Inputs, RawSource, compressed_too
from shardrec.data_pipeline.prepare.steps.splits import HashSplit
from shardrec.data_pipeline.prepare.steps.text import TextFile, TextFormat
from shardrec.data_pipeline.prepare.steps.writer import Split

INTEGERS = tuple(f"I{i}" for i in range(1, 14))
CATEGORIES = tuple(f"C{i}" for i in range(1, 27))
PATTERNS = (*compressed_too("train.txt"), "day_*")
# floor((ln x)^2) above 2, the value itself below: the discretisation of the Kaggle contest's winners
_BOUNDARIES = (-1.0, 0.0, 1.0, 2.0, *(exp(sqrt(k)) for k in range(1, 462)))


def recipe(
    min_count: int = 10,
    num_ids: int | None = None,
    numbers: CriteoNumbers = "dense",
    split: HashSplit | None = None,
    negative_rate: float = 1.0,
    seed: int = 0,
) -> Recipe:
    """Returns the recipe: categories by vocabulary, or with `num_ids` by hash.

    numbers: integers as log and standardised numbers, or as ids of buckets
    """
    integers: list[RecipeFeature] = []
    for name in INTEGERS:
        if numbers == "dense":
            integers.append(RecipeDense(name=name, transforms=(Log(), FitStandardise()), missing=0.0))
        else:
            integers.append(RecipeId(name=name, ids=Bucketize(boundaries=_BOUNDARIES), missing="row"))
    ids = FitVocabulary(min_count=min_count) if num_ids is None else Hash(num_ids=num_ids)
    categories = [RecipeId(name=name, ids=ids, missing="row") for name in CATEGORIES]
    return Recipe(
        format=TextFormat(delimiter="\t", header=False, quote=None, columns=("label", *INTEGERS, *CATEGORIES)),
        features=(*integers, *categories),
        split=split or HashSplit(seed=seed),
        negative_rate=negative_rate,
        seed=seed,
    )


def prepare_criteo(inputs: Inputs, recipe: Recipe, output: Output, progress: Progress = silent) -> Report:
    """Prepares files of Criteo's format by `recipe`. Raises UserError for other numbers of fields, with the line."""
    columns = recipe.format.columns
    assert columns is not None
    types = recipe.raw_columns()

    def make(path: str, split: Split | None) -> RawSource:
        fields = first_line(path).count("\t") + 1
        if fields == len(columns):
            return TextFile(path, recipe.format, types, split=split)
        if fields != len(columns) - 1:
            raise UserError(f"{path}, line 1: found {fields} fields, expected 40 (39 without label), tab-separated")
        if split in (None, "train"):
            raise UserError(
                f"{path}, line 1: found 39 fields, so there are no labels; such a file can only be a --test file"
            )
        unlabeled = recipe.format.model_copy(update={"columns": columns[1:]})
        rest: dict[str, pa.DataType] = {c: t for c, t in types.items() if c != columns[0]}
        return TextFile(path, unlabeled, rest, split=split, labeled=False)

    return prepare(inputs.sources(make), recipe, output, progress)
