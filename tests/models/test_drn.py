"""DRN against loops of its equations in float64; its target network; what it refuses."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import DenseFeature, IdFeature, IdListFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Label, Schema
from shardrec.models.drn import DRN, DRNConfig
from shardrec.models.fields import Fields
from shardrec.models.inputs import Jagged
from shardrec.models.layers.jagged_argmax import jagged_argmax
from shardrec.models.temporal_difference import ActionValues
from tests.models.cases import perceptron, pooled_rows, randomise, transitions_batch, transitions_schema
from tests.models.reference_lookup import ReferenceLookup, ids_of

SMALL: dict[str, Any] = {"embedding_dim": 3, "mlp": {"hidden": [5, 4]}}


def build(settings: dict[str, Any], schema: Schema | None = None) -> tuple[DRN, ReferenceLookup]:
    """In float64, with other weights in the target network than in the online one."""
    schema = schema or transitions_schema()
    model = DRN(Fields(schema), DRNConfig.model_validate(SMALL | settings))
    lookup = ReferenceLookup(model, dense_names=[f.name for f in schema.dense])
    model.double(), lookup.double()
    randomise(model, lookup)
    with torch.no_grad():
        for buffer in model.target.buffers():
            buffer.normal_(0, 0.5, generator=torch.Generator().manual_seed(buffer.numel())).abs_()
    return model, lookup


def sides(batch: Batch, lookup: ReferenceLookup) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    """The columns of state, action, next state and next candidates, a row each."""
    dense = batch.dense.double().numpy()
    user, ahead, match = dense[:, 0:3], dense[:, 3:6], dense[:, 6:9]
    state = np.concatenate([pooled_rows(lookup, "state", batch).reshape(len(dense), -1), user], 1)
    action = np.concatenate([pooled_rows(lookup, "action", batch).reshape(len(dense), -1), match], 1)
    following = np.concatenate([pooled_rows(lookup, "next_state", batch).reshape(len(dense), -1), ahead], 1)
    ids = ids_of(batch, "next_candidates")
    news, offsets = lookup.table("news").detach().numpy(), ids.offsets().tolist()
    numbers = [batch.dense_sequences[f"next_candidates_m{i}"].double().numpy() for i in range(3)]
    candidates = []
    for b in range(len(dense)):
        rows = [[*news[int(ids.values()[t])], *(n[t] for n in numbers)] for t in range(offsets[b], offsets[b + 1])]
        candidates.append(np.array(rows).reshape(len(rows), news.shape[1] + 3))
    return state, action, following, candidates


def q(net: nn.Module, state: np.ndarray, action: np.ndarray, advantage: str) -> float:
    value = layers(net.value, state)
    return value + layers(net.advantage, np.concatenate([state, action]) if advantage == "both" else action)


def layers(mlp: nn.Module, x: np.ndarray) -> float:
    return float(perceptron(mlp, x[None])[0, 0])


@pytest.mark.parametrize("advantage", ["both", "action"])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("loss", ["squared", "huber"])
def test_values_targets_and_loss_are_those_of_the_equations(advantage: str, double: bool, loss: str) -> None:
    rewards = {"click": 1.0, "activeness": 0.05}
    model, lookup = build({"advantage": advantage, "double": double, "loss": loss, "rewards": rewards, "discount": 0.7})
    batch = transitions_batch(transitions_schema(), 24, padding=3)
    batch = replace(batch, weights=torch.linspace(0.5, 2.0, 27))
    output = model(**lookup(batch))
    state, action, following, candidates = sides(batch, lookup)
    total = weight = 0.0
    for b in range(24):
        value = q(model.online, state[b], action[b], advantage)
        reward = float(batch.labels["click"][b].double() + 0.05 * batch.labels["activeness"][b].double())
        ahead = 0.0
        if len(candidates[b]):
            of_target = [q(model.target, following[b], a, advantage) for a in candidates[b]]
            of_online = [q(model.online, following[b], a, advantage) for a in candidates[b]]
            ahead = of_target[int(np.argmax(of_online))] if double else max(of_target)
        y = reward + 0.7 * (1 - float(batch.labels["terminal"][b])) * ahead
        assert output.value[b].item() == pytest.approx(value, rel=1e-9)
        assert output.following[b].item() == pytest.approx(ahead, rel=1e-9, abs=1e-12)
        assert model.task.target(output, batch)[b].item() == pytest.approx(y, rel=1e-6)
        error = abs(value - y)
        row = error**2 if loss == "squared" else error**2 / 2 if error < 1 else error - 0.5
        total, weight = total + float(batch.weights[b]) * row, weight + float(batch.weights[b])
    term = model.task.loss(output, batch)["td_loss"]
    assert (term.total / term.count).item() == pytest.approx(total / weight, rel=1e-6)
    choices = [int(np.argmax([q(n, following[b], a, advantage) for a in candidates[b]]))
               for b in range(1, 24) for n in (model.online, model.target)]  # fmt: skip
    assert choices[::2] != choices[1::2]  # so that who chooses is to be seen


def test_every_candidate_is_valued_in_the_state_of_its_row() -> None:
    model, lookup = build({})
    batch = transitions_batch(transitions_schema(), 9)
    found = lookup(batch)
    _, _, following, candidates = sides(batch, lookup)
    values = model.candidate_values(found["next_state"], found["next_state_dense"], found["next_candidates"])
    expected = [q(model.online, following[b], a, "both") for b in range(9) for a in candidates[b]]
    assert values.tolist() == pytest.approx(expected, rel=1e-9)


def test_the_first_of_equal_candidates_is_chosen() -> None:
    score = torch.tensor([1.0, 3.0, 3.0, -torch.inf, -torch.inf, 2.0, torch.nan, 5.0])
    lengths = torch.tensor([3, 0, 2, 3, 0])
    row = torch.arange(5).repeat_interleave(lengths)
    assert jagged_argmax(score, row, lengths).tolist() == [1, 8, 3, 6, 8]
    assert jagged_argmax(score[:0], row[:0], torch.zeros(2, dtype=torch.int64)).tolist() == [0, 0]


@pytest.mark.parametrize("by", ["copy", "swap"])
def test_the_target_network_follows_every_third_step(by: str) -> None:
    model, _ = build({"target": {"every": 3, "by": by}, "mlp": {"hidden": [4], "batch_norm": True}})
    online = {key for key in model.state_dict() if key.startswith("online.")}
    target = {key for key in model.state_dict() if key.startswith("target.")}
    assert target == {key.replace("online", "target") for key in online}
    assert not {k for k, _ in model.named_parameters() if not k.startswith("online.")}
    for step in range(1, 8):
        randomise(model, seed=step)  # what an optimizer does
        online, target = ({k: v.clone() for k, v in n.state_dict().items()} for n in (model.online, model.target))
        model.after_step()
        due = step % 3 == 0
        now = model.target.state_dict()
        assert all(torch.equal(now[k], (online if due else target)[k]) for k in now)
        now = model.online.state_dict()
        assert all(torch.equal(now[k], (target if due and by == "swap" else online)[k]) for k in now)
        assert int(model.steps) == step and model.steps.dtype == torch.int64


def test_the_next_state_is_valued_as_in_evaluation() -> None:
    """Neither dropout nor the moments of candidates reach the target, and training goes on in training mode."""
    model, lookup = build({"mlp": {"hidden": [8], "dropout": 0.5, "batch_norm": True}})
    batch = transitions_batch(transitions_schema(), 16)
    model.eval()
    expected = model(**lookup(batch))
    model.train()
    found = model(**lookup(batch))
    assert torch.equal(found.following, expected.following) and not torch.equal(found.value, expected.value)
    assert model.online.training and not model.target.training


def test_a_log_without_next_states_teaches_the_reward_alone() -> None:
    """And nothing of a next state is read, where the schema has it."""
    schema = transitions_schema(dense=1)
    bandit = schema.subset(["user", "news", "n0", "m0"]).model_copy(update={"labels": (Label(name="click"),)})
    for each in (schema, bandit):
        model, _ = build({"discount": 0}, each)
        assert not any(name.startswith("next") for name in model.features)
        batch = transitions_batch(schema, 5)
        output = ActionValues(torch.randn(5))
        assert model.task.target(output, batch).tolist() == batch.labels["click"].tolist()
        model.task.check(replace(batch, labels={"click": batch.labels["click"]}))
    assert model.features == ("n0", "news", "m0", "user")
    assert model.unread_features(labelled=False) == ()


def test_only_rows_with_labels_are_asked_for_their_next_state() -> None:
    model, _ = build({})
    assert model.unread_features(labelled=True) == ()
    ahead = {f.name for f in transitions_schema().features if f.place != "now"}
    assert set(model.unread_features(labelled=False)) == ahead


def test_a_state_of_numbers_alone() -> None:
    schema = transitions_schema()
    model, lookup = build({"state": ["n[0-9]"]}, schema)
    batch = transitions_batch(schema, 6)
    assert "state" not in model.inputs and model(**lookup(batch)).following.shape == (6,)


PLAIN = transitions_schema(dense=1)
WITHOUT_NEXT = PLAIN.subset([f.name for f in PLAIN.features if f.place != "next"])
LISTED = Schema(
    features=(
        IdFeature(name="user", ids=Identity(num_ids=3), role="user"),
        IdFeature(name="news", ids=Identity(num_ids=3), role="item"),
        IdListFeature(name="tags", ids=Identity(num_ids=3), role="item"),
        DenseFeature(name="age", role="item"),
    ),
    labels=(Label(name="click"),),
)


@pytest.mark.parametrize(
    ("schema", "settings", "message"),
    [
        (PLAIN, {"state": ["usr"]}, r"drn: state: unknown feature 'usr'; did you mean 'user'\?"),
        (PLAIN, {"action": ["q*"]}, r"drn: action: unknown feature 'q\*'; known: user, hour, news, n0, m0"),
        (PLAIN, {"action": ["next_candidates"]}, "drn: action: unknown feature 'next_candidates'"),
        (PLAIN, {"state": ["*"]}, "drn: feature 'news' is in both `state` and `action`; leave it in one"),
        (PLAIN, {"action": ["m0"]}, "drn: the action has no id feature; name one by `action`"),
        (LISTED, {"discount": 0}, "drn: feature 'tags' of the action is id_list; an action's features are id or dense"),
        (LISTED, {"discount": 0, "state": [], "action": ["news"]}, "drn: the state has no features; name some by"),
        (WITHOUT_NEXT, {}, "drn: discount 0.4 needs the next state and its candidates, but the schema has no feature "
                           "with place: next of user, hour, n0; declare what is missing, or set discount: 0"),
        (LISTED, {"action": ["news"], "terminal": None}, "no feature with place: next of user"),
        (PLAIN.without(["next_candidates_m0"]), {}, "no feature with place: next_candidate of m0; declare"),
        (PLAIN, {"rewards": {"clik": 1}}, r"drn: rewards: unknown label 'clik'; did you mean 'click'\?"),
        (PLAIN, {"terminal": "end"}, r"drn: terminal: unknown label 'end'; known: .* \(set terminal: null where"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(schema: Schema, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        DRN(Fields(schema), DRNConfig.model_validate(SMALL | settings))
    assert "\n" not in str(raised.value)


def test_rows_that_cannot_be_learned_from_are_named() -> None:
    schema = transitions_schema()
    task = build({})[0].task
    batch = transitions_batch(schema, 6, padding=2)
    batch = replace(batch, rows=torch.tensor([10, 11, 12, 13, 14, 15, -1, -1]))
    task.check(batch)
    cases = [
        ("click", 4, torch.nan, r"label 'click': found nan in row 14; rewards have to be finite"),
        ("terminal", 3, 0.5, r"label 'terminal': found 0.5 in row 13; terminal is 1 where nothing follows, else 0"),
        ("terminal", 0, 0.0, r"length of 'next_candidates': found 0 in row 10; a row with 'terminal' 0 needs the"),
    ]
    for label, row, value, message in cases:
        wrong = batch.labels[label].clone()
        wrong[row] = value
        with pytest.raises(UserError, match=message):
            task.check(replace(batch, labels=batch.labels | {label: wrong}))
    wrong = torch.tensor([0.0] * 6 + [torch.nan] * 2)
    task.check(replace(batch, labels=batch.labels | {"click": wrong}))  # padding
    task.check(replace(batch, labels={}))  # rows to be predicted
    unmarked = build({"terminal": None})[0].task
    unmarked.check(batch)  # where nothing is marked, an empty list says that nothing follows


def test_metrics_are_weighted_means_and_say_where_there_are_none() -> None:
    task = build({"discount": 0.5})[0].task
    batch = transitions_batch(transitions_schema(), 3, padding=1)
    labels = {"click": torch.tensor([1.0, 0, 0, 9]), "terminal": torch.tensor([1.0, 0, 0, 0])}
    batch = replace(batch, labels=labels, weights=torch.tensor([1.0, 2.0, 1.0, 5.0]))
    output = ActionValues(torch.tensor([0.5, 1.0, 2.0, 7.0]), torch.tensor([4.0, 4.0, 1.0, 8.0]))
    metrics = task.metrics()
    metrics.update(output, batch)
    means = {"td_error": (0.25 + 2 * 1.0 + 2.25) / 4, "mean_q": 4.5 / 4, "mean_target": (1.0 + 2 * 2.0 + 0.5) / 4}
    assert metrics.compute() == pytest.approx(means | {"rows": 3})
    assert next(iter(metrics.directions.items())) == ("td_error", False)
    metrics = task.metrics()
    metrics.update(output, replace(batch, weights=torch.zeros(4)))
    assert "undefined (no row has a weight over 0)" in str(metrics.compute()["td_error"])


def test_rows_with_a_loss_that_is_not_finite_are_told() -> None:
    task = build({})[0].task
    batch = transitions_batch(transitions_schema(), 3, padding=1)
    output = ActionValues(torch.tensor([0.5, torch.nan, 2.0, torch.nan]), torch.zeros(4))
    assert task.broken_rows(output, batch).tolist() == [False, True, False, False]


def test_no_candidates_at_all() -> None:
    model, lookup = build({})
    found = lookup(transitions_batch(transitions_schema(), 2))
    lengths, offsets = torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    none = Jagged(torch.zeros(0, 1, 3), lengths, offsets, None, torch.zeros(0, 3))
    assert model(**found | {"next_candidates": none}).following.tolist() == [0, 0]


def estimate_of_nothing(double: bool, seed: int) -> float:
    """What a state is thought to be worth from which one goes on to a choice of twelve actions, all worth 0.

    Their rewards are 1 or -1, so that the tower's estimates, one weight an action, never come to rest.
    """
    actions, each, steps = 12, 2, 300
    torch.manual_seed(seed)
    settings = {
        "state": ["n0", "n1"],
        "mlp": {"hidden": []},
        "discount": 1.0,
        "target": {"every": 50},
    }
    model = DRN(Fields(transitions_schema(actions)), DRNConfig.model_validate(SMALL | settings | {"double": double}))
    ends = torch.cat([torch.zeros(4), torch.ones(actions * each)])  # four rows of the first state, all of the second
    rows = len(ends)
    state = F.one_hot(ends.long(), 2).float()
    action = F.one_hot(torch.cat([torch.zeros(4).long(), torch.arange(actions).repeat(each)]), actions).float()
    lengths = ((1 - ends) * actions).long()
    every = torch.eye(actions).repeat(4, 1)
    candidates = Jagged(torch.zeros(len(every), 1, 3), lengths, F.pad(lengths.cumsum(0), (1, 0)), None, every)
    inputs = {"state_dense": state, "action": torch.zeros(rows, 3), "action_dense": action}
    inputs |= {"next_state_dense": torch.tensor([[0.0, 1.0]]).expand(rows, 2), "next_candidates": candidates}
    batch = transitions_batch(transitions_schema(actions), rows)
    for parameter in model.online.parameters():
        nn.init.zeros_(parameter)
    optimizer = torch.optim.SGD([layer.weight for layer in model.online.advantage.layers], lr=0.8)
    worth = []
    for _ in range(steps):
        reward = ends * (torch.randint(0, 2, (rows,)) * 2 - 1)
        output = model(**inputs)
        term = model.task.loss(output, replace(batch, labels={"click": reward, "terminal": ends}))["td_loss"]
        optimizer.zero_grad()
        (term.total / term.count).backward()
        optimizer.step()
        model.after_step()
        worth.append(float(output.following[0]))
    return float(np.mean(worth[steps // 3 :]))


def test_double_learning_overestimates_less() -> None:
    """A maximum takes chance for value; where another network values what one chose, it hardly does.

    Of van Hasselt, Guez & Silver (AAAI 2016). The true value is 0; a reward's standard deviation is 1.
    """
    double, single = (np.mean([estimate_of_nothing(d, seed) for seed in range(3)]) for d in (True, False))
    assert single > 0.25 and abs(double) < 0.1, (double, single)
