"""The clock's recent rate is of the time since it was asked last, pauses left out."""

import pytest

from shardrec.trainer.training import clock as module
from shardrec.trainer.training.clock import WARM_UP_STEPS, Clock


def test_the_recent_rate_is_since_the_last_question(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    clock = Clock()
    assert clock.recent_rate() == 0
    for _ in range(WARM_UP_STEPS):
        now[0] += 5
        clock.step(100)
    assert clock.recent_rate() == 0, "the warm-up does not count"
    for seconds in (1, 3):
        now[0] += seconds
        clock.step(100)
    assert clock.recent_rate() == pytest.approx(200 / 4)
    with clock.paused():
        now[0] += 1000
    now[0] += 2
    clock.step(100)
    assert clock.recent_rate() == pytest.approx(100 / 2)
    assert clock.rate == pytest.approx(300 / 6)
