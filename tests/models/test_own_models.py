"""The models that `docs/own-models.md` shows, as a reader would have them in a file of their own."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models import config_class, resolve
from shardrec.models.fields import Fields
from shardrec.models.inputs import Jagged, Padded
from tests import ROOT
from tests.models.cases import histories_batch, histories_schema, mixed_batch, mixed_schema
from tests.models.reference_lookup import ReferenceLookup
from tests.models.test_contract import train
from tests.trainer.export.cases import padded

PAGE = (ROOT / "docs/own-models.md").read_text()


@pytest.fixture(autouse=True)
def my_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All of the page's Python in one module, on Python's path as a run file's folder is."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "my_models.py").write_text("\n\n".join(blocks))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield
    sys.modules.pop("my_models", None)


def trained(name: str, schema: Schema, batch: Batch, **settings: Any) -> tuple[Any, ReferenceLookup, float]:
    """The model after 100 steps on one batch, its tables, and the loss."""
    torch.manual_seed(0)
    model_class = resolve(name)
    model = model_class(Fields(schema), config_class(model_class).model_validate(settings))
    lookup = ReferenceLookup(model, dense_names=[f.name for f in schema.dense])
    return model, lookup, train(model, lookup, batch, 100)


def test_the_run_file_names_a_model_that_learns() -> None:
    (run_file,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    model = yaml.safe_load(run_file)["model"]
    schema = mixed_schema()
    _, _, loss = trained(model.pop("name"), schema, mixed_batch(schema, 64, unique_users=True), **model)
    assert loss < 0.05


def test_the_model_of_a_history_learns_and_explains() -> None:
    schema = histories_schema()
    batch = histories_batch(schema, 64)
    model, lookup, loss = trained("my_models:Nearest", schema, batch)
    assert loss < 0.5  # of 0.67 without the item, the histories of some rows being empty
    inputs = lookup(batch)
    weights, names = model.explain(**inputs)
    assert isinstance(weights, Jagged) and names == ("item_history",)
    totals = torch.zeros(64).index_add_(0, weights.row_of_position(), weights.values)
    torch.testing.assert_close(totals, (weights.lengths > 0).float())


def test_the_model_of_a_history_has_a_padded_form() -> None:
    schema = histories_schema()
    batch = histories_batch(schema, 64, unique_users=True)
    model, lookup, _ = trained("my_models:Nearest", schema, batch)
    inputs = lookup(batch)
    values, lengths = padded(inputs["history"], 6)
    found = model.padded(inputs["item"], Padded(values, lengths))
    torch.testing.assert_close(found, model(**inputs), rtol=0, atol=1e-5)


def test_the_loss_of_ones_own_is_what_is_learned() -> None:
    schema = mixed_schema()
    batch = mixed_batch(schema, 64, unique_users=True)
    model, _, loss = trained("my_models:Robust", schema, batch)
    assert loss < 0.02
    terms = model.task.loss(torch.full((64,), 10.0), batch)
    (label,) = batch.labels.values()
    assert list(terms) == ["huber"]
    torch.testing.assert_close(terms["huber"].total, (9.5 - label).sum())
