"""What every model of `MODELS` promises, checked on a small schema with the plainest lookup.

A new model gets all of this by its line in `models/__init__.py`; one whose settings have no defaults adds them here.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pydantic.fields import FieldInfo
from sklearn.metrics import roc_auc_score
from torch import nn

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models import MODELS, config_class
from shardrec.models.base import Recommender
from shardrec.models.dien import Evolved
from shardrec.models.fields import Fields
from shardrec.models.inputs import Jagged, PooledEmbeddings
from shardrec.models.layers.mlp import MLPConfig
from shardrec.models.layers.moments import live_rows
from shardrec.models.layers.packed import packed
from shardrec.models.tasks import BinaryClassification
from shardrec.models.temporal_difference import ActionValues
from tests.models.cases import (
    histories_batch,
    histories_schema,
    mixed_batch,
    mixed_schema,
    randomise,
    ratings_batch,
    ratings_schema,
    transitions_batch,
    transitions_schema,
)
from tests.models.reference_lookup import ReferenceLookup

READ_HISTORIES = ("pooled_history", "din", "dien", "bst")
RETRIEVE = ("simplex", "youtube_dnn", "sasrec")
SETTINGS: dict[str, dict[str, Any]] = {
    "ffm": {"embedding_dim": 2},
    "deepfm": {"mlp": {"hidden": [32, 16]}},
    "wide_deep": {"mlp": {"hidden": [32, 16]}},
    "fnn": {"embedding_dim": 4, "mlp": {"hidden": [32, 16]}},
    "nfm": {"embedding_dim": 8, "mlp": {"hidden": [32]}},
    "afm": {"embedding_dim": 8, "attention_size": 4},
    "ipnn": {"embedding_dim": 4, "mlp": {"hidden": [32, 16]}},
    "opnn": {"embedding_dim": 4, "mlp": {"hidden": [32, 16]}},
    "pnn": {"embedding_dim": 4, "mlp": {"hidden": [32, 16]}},
    "deep_crossing": {"embedding_dim": 4, "units": [32, 16]},
    "dcn": {"embedding_dim": 4, "mlp": {"hidden": [32, 16]}},
    "dcn_v2": {"embedding_dim": 4, "low_rank": 4, "experts": 2, "mlp": {"hidden": [32, 16]}},
    "embedding_mlp": {"mlp": {"hidden": [32, 16]}},
    "dlrm": {"bottom": {"hidden": [16]}, "mlp": {"hidden": [32, 16]}},
    "autorec": {"hidden": 16},
    "autoint": {"embedding_dim": 4, "layers": 1, "head_dim": 4, "mlp": {"hidden": [16]}},
    **{name: {"user": "user", "item": "item"} for name in ("mf", "gmf", "ncf_mlp", "neumf", "ncf_shared")},
    "two_tower": {"user": ["user", "[ln]*"], "item": ["item", "t*"], "mlp": {"hidden": [32]}, "vector_dim": 8},
    "simplex": {"task": "binary", "embedding_dim": 8},
    "youtube_dnn": {"task": "binary", "embedding_dim": 8, "mlp": {"hidden": [32]}},
    "sasrec": {"task": "binary", "embedding_dim": 8, "dropout": 0.0},
    **{name: {"embedding_dim": 4, "mlp": {"hidden": [16]}} for name in READ_HISTORIES},
    # negatives as random as events: nothing to learn from the auxiliary loss, which would hide the other
    "dien": {"embedding_dim": 4, "mlp": {"hidden": [16]}, "auxiliary": 0.01},
    "drn": {"embedding_dim": 4, "mlp": {"hidden": [32, 16]}, "target": {"every": 1000}},
    "din": {"embedding_dim": 4, "attention": {"hidden": [8], "activation": "dice"}, "mlp": {"hidden": [16]}},
}


def with_numbers(dense: int) -> Schema:
    return histories_schema(dense, ("price_history", "age_history", "negative_price_history"))


def users_schema(dense: int) -> Schema:
    schema = histories_schema(dense)
    numbers = [f.model_copy(update={"role": "user"}) for f in schema.dense]
    return schema.model_copy(update={"features": (*schema.sparse, *numbers)})


OWN_DATA = {  # of models whose rows are of another kind than mixed_schema's
    "autorec": (ratings_schema, ratings_batch),
    **{name: (with_numbers, histories_batch) for name in READ_HISTORIES},
    **{name: (users_schema, partial(histories_batch, shortest=1)) for name in RETRIEVE},
    "drn": (transitions_schema, transitions_batch),
}
VARIANTS = [(name, SETTINGS.get(name, {})) for name in MODELS] + [
    ("deepfm", {"mlp": {"hidden": [32, 16], "batch_norm": True, "activation": "dice"}}),
    ("fm", {"task": "regression"}),
    ("wide_deep", {"mlp": {"hidden": [16]}, "deep": ["user", "item", "last_item", "t*"]}),
    ("din", SETTINGS["din"] | {"interaction": "outer_product", "softmax": True}),
    ("dien", SETTINGS["dien"] | {"evolving": "agru", "auxiliary_score": "net", "hidden": 3}),
    ("dien", SETTINGS["dien"] | {"attention": "activation_unit", "auxiliary_mean": "rows"}),
    ("deep_crossing", SETTINGS["deep_crossing"] | {"embedding": "relu"}),
]


MLPS = ("mlp", "bottom", "attention", "attention_mlp", "auxiliary_mlp")
ASKED_FOR = {"attention_mlp": ("attention", "activation_unit"), "auxiliary_mlp": ("auxiliary_score", "net")}
IDENTITIES = [("embedding_mlp", {"mlp": {"hidden": [8, 8], "batch_norm": True, "activation": "identity"}})]


def parametrized(variants: list[tuple[str, dict[str, Any]]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("name", "settings"), variants, ids=lambda v: v if isinstance(v, str) else "")


every_model = parametrized(VARIANTS)
every_binary_model = parametrized(
    [
        (name, settings)
        for name, settings in VARIANTS
        if settings.get("task") != "regression" and name not in ("autorec", "drn")
        if name not in READ_HISTORIES or settings == SETTINGS[name]  # slow: one of each
    ]
)


every_model_at_defaults = parametrized([v for v in VARIANTS if v[1] == SETTINGS.get(v[0], {})])


def schema_of(name: str, dense: int = 3) -> Schema:
    return OWN_DATA.get(name, (mixed_schema, mixed_batch))[0](dense)


def batch_of(name: str, rows: int, seed: int = 0, *, dense: int = 3, **more: Any) -> Batch:
    return OWN_DATA.get(name, (mixed_schema, mixed_batch))[1](schema_of(name, dense), rows, seed, **more)


def labels_of(batch: Batch) -> torch.Tensor:
    return next(iter(batch.labels.values())) if batch.labels else batch.weighted_ids["asked"].weights()


def values_of(output: Any) -> torch.Tensor:
    if isinstance(output, Evolved):
        return output.logits
    if isinstance(output, ActionValues):
        return output.value
    return output.values if isinstance(output, Jagged) else output


def changed(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A tower's input with its numbers changed."""
    if not isinstance(value, Jagged):
        return change(value)
    return value._replace(values=change(value.values), dense=None if value.dense is None else change(value.dense))


def some_rows(value: Any, rows: slice) -> Any:
    if isinstance(value, Evolved):
        return value.logits[rows]
    if isinstance(value, ActionValues):
        return value.value[rows]
    if not isinstance(value, Jagged):
        return value[rows]
    first, last = value.offsets[rows.start], value.offsets[rows.stop]
    offsets = value.offsets[rows.start : rows.stop + 1] - first
    weights = None if value.weights is None else value.weights[first:last]
    dense = None if value.dense is None else value.dense[first:last]
    return Jagged(value.values[first:last], value.lengths[rows], offsets, weights, dense)


def build(name: str, settings: dict[str, Any], dense: int = 3) -> tuple[Recommender, ReferenceLookup]:
    torch.manual_seed(0)
    config = config_class(MODELS[name]).model_validate(settings)
    model = MODELS[name](Fields(schema_of(name, dense)), config)
    return model, ReferenceLookup(model, dense_names=[f.name for f in schema_of(name, dense).dense])


def loss_of(model: Recommender, lookup: nn.Module, batch: Batch) -> torch.Tensor:
    with live_rows(batch.live):
        terms = model.task.loss(model(**lookup(batch)), batch)
    return torch.stack([term.total / term.count for term in terms.values()]).sum()


def train(model: Recommender, lookup: nn.Module, batch: Batch, steps: int) -> float:
    optimizer = torch.optim.Adam([*model.parameters(), *lookup.parameters()], lr=0.02)
    model.train()
    for _ in range(steps):
        loss = loss_of(model, lookup, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss_of(model, lookup, batch).detach())


@every_model
def test_works_without_dense_features(name: str, settings: dict[str, Any]) -> None:
    model, lookup = build(name, settings, dense=0)
    batch = batch_of(name, 8, dense=0)
    loss_of(model, lookup, batch).backward()
    prediction = model.task.prediction(model(**lookup(batch)))
    assert (prediction.lengths if isinstance(prediction, Jagged) else prediction).shape == (8,)


@every_model
@torch.no_grad()
def test_packed_mlps_score_as_they_do_otherwise(name: str, settings: dict[str, Any]) -> None:
    model, lookup = build(name, settings)
    randomise(model)
    inputs = lookup(batch_of(name, 32, padding=2))
    model.eval()
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            plain = values_of(model(**inputs))
            with packed(model, dtype):
                found = values_of(model(**inputs))
            torch.testing.assert_close(found, plain, rtol=tolerance, atol=tolerance)
            torch.testing.assert_close(values_of(model(**inputs)), plain, rtol=0, atol=0)


@every_model
def test_every_input_reaches_the_loss_and_every_parameter_gets_a_gradient(name: str, settings: dict[str, Any]) -> None:
    model, lookup = build(name, settings)
    batch = batch_of(name, 32)
    train(model, lookup, batch, 3)  # weights that start at 0 let nothing through
    inputs = {key: changed(value, lambda v: v.detach().requires_grad_()) for key, value in lookup(batch).items()}
    terms = model.task.loss(model(**inputs), batch)
    sum(term.total for term in terms.values()).backward()
    for key, value in inputs.items():
        given, gradient = model.inputs[key], values_of(value).grad
        if getattr(model.task, "candidates", None) and key.startswith("next_"):  # of a target, which is held fixed
            assert gradient is None, key
            continue
        flat = gradient.transpose(0, 1).flatten(1) if isinstance(given, PooledEmbeddings) else gradient.flatten(1).T
        reached = flat.abs().sum(1) > 0
        assert reached.all(), f"{key}: no gradient at {(~reached).nonzero().flatten().tolist()}"
        if isinstance(value, Jagged) and value.dense is not None:
            assert (value.dense.grad.abs().sum(0) > 0).all(), f"{key}: no gradient at some number"
    for key, parameter in model.named_parameters():
        assert not parameter.requires_grad or (parameter.grad is not None and parameter.grad.abs().sum() > 0), key


def normed(settings: dict[str, Any], known: Mapping[str, FieldInfo]) -> dict[str, Any]:
    """Settings with batch norm wherever a model can have it."""
    parts = [part for part in MLPS if part in known and isinstance(known[part].default, MLPConfig)]
    parts = [part for part in parts if part not in ASKED_FOR or ASKED_FOR[part] in settings.items()]
    return settings | {part: settings.get(part, {}) | {"batch_norm": True} for part in parts}


@parametrized(
    [*VARIANTS, *((name, normed(s, config_class(MODELS[name]).model_fields)) for name, s in VARIANTS), *IDENTITIES]
)
def test_no_gradient_is_rounding_alone(name: str, settings: dict[str, Any]) -> None:
    """Adam would make full steps of it. What has no other gradient is 0, and no optimizer's."""
    model, lookup = build(name, settings)
    assert not any(p.any() for p in model.parameters() if not p.requires_grad)
    model.double(), lookup.double()
    batch = batch_of(name, 32)
    with torch.no_grad():
        randomise(model, lookup)
    loss_of(model, lookup, batch).backward()
    largest = {key: float(p.grad.abs().max()) for key, p in model.named_parameters() if p.grad is not None}
    for key, parameter in model.named_parameters():
        assert not parameter.requires_grad or largest[key] > 1e-11 * max(largest.values()), key


@every_model
def test_overfits_64_rows(name: str, settings: dict[str, Any]) -> None:
    model, lookup = build(name, settings)
    batch = batch_of(name, 64, unique_users=True)
    label = labels_of(batch).double()
    p = label.mean()
    is_binary = isinstance(getattr(model.task, "task", model.task), BinaryClassification)
    constant = -(p * p.log() + (1 - p) * (1 - p).log()) if is_binary else label.var(unbiased=False)
    assert train(model, lookup, batch, 100) < 0.1 * constant


@every_binary_model
def test_learns_nothing_from_shuffled_labels(name: str, settings: dict[str, Any]) -> None:
    model, lookup = build(name, settings)
    train(model, lookup, batch_of(name, 1000, seed=1), 40)
    held_out = batch_of(name, 3000, seed=2)
    model.eval()
    score = values_of(model(**lookup(held_out))).detach().numpy()
    assert abs(roc_auc_score(held_out.labels["label"].numpy(), score) - 0.5) < 0.05


@every_model
def test_state_goes_around(name: str, settings: dict[str, Any]) -> None:
    model, lookup = build(name, settings)
    batch = batch_of(name, 16)
    train(model, lookup, batch, 5)
    other, other_lookup = build(name, settings)
    model.eval(), other.eval()
    expected = values_of(model(**lookup(batch)))
    assert not torch.equal(values_of(other(**other_lookup(batch))), expected)
    other.load_state_dict(model.state_dict())
    other_lookup.load_state_dict(lookup.state_dict())
    assert torch.equal(values_of(other(**other_lookup(batch))), expected)


@every_model
def test_evaluation_does_not_depend_on_batch_mates(name: str, settings: dict[str, Any]) -> None:
    model, lookup = build(name, settings)
    train(model, lookup, batch_of(name, 32), 5)
    model.double().eval()
    inputs = {key: changed(value, torch.Tensor.double) for key, value in lookup(batch_of(name, 32, seed=3)).items()}
    few = {key: some_rows(value, slice(5, 9)) for key, value in inputs.items()}
    expected = values_of(some_rows(model(**inputs), slice(5, 9)))
    torch.testing.assert_close(values_of(model(**few)), expected, rtol=0, atol=1e-12)


@every_model_at_defaults
def test_outputs_are_not_rounded_to_bf16(name: str, settings: dict[str, Any]) -> None:
    """Inside, products may be; but outputs of 8 bits would tie rows that the tower tells apart."""
    model, lookup = build(name, settings)
    batch = batch_of(name, 64)
    train(model, lookup, batch, 5)
    model.eval()
    expected = values_of(model(**lookup(batch))).detach()
    inputs = {key: changed(value, lambda v: v.detach().requires_grad_()) for key, value in lookup(batch).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**inputs)
    found = values_of(output)
    assert found.dtype == torch.float32 and not torch.equal(found, found.bfloat16().float())
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * float(expected.std()))
    sum(term.total for term in model.task.loss(output, batch).values()).backward()
    gradients = [p.grad for p in model.parameters()] + [values_of(value).grad for value in inputs.values()]
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


@every_model
def test_padding_counts_nowhere(name: str, settings: dict[str, Any]) -> None:
    """Neither in the loss, nor in a gradient, nor in moments, whatever the towers are given for it."""
    gradients = []
    for padding in (0, 5):
        model, lookup = build(name, settings)
        model.double(), lookup.double()
        batch = batch_of(name, 16, padding=padding)
        batch.dense[16:] = 1000
        loss = loss_of(model, lookup, batch)
        loss.backward()
        gradients.append({k: p.grad for m in (model, lookup) for k, p in m.named_parameters() if p.requires_grad})
        state = {k: v for k, v in model.state_dict().items() if "running" in k}
        gradients[-1] |= {"loss": loss.detach(), **state}
    for key, value in gradients[0].items():
        np.testing.assert_allclose(gradients[1][key], value, rtol=1e-9, atol=1e-12, err_msg=key)
