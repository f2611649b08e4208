"""FNN against its equation, by loops; what z holds."""

import numpy as np
import pytest
import torch

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.features.feature_kinds import IdFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.base import Recommender
from shardrec.models.fields import Fields
from shardrec.models.fm import FM, FMConfig
from shardrec.models.fnn import FNN, FNNConfig
from tests.models.cases import mixed_batch, mixed_schema, pooled_rows, randomise
from tests.models.reference_lookup import ReferenceLookup, make_batch


@pytest.mark.parametrize("dense", [0, 3])
def test_equals_the_equation(dense: int) -> None:
    schema = mixed_schema(dense)
    model = FNN(Fields(schema), FNNConfig.model_validate({"embedding_dim": 4, "mlp": {"hidden": [7, 6]}})).double()
    lookup = ReferenceLookup(model, dtype=torch.float64)
    randomise(model, lookup)
    batch = mixed_batch(schema, 6)
    rows, numbers = pooled_rows(lookup, "field", batch), batch.dense.double().numpy()
    z = []
    for b in range(6):
        z.append([model.linear.bias.item()])
        z[b] += [model.linear.weight[d].item() * numbers[b, d] for d in range(dense)]
        for f in range(rows.shape[1]):
            z[b] += list(rows[b, f])
    parameters = [p.detach().numpy() for p in model.mlp.parameters()]
    w1, b1, w2, b2, w3, b3 = parameters
    expected = [w3[0] @ np.tanh(w2 @ np.tanh(w1 @ np.array(row) + b1) + b2) + b3[0] for row in z]
    torch.testing.assert_close(model(**lookup(batch)), torch.from_numpy(np.array(expected)), rtol=0, atol=1e-12)


def test_two_tanh_layers_unless_said_otherwise() -> None:
    assert FNNConfig.model_validate({"mlp": {"hidden": [32]}}).mlp.activation == "tanh"
    assert FNNConfig().mlp.hidden == (400, 400)
    assert FNNConfig.model_validate({"mlp": {"activation": "relu"}}).mlp.activation == "relu"


def test_z_is_what_the_fm_has_of_a_row() -> None:
    """Same tables and linear part; the sum of z's first-order entries is the FM's first-order term."""
    schema = mixed_schema()
    fm, fnn = FM(Fields(schema), FMConfig(embedding_dim=4)), FNN(Fields(schema), FNNConfig(embedding_dim=4))
    assert fnn.tables == fm.tables
    lookup = ReferenceLookup(fm)
    randomise(fm, lookup)
    fnn.linear.load_state_dict(fm.linear.state_dict())
    inputs = lookup(mixed_batch(schema, 6))
    z = fnn.signals(**inputs)
    rows = z[:, 1 + 3 :].unflatten(1, (6, 1 + 4))
    assert torch.equal(rows, inputs["field"])
    first_order = z[:, : 1 + 3].sum(1) + rows[:, :, 0].sum(1)
    torch.testing.assert_close(first_order, fm.linear(inputs["dense"]) + inputs["field"][:, :, 0].sum(1))


PAIRS = Schema(
    features=tuple(IdFeature(name=name, ids=Identity(num_ids=n)) for name, n in (("user", 40), ("item", 30)))
)


def planted(seed: int, rows: int) -> Batch:
    """Clicks by p_u . q_i and nothing else."""
    r = np.random.default_rng(seed)
    p, q = r.normal(size=(40, 2)), r.normal(size=(30, 2))
    users, items = r.integers(0, 40, rows), r.integers(0, 30, rows)
    label = r.random(rows) < 1 / (1 + np.exp(-3 * (p[users] * q[items]).sum(1)))
    ids = {"user": [[u] for u in users], "item": [[i] for i in items]}
    return make_batch(PAIRS, ids, labels=label.astype(np.float32))


def steps_to(target: float, model: Recommender, lookup: ReferenceLookup, batch: Batch, most: int = 400) -> int:
    """Steps of Adam until the mean log loss is `target`, or `most`."""
    optimizer = torch.optim.Adam([*model.parameters(), *lookup.parameters()], lr=0.01)
    for step in range(most):
        (term,) = model.task.loss(model(**lookup(batch)), batch).values()
        loss = term.total / term.count
        if loss <= target:
            return step
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return most


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_from_an_fm_it_takes_fewer_steps_than_from_random_values(seed: int) -> None:
    """The paper's claim for its initialisation: a given log loss sooner, from the same MLP."""
    batch = planted(seed, 2000)
    config = FNNConfig.model_validate({"embedding_dim": 4, "mlp": {"hidden": [16, 16]}})
    torch.manual_seed(seed)
    fm, fresh, started = FM(Fields(PAIRS), FMConfig(embedding_dim=4)), *(FNN(Fields(PAIRS), config) for _ in range(2))
    lookups = [ReferenceLookup(model, seed) for model in (fm, fresh, started)]
    steps_to(0.0, fm, lookups[0], batch, 100)
    started.load_state_dict(fresh.state_dict())  # the same MLP
    started.linear.load_state_dict(fm.linear.state_dict())
    lookups[2].load_state_dict(lookups[0].state_dict())
    slow, fast = (steps_to(0.45, *pair, batch) for pair in ((fresh, lookups[1]), (started, lookups[2])))
    assert 0 < 1.5 * fast < slow < 400
