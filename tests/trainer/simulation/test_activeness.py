"""Activeness against a loop over users and seconds, and what is true of it whatever the returns."""

from math import exp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardrec.trainer.simulation.activeness import Activeness, ActivenessConfig

VISITS = st.lists(st.tuples(st.integers(0, 4), st.floats(0, 10 * 86_400)), max_size=30)


def by_loop(visits: list[tuple[int, float]], user: int, time: float) -> float:
    """Activeness of one user, visit by visit, as section 4.4 says it."""
    value, last = 0.5, 0.0
    for visitor, at in visits:
        if visitor == user:
            value = min(1.0, value * exp(-1.2e-5 * (at - last)) + 0.32)
            last = at
    return value * exp(-1.2e-5 * (time - last))


@settings(max_examples=60)
@given(VISITS, st.floats(0, 5 * 86_400))
def test_it_is_what_a_loop_over_visits_gives(visits: list[tuple[int, float]], later: float) -> None:
    visits.sort(key=lambda visit: visit[1])
    activeness = Activeness(5)
    for user, at in visits:
        activeness.returned(np.array([user]), at)
    time = max((at for _, at in visits), default=0.0) + later
    assert activeness.at(time) == pytest.approx([by_loop(visits, user, time) for user in range(5)])
    assert (activeness.at(time) >= 0).all() and (activeness.at(time) <= 1).all()
    assert (activeness.at(time + 1) <= activeness.at(time)).all()


def test_users_of_one_moment_return_together() -> None:
    together, one_by_one = Activeness(6), Activeness(6)
    for users, at in ([0, 3, 5], 3600.0), ([3, 1], 9000.0):
        found = together.returned(np.array(users), at)
        assert found == pytest.approx(np.concatenate([one_by_one.returned(np.array([u]), at) for u in users]))
    assert together.at(1e5) == pytest.approx(one_by_one.at(1e5))


def test_whoever_returns_every_hour_is_as_active_as_can_be_and_who_stays_away_is_forgotten() -> None:
    activeness = Activeness(2, ActivenessConfig(hazard=1e-5, gain=0.1, start=0.2))
    for hour in range(1, 400):
        activeness.returned(np.array([0]), 3600.0 * hour)
    assert activeness.at(3600.0 * 399) == pytest.approx([1.0, 0.2 * exp(-1e-5 * 3600 * 399)])
