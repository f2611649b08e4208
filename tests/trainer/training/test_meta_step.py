"""A step is made of tensors without data: a value read on the host, or a mix of two devices, raises where it is asked.

torch's meta device stands for a GPU that is never waited for. What is run on it is what a step computes: the lookup
with its guard, the inputs' assembling, tower, loss and backward, rows' updates in torch operations, and what metrics
take in of rows once those that count were picked.
"""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shardrec.data_pipeline.features.feature_kinds import IdListFeature
from shardrec.models import MODELS
from shardrec.models.metrics.averages import Accuracy, Calibration, Errors, LogLoss, Rows, TemporalDifferences
from shardrec.models.metrics.metric import Metric
from shardrec.models.metrics.predicted_values import PredictedValues
from shardrec.models.metrics.predictions import Predictions
from shardrec.models.metrics.ranking import Ranking
from shardrec.models.table_settings import TableOptimizer
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.lookup.lookup import EmbeddingLookup
from shardrec.sharding.tables.rounding import ShardRounding
from shardrec.sharding.updates import rules
from shardrec.sharding.updates.choose import row_update
from shardrec.trainer.benchmarks.gpu_check.sections.every_model import run_files_of_every_model
from shardrec.trainer.config.load import load
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.forward import ForwardStep, objective, stack_terms

META = torch.device("meta")
ROWS, COLUMNS, CHANGED = 50, 4, 7
OPTIMIZERS: list[dict[str, Any]] = [
    {"name": "sgd"},
    {"name": "sgd", "momentum": 0.9, "weight_decay": 0.3},
    {"name": "adagrad", "weight_decay": 0.3, "decay": "frequency"},
    {"name": "rowwise_adagrad"},
    {"name": "rmsprop"},
    {"name": "adam", "weight_decay": 0.3},
    {"name": "ftrl", "l1": 0.1, "l2": 0.2},
]


@pytest.fixture(autouse=True)
def autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device has no reduced precision."""
    plain = torch.autocast

    def of(device: str, *arguments: Any, **settings: Any) -> Any:
        return contextlib.nullcontext() if device == "meta" else plain(device, *arguments, **settings)

    monkeypatch.setattr(torch, "autocast", of)


@pytest.fixture(scope="module")
def run_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return run_files_of_every_model(tmp_path_factory.mktemp("models"))


def lookup_of(blueprint: Blueprint) -> EmbeddingLookup:
    read = blueprint.read
    weighted = tuple(f.name for f in read.sparse if isinstance(f, IdListFeature) and f.weighted)
    dense = tuple(f.name for f in read.dense)
    lookup = EmbeddingLookup(blueprint.model.inputs, dense, weighted_names=weighted, device=META)
    lookup.use_collections([(group, group.collection(META)) for group in lookup.groups])
    return lookup


@pytest.mark.parametrize("name", MODELS)
def test_a_step_reads_nothing(name: str, run_files: dict[str, Path]) -> None:
    blueprint = Blueprint(load(run_files[name]))
    lookup, model = lookup_of(blueprint), blueprint.model.to(META)
    paths = blueprint.config.data.split("train")
    assert paths is not None
    order = lookup.id_names + lookup.weighted_id_names
    loader = blueprint.loader(paths, training=True, negatives=blueprint.negatives(), id_order=order)
    batch = next(iter(loader.epoch(0))).to(META)
    forward = ForwardStep(lookup, model).train()
    terms = model.task.loss(forward(batch), batch)
    objective(terms, stack_terms(terms), world_size=2).backward()
    model.after_step()
    learned = [p for p in forward.parameters() if p.requires_grad]
    assert learned and all(p.grad is not None and p.grad.device == META for p in learned)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("some", [True, False], ids=["rows", "table"])
def test_a_rule_reads_nothing(
    optimizer: dict[str, Any], dtype: torch.dtype, some: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(rules._CHUNK, "meta", 1 << 20)
    update = row_update(
        EmbeddingTable(name="t", num_embeddings=ROWS, embedding_dim=COLUMNS, optimizer=TableOptimizer(**optimizer))
    )
    weight = torch.empty(ROWS, COLUMNS, dtype=dtype, device=META)
    rows = torch.empty(CHANGED, dtype=torch.int64, device=META) if some else None
    gradient = torch.empty(CHANGED if some else ROWS, COLUMNS, device=META)
    rounding = ShardRounding(0, "t").at_step(3) if dtype == torch.float16 else None
    state = update.state(weight)
    update.apply(weight, state, rows, gradient, 0.5, 3.0, rounding)
    update.warm_start(weight, state)


@pytest.mark.parametrize(
    "kind", [LogLoss, Calibration, Accuracy, Errors, TemporalDifferences, Rows, Ranking, PredictedValues]
)
def test_a_metric_takes_rows_in_without_reading_them(kind: type[Metric]) -> None:
    def column() -> Tensor:
        return torch.empty(CHANGED, dtype=torch.float64, device=META)

    metric = kind()
    for _ in range(2):
        metric.update(Predictions(column(), column(), column(), column()))


def test_a_read_raises() -> None:
    with pytest.raises(RuntimeError):
        torch.empty(3, device=META).sum().item()
    with pytest.raises(NotImplementedError):
        torch.empty(3, device=META)[torch.ones(3, dtype=torch.bool, device=META)]
