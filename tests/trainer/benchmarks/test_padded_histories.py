"""The yardstick computes what our models compute, or the comparison would be of two models."""

from typing import Any

import pytest
import torch

from shardrec.data_pipeline.batch import Batch
from shardrec.models import MODELS, config_class
from shardrec.models.base import Recommender
from shardrec.models.fields import Fields
from shardrec.trainer.benchmarks.padded_histories import FORMS, PaddedModel, padded_form
from tests.models.cases import histories_batch, histories_schema, randomise
from tests.models.reference_lookup import ReferenceLookup, make_batch

SCHEMA = histories_schema()
SMALL: dict[str, Any] = {"embedding_dim": 4, "mlp": {"hidden": (5,)}}


def both_forms(name: str, tuned: bool) -> tuple[Recommender, ReferenceLookup, PaddedModel]:
    """A model, its lookup, and its padded form of the same weights, in float64."""
    model_class: Any = MODELS[name]
    model = model_class(Fields(SCHEMA), config_class(model_class)(**SMALL)).double()
    lookup = ReferenceLookup(model, dtype=torch.float64)
    randomise(model, lookup)
    for part in model.modules():
        if hasattr(part, "running_var"):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    padded = padded_form(name, model, SCHEMA, tuned=tuned).double()
    for table, rows in padded.tables.items():
        rows.weight.data.copy_(lookup.table(table))
    return model, lookup, padded


def full_histories() -> Batch:
    """Histories of the greatest length, where padding cannot enter Dice's moments."""
    generator = torch.Generator().manual_seed(0)
    ids = {}
    for f in SCHEMA.sparse:
        length = 6 if f.name.endswith("history") else 1
        ids[f.name] = torch.randint(f.num_embeddings, (9, length), generator=generator).tolist()
    return make_batch(SCHEMA, ids, labels=torch.arange(9).remainder(2).numpy())


def gradients(model: torch.nn.Module, output: Any, task: Any, batch: Batch) -> dict[str, torch.Tensor]:
    terms = task.loss(output, batch)
    sum(term.total / term.count for term in terms.values()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_the_padded_form_gives_the_same_logits(name: str, tuned: bool) -> None:
    model, lookup, padded = both_forms(name, tuned)
    batch = histories_batch(SCHEMA, 9)
    batch.dense = batch.dense.double()
    found, expected = padded.eval()(batch), model.eval()(**lookup(batch))
    if name == "dien":
        found, expected = found.logits, expected.logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_the_padded_form_learns_the_same(name: str, tuned: bool) -> None:
    model, lookup, padded = both_forms(name, tuned)
    batch = full_histories()
    batch.dense = batch.dense.double()
    found = gradients(padded, padded.train()(batch), model.task, batch)
    expected = gradients(lookup, model.train()(**lookup(batch)), model.task, batch)
    for table, gradient in expected.items():
        rows = table.removeprefix("rows.")
        torch.testing.assert_close(found[f"tables.{rows}.weight"], gradient, rtol=0, atol=1e-10)
    if name == "dien":
        ragged = histories_batch(SCHEMA, 9)
        ragged.dense = ragged.dense.double()
        losses = [model.task.loss(o, ragged)["auxiliary"] for o in (padded(ragged), model(**lookup(ragged)))]
        torch.testing.assert_close(*(loss.total / loss.count for loss in losses), rtol=0, atol=1e-10)
