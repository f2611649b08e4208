"""Each fault once, at some moment: the run ends as if nothing had befallen it, and leaves nothing behind."""

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.faults.bench import Bench
from tests.faults.campaign import table
from tests.faults.faults import MOMENTS
from tests.faults.trial import FAULTS, Outcome, Struck, Trial, as_line

TRIED = {
    "in_process": [*reversed(FAULTS["in_process"])],
    "torchrun": ["worker killed", "launcher killed"],
    "store": [fault for fault in FAULTS["store"] if fault not in FAULTS["in_process"]],
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with closing(Bench(tmp_path_factory.mktemp("faults"))) as bench:
        yield bench


@pytest.mark.parametrize("launcher", TRIED)
def test_nothing_is_lost(bench: Bench, launcher: str) -> None:
    moments = [*MOMENTS]
    faults = tuple((fault, moments[(place + 1) % len(moments)]) for place, fault in enumerate(TRIED[launcher]))
    trial = Trial(0, launcher, faults)
    outcome = bench.tried(trial)
    assert outcome.sound and all(struck.befell for struck in outcome.struck), as_line(trial, outcome)


@pytest.mark.parametrize("launcher", [name for name in FAULTS if name != "elastic"])
def test_each_fault_is_drawn_at_each_moment_before_any_comes_again(launcher: str) -> None:
    kinds = {(fault, moment) for fault in FAULTS[launcher] for moment in MOMENTS}
    drawn = [kind for seed in range(len(kinds)) for kind in Trial.drawn(launcher, seed).faults]
    assert {*drawn[: len(kinds)]} == {*drawn[len(kinds) : 2 * len(kinds)]} == kinds


def test_a_table_counts_what_was_lost() -> None:
    fault = ("killed", "step")
    good = Outcome([Struck(*fault, befell=True, recovered=2.0), Struck(*fault)], equal=True)
    bad = Outcome([Struck(*fault, befell=True, codes=[-9])], rows_lost=3, left=["run/x"])
    lines = [json.loads(as_line(Trial(i, "ray-2", (fault,)), o)) for i, o in enumerate((good, bad, good))]
    assert "| ray-2 | killed | 3 | 1 | 2 | 3 | 0 | 2.0, 2.0 | 1 |" in table(lines)
    assert "3 faults in 3 runs" in table(lines)
