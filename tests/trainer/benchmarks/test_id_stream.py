"""The stream of raw ids: its census tells what a plain count of the stream tells, and sees what is wrong."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from shardrec.models.dynamic_ids import DynamicConfig
from shardrec.trainer.benchmarks.id_stream import Stream, build_table, id_of, report, run_stream

STREAM = Stream(events=6_050, space=900, batch=200, skew=1.05)


def test_a_stream_is_a_power_law_of_distinct_ids() -> None:
    drawn = torch.cat([STREAM.numbers(step) for step in range(STREAM.steps)])
    assert len(drawn) == STREAM.events and STREAM.steps == 31
    counts = Counter(drawn.tolist())
    expected = [n**-1.05 for n in range(1, 901)]
    for number in (0, 1, 3, 10):
        share = counts[number] / STREAM.events
        assert share == pytest.approx(expected[number] / sum(expected), rel=0.35)
    assert len(id_of(torch.arange(900)).unique()) == 900


def test_the_census_equals_a_plain_count() -> None:
    made = build_table(DynamicConfig(rows=128, after=2), 4, torch.device("cpu"))
    found = run_stream(STREAM, made, torch.device("cpu"))
    counts = Counter(i for step in range(STREAM.steps) for i in STREAM.numbers(step).tolist())
    numbers = {int(id_of(torch.tensor([n]))): n for n in counts}
    state = made.id_maps["ids"].row_state
    residents = {numbers[i]: n for i, n in zip(state["id"].tolist(), state["count"].tolist(), strict=True) if n}
    assert found["distinct_ids"] == len(counts)
    assert found["occupied"] == len(residents) == 128
    assert found["admissions"] - found["evictions"] == 128 and found["evictions"] > 0
    assert found["undercounted"] == sum(residents[n] < counts[n] for n in residents) > 0
    assert [found[what] for what in ("balance", "rows_of_others", "too_early", "overcounted")] == [0, 0, 0, 0]
    occurred = torch.tensor([counts[n] for n in range(900)], dtype=torch.int32)
    held = made.id_maps["ids"]
    few = report(held, occurred, top=10)
    top = [n for n in counts if counts[n] >= sorted(counts.values())[-10]]
    assert few["top_ids"] == len(top)
    assert few["top_resident_share"] == pytest.approx(sum(n in residents for n in top) / len(top))
    assert few["top_exact_share"] == pytest.approx(sum(residents.get(n) == counts[n] for n in top) / len(top))

    row = int((state["count"] > 0).nonzero()[0])
    state["count"][row] += 1_000
    assert report(held, occurred)["overcounted"] == 1
    held.row_state["id"][row] = held._rows.fillers[row // held.geometry.bucket_rows]
    assert report(held, occurred)["rows_of_others"] == 1
    held.counters.admissions += 1
    assert report(held, occurred)["balance"] == 1


def test_seeds_draw_different_streams() -> None:
    one, other = (replace(STREAM, seed=seed).numbers(3) for seed in (0, 1 << 60))
    assert not torch.equal(one, other) and torch.equal(one, STREAM.numbers(3))
