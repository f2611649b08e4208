"""Estimates of a policy's worth: against plain loops, and over many logs of a world whose answer is known."""

import numpy as np
import pytest

from shardrec.trainer.off_policy.estimators import ESTIMATORS, Weighed, ratios, why_no_replay
from shardrec.trainer.off_policy.intervals import Ratio, Resampling, estimates
from shardrec.trainer.off_policy.reward_models import FOLDS, PRIOR_ROWS, MeanRewards, folds
from tests.trainer.off_policy.simulated import Judged, World, judge, snips_slope

LOGS = 1000


@pytest.fixture(scope="module")
def judged() -> Judged:
    return judge(LOGS, rows=1000, resamples=200)


@pytest.mark.parametrize("name", ["ips", "doubly_robust"])
def test_no_bias_and_honest_intervals(judged: Judged, name: str) -> None:
    bias, error = judged.bias(name, World().value)
    assert abs(bias) <= 2 * error
    assert 0.93 <= judged.inside[name] <= 0.97 and 0.93 <= judged.inside_normal[name] <= 0.97


def test_doubly_robust_is_the_narrower(judged: Judged) -> None:
    assert judged.values["doubly_robust"].std() < 0.95 * judged.values["ips"].std()


def test_wrong_propensities_are_off() -> None:
    """What the test above would not see: estimates that are right whatever the log's propensities say."""
    world, off = World(), []
    for seed in range(30):
        rows = world.log(1000, seed)
        wrong = rows._replace(propensity=np.minimum(1, rows.propensity**1.3))
        off.append(estimates({"ips": ratios(wrong)["ips"]}, how=Resampling(resamples=2))["ips"].value - world.value)
    assert np.mean(off) > 10 * np.std(off) / len(off) ** 0.5


def test_self_normalised_bias_falls_as_one_by_n() -> None:
    assert snips_slope((20, 40, 80, 160), logs=8000) == pytest.approx(-1, abs=0.15)


def test_all_are_what_the_loops_say() -> None:
    rows = World().log(50, 0)
    weighted = matched = shown = predicted = corrected = rewards = 0.0
    for r, p, pi, q, v, _ in zip(*rows, strict=True):
        w = pi / p
        weighted += w * r
        shown += w
        matched += pi * r
        rewards += pi
        predicted += v
        corrected += v + w * (r - q)
    expected = (matched / rewards, weighted / 50, weighted / shown, predicted / 50, corrected / 50)
    found = estimates(ratios(rows), how=Resampling(resamples=2))
    assert [found[name].value for name in ESTIMATORS] == pytest.approx(expected)
    assert found["logged"].value == rows.reward.mean()


def test_replay_needs_a_uniform_log() -> None:
    rows = World().log(100, 0)
    assert "not uniform: propensities go from" in (why_no_replay(rows) or "")
    even = rows._replace(propensity=1 / rows.candidates)
    assert why_no_replay(even) is None
    some = even._replace(candidates=np.r_[even.candidates[:-1], 3], propensity=np.r_[even.propensity[:-1], 1 / 3])
    assert "3 to 6 candidates" in (why_no_replay(some) or "")


def test_rows_of_one_group_are_drawn_together() -> None:
    """Ten copies of each row say no more than the row, if they are its group's; taken for rows, they seem to."""
    draw = np.random.default_rng(0)
    once = Ratio(draw.random(200), np.ones(200))
    copies = Ratio(*(column.repeat(10) for column in once))
    how = Resampling(resamples=300)
    apart, together = (estimates({"mean": copies}, group, how)["mean"] for group in (None, np.arange(200).repeat(10)))
    alone = estimates({"mean": once}, how=how)["mean"]
    assert together.normal_high - together.normal_low == pytest.approx(alone.normal_high - alone.normal_low)
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))
    assert apart.high - apart.low < 0.5 * (alone.high - alone.low)


def test_mean_rewards_leave_the_rows_own_fold_out() -> None:
    draw = np.random.default_rng(1)
    reward, position, action = draw.random(60), draw.integers(2, size=60), draw.integers(3, size=60)
    group = draw.integers(15, size=60)
    fold = folds(group, 60)
    assert all(len(set(fold[group == g])) == 1 for g in set(group)) and set(fold) == set(range(FOLDS))
    found = MeanRewards.fit(reward, position, action, fold)
    for f in range(FOLDS):
        others = fold != f
        for p in range(2):
            at = others & (position == p)
            prior = (reward[at].sum() + PRIOR_ROWS * reward[others].mean()) / (at.sum() + PRIOR_ROWS)
            for a in (-1, 0, 1, 2):
                same = at & (action == a)
                expected = (reward[same].sum() + PRIOR_ROWS * prior) / (same.sum() + PRIOR_ROWS)
                assert found(np.array([f]), np.array([p]), np.array([a]))[0] == pytest.approx(expected)


def test_folds_are_not_the_places_of_a_list() -> None:
    """A log has the items of a list one after the other: each fold has rows of all places."""
    place = np.tile(np.arange(FOLDS), 40)
    fold = folds(None, len(place))
    assert np.histogram2d(fold, place, FOLDS)[0].min() > 0 and set(np.bincount(fold)) == {len(place) // FOLDS}


def test_what_rows_do_not_define_is_undefined() -> None:
    rows = World().log(20, 0)
    never: Weighed = rows._replace(probability=np.zeros(20))
    found = estimates(ratios(never), how=Resampling(resamples=5))
    assert found["ips"].value == 0 and np.isnan(found["snips"]).all() and np.isnan(found["replay"]).all()
