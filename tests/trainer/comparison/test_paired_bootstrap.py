"""Differences against scikit-learn and loops; intervals against what theory says of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from shardrec.trainer.comparison.paired_bootstrap import Judged

SEEDS = st.integers(0, 10_000)


def rows(seed: int, users: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.random.Generator]:
    """Labels, users and weights of some rows; one user at least has both classes."""
    draw = np.random.default_rng(seed)
    group = np.r_[0, 0, draw.integers(0, users, 5 * users)]
    label = np.r_[0, 1, draw.integers(0, 2, 5 * users)]
    return label, group, draw.choice([0.5, 1.0, 2.0], len(label)), draw


def gauc(label: np.ndarray, group: np.ndarray, weight: np.ndarray, score: np.ndarray) -> float:
    total = counted = 0.0
    for g in np.unique(group):
        of = group == g
        if len(np.unique(label[of])) == 2:
            total += roc_auc_score(label[of], score[of], sample_weight=weight[of]) * weight[of].sum()
            counted += weight[of].sum()
    return total / counted


@settings(max_examples=8)
@given(SEEDS)
def test_differences_are_those_of_scikit_learn_averaged_over_runs(seed: int) -> None:
    label, group, weight, draw = rows(seed)
    model, base = ([draw.integers(0, 6, len(label)) / 2 for _ in range(runs)] for runs in (2, 3))  # with many ties
    found = Judged(label, group, weight).differences(model, base, draws=2)
    means = [np.mean([roc_auc_score(label, s, sample_weight=weight) for s in runs]) for runs in (model, base)]
    assert found["auc"].difference == pytest.approx(means[0] - means[1], abs=1e-12)
    means = [np.mean([gauc(label, group, weight, s) for s in runs]) for runs in (model, base)]
    assert found["gauc"].difference == pytest.approx(means[0] - means[1], abs=1e-12)


def test_a_drawing_is_the_metric_of_the_rows_of_the_users_drawn() -> None:
    label, group, weight, draw = rows(1)
    model, base = draw.normal(size=len(label)), draw.normal(size=len(label))
    found = Judged(label, group, weight).differences([model], [base], draws=2, seed=5)
    again = np.random.default_rng(5)
    differences = []
    for _ in range(2):
        users = again.integers(31 - 1, size=30)
        chosen = np.concatenate([np.flatnonzero(group == user) for user in users])
        one, other = (roc_auc_score(label[chosen], s[chosen], sample_weight=weight[chosen]) for s in (model, base))
        differences.append(one - other)
    np.testing.assert_allclose(found["auc"][1:], np.percentile(differences, [2.5, 97.5]), atol=1e-12)


def test_a_model_differs_from_itself_by_nothing() -> None:
    label, group, _, draw = rows(2)
    score = [draw.normal(size=len(label))]
    assert set(Judged(label, group).differences(score, score, draws=20).values()) == {(0.0, 0.0, 0.0)}


def test_the_interval_is_as_wide_as_the_differences_of_users_make_it() -> None:
    """One positive and one negative a user: GAUC is a mean over users, whose deviation theory knows."""
    draw = np.random.default_rng(3)
    users = 2000
    group, label = np.repeat(np.arange(users), 2), np.tile([0, 1], users)
    base = draw.normal(size=2 * users) + 0.5 * label
    model = base + 0.5 * draw.normal(size=2 * users) + 0.3 * label
    found = Judged(label, group).differences([model], [base], draws=1000)["gauc"]
    each = (model[1::2] > model[::2]) * 1.0 - (base[1::2] > base[::2])
    half = 1.96 * each.std() / users**0.5
    assert found.difference == pytest.approx(each.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert found.clear


def test_users_of_one_class_do_not_count_for_gauc() -> None:
    label, group = np.array([1, 1, 0, 1]), np.array(["a", "a", "b", "b"])
    model, base = np.array([0.0, 9.0, 1.0, 2.0]), np.array([9.0, 0.0, 2.0, 1.0])
    assert Judged(label, group).differences([model], [base], draws=2)["gauc"].difference == 1.0


def test_rows_that_are_groups_of_their_own_have_no_gauc() -> None:
    label, _, _, draw = rows(4)
    scores = [draw.normal(size=len(label)) for _ in range(2)]
    found = Judged(label, np.arange(len(label))).differences(scores[:1], scores[1:], draws=20)
    assert set(found) == {"auc"} and found["auc"].low < found["auc"].difference < found["auc"].high
