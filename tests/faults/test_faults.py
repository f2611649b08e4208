"""Each fault once, at some moment: the run ends as if nothing had befallen it, and leaves nothing behind."""

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.faults.campaign import table
from tests.faults.faults import ALONE, MOMENTS
from tests.faults.trial import Bench, Outcome, Trial, as_line

KINDS = [("in_process", fault) for fault in ALONE] + [("torchrun", "worker killed"), ("torchrun", "launcher killed")]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with closing(Bench(tmp_path_factory.mktemp("faults"))) as bench:
        yield bench


@pytest.mark.parametrize(("launcher", "fault"), KINDS)
def test_nothing_is_lost(bench: Bench, launcher: str, fault: str) -> None:
    seed = [*KINDS].index((launcher, fault))
    trial = Trial(seed, launcher, fault, [*MOMENTS][seed % len(MOMENTS)])
    outcome = bench.tried(trial)
    assert outcome.sound, as_line(trial, outcome)


def test_a_table_counts_what_was_lost() -> None:
    good, bad = Outcome(befell=True, equal=True, recovered=2.0), Outcome(befell=True, rows_lost=3, left=["run/x"])
    lines = [json.loads(as_line(Trial(i, "ray-2", "killed", "step"), o)) for i, o in enumerate((good, bad, good))]
    assert "| ray-2 | killed | 3 | 3 | 0 | 2 | 3 | 0 | 2.0, 2.0 | 1 |" in table(lines)
