"""The ready run files and those of the documentation, each with the schema that its data set's preparation declares.

Nothing is read but schemas: what is wrong with a table's name, a parameter's, a metric's or a setting shows when the
model is built and its tables are placed.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from shardrec.data_pipeline.declared.documents import parse_document
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.id_transforms import Identity, Vocabulary
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.prepare.behaviour.histories import HistoryProtocol
from shardrec.data_pipeline.prepare.generators.interests import InterestLog
from shardrec.data_pipeline.prepare.generators.planted import Histories, PlantedLog
from shardrec.data_pipeline.prepare.generators.synthetic import FIELD_IDS
from shardrec.data_pipeline.prepare.importers import frappe, libfm, movielens, ncf, pairs, ratings
from shardrec.data_pipeline.prepare.importers.user_histories import prepare_user_histories
from shardrec.data_pipeline.prepare.steps.preparation import Output
from shardrec.data_pipeline.prepare.steps.recipe import Fitted, Recipe
from shardrec.data_pipeline.prepare.steps.splits import HashSplit
from shardrec.data_pipeline.sampling.negatives import check_negatives
from shardrec.models import MODELS
from shardrec.models.base import Recommender
from shardrec.trainer.catalogue.evaluation import of_catalogue
from shardrec.trainer.config.init_from import resolve_copies
from shardrec.trainer.config.load import load, read
from shardrec.trainer.config.overrides import laid_over
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.config.stages import resolve_stages
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.parameter_optimizers import optimizers_of
from shardrec.trainer.simulation.log_schema import log_schema
from shardrec.trainer.simulation.settings import SimulationSettings
from shardrec.trainer.training.warm_start import model_contents
from tests import ROOT

FILES = [file for file in sorted((ROOT / "trainer/runs").glob("*.yaml")) if "simulation" not in read(file)]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLE = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def variants_of(content: Mapping[str, Any]) -> list[str | None]:
    """All that a run file can be trained as; None: without `--variant`."""
    return [*((None,) if {"model", "stages"} & content.keys() else ()), *content.get("variants", ())]


VARIANTS = [(file, variant) for file in FILES for variant in variants_of(read(file))]


def shop() -> Schema:
    """The schema of the shop that a page prepares by a recipe of its own."""
    page = (ROOT / "docs/your-own-data.md").read_text()
    text = next(found[1] for found in EXAMPLE.finditer(page) if found[1].startswith("# recipe.yaml"))
    recipe = Recipe.model_validate(parse_document(text, "recipe.yaml"))
    return recipe.written_schema(Fitted(vocabularies={"user": 1000, "item": 200, "category": 8}))


def schemas() -> dict[str, Schema]:
    """`data.path` as documentation and run files have it -> the schema of the data set as published."""
    sizes = {"user": 6040, "movie": 3706, "gender": 2, "occupation": 21, "zip": 3439, "genres": 18, "year": 81}
    movies = movielens.recipe(HashSplit()).written_schema(Fitted(vocabularies=sizes))
    once = np.ones(len(frappe.FIELDS), int)
    each = {"field_fewest": once, "field_most": once, "field_weighted": once == 0}
    shape = libfm.Shape(largest=5381, fewest=len(once), most=len(once), **each)
    fields = libfm.fields_of(shape, frappe.FIELDS)
    apps = libfm.recipe(fields, shape, HashSplit(), group="user", roles=frappe.ROLES)
    planted = InterestLog(Histories(1500, 23.0, 50), negatives=True).schema
    large = {"million": 10**6, "billion": 10**9}
    return {
        "data/ml-1m": movies,
        "data/ml-1m-ratings": movies,
        "data/ml-1m-items": ratings.schema_of("item", Vocabulary(path="vocabularies/user.parquet", size=6040)),
        "data/ml-1m-users": ratings.schema_of("user", Vocabulary(path="vocabularies/movie.parquet", size=3706)),
        "data/frappe": apps.written_schema(Fitted()),
        "data/shop": shop(),
        "data/gowalla": pairs.schema_of(Identity(num_ids=29_859), Identity(num_ids=40_982), 50),
        "data/ncf-ml-1m": ncf.recipe(6040, 3706).written_schema(Fitted()),
        **dict.fromkeys(("data/planted", "data/planted-order"), planted),
        **{f"data/{name}": PlantedLog((n, *FIELD_IDS[1:]), 4).schema for name, n in large.items()},
        **dict.fromkeys(("demo/data", "data/demo"), PlantedLog(FIELD_IDS, 4).schema),
        **dict.fromkeys(("data/news", "runs/simulate_news/random-0/log"), log_schema(SimulationSettings())),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the data sets' schemas at their paths."""
    root = tmp_path_factory.mktemp("prepared")
    for path, schema in schemas().items():
        (root / path).mkdir(parents=True)
        schema.save(root / path / "schema.yaml")
    (root / "histories.txt").write_text("ann x y z w\nbob w x z y\ncyd p q r\ndee r q p\n")
    (root / "attributes.json").write_text('{"x": [1], "y": [2]}')
    protocol = HistoryProtocol(history_negatives=True)
    prepare_user_histories(root / "histories.txt", Output(root / "data/beauty"), protocol, root / "attributes.json")
    return root


@pytest.fixture(autouse=True)
def _inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def built(config: RunConfig) -> Recommender:
    """The model, after all checks of a run that need no rows. Raises UserError for the first that fails."""
    blueprint = Blueprint(config)
    schema, model = blueprint.schema, blueprint.model
    if config.data.negatives:
        check_negatives(config.data.negatives, schema, model.features, config.data.schema_folder)
    optimizers_of((name for name, _ in model.named_parameters()), config.optimizer.tower)
    if (metric := config.trainer.selection_metric) and metric not in of_catalogue(config):
        model.task.metrics().larger_is_better(metric)
    blueprint.plan()
    return model


def check(config: RunConfig) -> None:
    """Builds a run, or all stages of one and what they take from each other. Raises UserError where it is not right."""
    stages = list(resolve_stages(config).values()) or [config]
    contents = {stage.run: model_contents(built(stage), stage.run) for stage in stages}
    for stage in stages:
        copies = resolve_copies([(s, contents[str(s.run)]) for s in stage.init_from], contents[stage.run])
        if stage is stages[-1] and stage.init_from:  # no table starts from nothing
            assert {copy.target for part in copies for copy in part.tables} == set(contents[stage.run].tables)


@pytest.mark.parametrize(("file", "variant"), VARIANTS, ids=lambda given: getattr(given, "stem", given) or "")
def test_a_ready_run_file_is_right(file: Path, variant: str | None) -> None:
    check(load(file, (f"launch.memory={64 << 30}",), variant=variant))  # whatever this machine has left


def examples() -> Iterator[tuple[str, dict[str, Any]]]:
    """Run files, or parts of one, in the documentation: page and line, content."""
    for page in PAGES:
        text = page.read_text()
        for found in EXAMPLE.finditer(text):
            content = parse_document(found[1], page.name, exponents=True)
            if not content.keys() <= RunConfig.model_fields.keys():
                continue
            if "my_models" not in found[1]:  # tests/models/test_own_models.py runs it
                yield f"{page.name}:{text.count(chr(10), 0, found.start()) + 1}", content


@pytest.mark.parametrize("content", [pytest.param(content, id=where) for where, content in examples()])
def test_an_example_is_right(content: dict[str, Any], tmp_path: Path) -> None:
    """For some model and data set, where it leaves them out."""
    names = [None] if {"model", "stages", "variants"} & content.keys() else list(MODELS)
    paths = [None] if content.get("data", {}).get("path") else ["data/ml-1m", "data/ml-1m-items"]
    found = {}
    for name in names:
        for path in paths:
            rest = {"run": "runs/example", **({"model": {"name": name}} if name else {}), "data": {}}
            whole = laid_over(laid_over(rest, {"data": {"path": path}} if path else {}), content)
            (tmp_path / "run.yaml").write_text(yaml.safe_dump(whole))
            try:
                for variant in variants_of(whole):
                    check(load(tmp_path / "run.yaml", variant=variant))
                return
            except UserError as error:
                found[name, path] = str(error)
    pytest.fail("\n".join(f"{which}: {error}" for which, error in found.items()))
