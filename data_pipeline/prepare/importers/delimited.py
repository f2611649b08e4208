"""Any CSV or TSV can be prepared whose columns a recipe (YAML) declares."""

from pathlib import Path

from shardrec.data_pipeline.declared.declaration import load_yaml
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.steps.preparation import Output, Report, prepare
from shardrec.data_pipeline.prepare.steps.progress import Progress, silent
from shardrec.data_pipeline.prepare.steps.recipe import Recipe
from shardrec.data_pipeline.prepare.steps.source import Inputs, RawSource
from shardrec.data_pipeline.prepare.steps.text import TextFile
from shardrec.data_pipeline.prepare.steps.writer import Split


def prepare_delimited(
    inputs: Inputs,
    recipe_file: str | Path,
    output: Output,
    fractions: dict[Split, float] | None = None,
    progress: Progress = silent,
) -> Report:
    """Prepares delimited files by the recipe in `recipe_file`. A test file may lack the label columns.

    fractions: replace those of the recipe's split
    """
    recipe = load_yaml(Recipe, recipe_file, "recipe")
    if fractions is not None and not hasattr(recipe.split, "fractions"):
        raise UserError(f"--fractions given, but {recipe_file} splits by column; leave one of them out")
    if fractions is not None:
        recipe = recipe.model_copy(update={"split": recipe.split.model_copy(update={"fractions": fractions})})
    types, separators, paired, gapped = recipe.raw_columns(), recipe.separators(), recipe.paired(), recipe.gapped()
    labels = {c for label in recipe.labels for c in label.columns}

    def make(path: str, split: Split | None) -> RawSource:
        file = TextFile(path, recipe.format, types, separators, split, paired=paired, gapped=gapped)
        if split == "test" and recipe.format.header and not labels & set(file.column_names()):
            file.types = {c: t for c, t in types.items() if c not in labels}
            file.labeled = False
        return file

    return prepare(inputs.sources(make), recipe, output, progress)
