"""The map of raw ids to rows equals dicts and loops, whatever the split, the order and the device's width."""

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardrec.models.dynamic_ids import BucketGeometry, DynamicConfig
from shardrec.sharding.dynamic.id_map import IdMap, Observed
from shardrec.sharding.dynamic.set_cache import UNUSED, bucket_of, sets_of
from tests.sharding.plain_id_map import PlainCache, PlainMap, plain_sets

EXTREMES = [0, -1, 1, 2**63 - 1, -(2**63), 1 << 32, -(1 << 32)]
IDS = EXTREMES + [i * 0x9E3779B9 for i in range(1, 90)]


def ones(ids: Tensor) -> Tensor:
    return torch.ones_like(ids)


def table_map(config: DynamicConfig, geometry: BucketGeometry | None = None, **kinds: Any) -> IdMap:
    return IdMap(config, geometry=geometry, **({"name": "t", "seed": 1} | kinds))


def draw_ids(n: int, seed: int) -> Tensor:
    """Ids over all of int64, distinct as 64-bit draws are, in no order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**63), 2**63 - 1, (n,), generator=generator)


configs = st.one_of(
    st.builds(DynamicConfig, rows=st.just(1), evict=st.sampled_from(["lfu", "lru"]), after=st.integers(1, 4)),
    st.builds(DynamicConfig, rows=st.just(1), evict=st.sampled_from(["lfu", "age"]), age=st.integers(1, 3)),
)
geometries = st.builds(BucketGeometry, buckets=st.integers(2, 3), bucket_sets=st.integers(1, 3), ways=st.just(8))
streams = st.lists(st.dictionaries(st.sampled_from(IDS), st.integers(1, 3), max_size=60), min_size=1, max_size=7)


@settings(max_examples=60)
@given(config=configs, geometry=geometries, stream=streams, skips=st.integers(1, 2))
def test_equals_dicts_and_loops(
    config: DynamicConfig, geometry: BucketGeometry, stream: list[dict[int, int]], skips: int
) -> None:
    made, plain = table_map(config, geometry), PlainMap(config, geometry)
    for at, counts in enumerate(stream):
        step = at * skips
        ids = torch.tensor(list(counts), dtype=torch.int64)
        before = content(made.row_state)
        seen = made.observe(ids, torch.tensor(list(counts.values()), dtype=torch.int64), step)
        plain.observe(counts, step)
        assert seen.rows.tolist() == [plain.table.row(i) for i in counts]
        assert list(zip(seen.fresh_rows.tolist(), seen.fresh_ids.tolist(), strict=True)) == sorted(plain.fresh.items())
        assert lost(before, made) == plain.lost
        assert content(made.row_state) == plain.table.rows
        assert made.find(torch.tensor(IDS)).tolist() == [plain.table.row(i) for i in IDS]
        held = [plain.admitted[r] for r, row in enumerate(plain.table.rows) if row]
        assert made.row_state["admitted"][made.row_state["count"] > 0].tolist() == held
        if config.after > 1:
            renamed = {name.removeprefix("candidate_"): tensor for name, tensor in made.candidate_state.items()}
            assert content(renamed) == plain.candidates.rows


def content(state: dict[str, Tensor]) -> list[tuple[int, int, int] | None]:
    columns = (state[name].tolist() for name in ("id", "count", "last_use"))
    return [row if row[1] else None for row in zip(*columns, strict=True)]


def lost(before: list[tuple[int, int, int] | None], made: IdMap) -> dict[int, int]:
    """Row -> the id that it was taken from since the map's content was `before`."""
    rows = enumerate(zip(before, content(made.row_state), strict=True))
    return {row: old[0] for row, (old, new) in rows if old and (new is None or new[0] != old[0])}


def test_the_loops_evict_by_policy() -> None:
    """The reference itself: which of full sets goes first."""
    geometry = BucketGeometry(2, 1, 8)
    ids = [i for i in IDS if plain_sets(geometry, i) == [0]]
    for evict, age, expected in (("lfu", None, 2), ("lru", None, 1), ("age", 4, 1), ("age", 9, None), ("lfu", 4, 1)):
        cache = PlainCache(geometry, evict, age)
        cache.rows[:8] = [(i, 5, 8) for i in ids[:8]]
        cache.rows[1], cache.rows[2] = (ids[1], 6, 5), (ids[2], 4, 7)
        _, lost = cache.place({ids[8]: 1}, 9)
        assert list(lost) == ([] if expected is None else [expected])


class Parts:
    """A table whose buckets several maps hold, fed as by an exchange of ids."""

    def __init__(self, config: DynamicConfig, geometry: BucketGeometry, cuts: list[int]) -> None:
        self.geometry = geometry
        edges = [0, *sorted(cuts), geometry.buckets]
        self.maps = [
            IdMap(config, name="t", seed=3, geometry=geometry, buckets=range(a, b))
            for a, b in itertools.pairwise(edges)
        ]

    def observe(self, ids: Tensor, counts: Tensor, step: int) -> dict[str, list[int] | list[tuple[int, int]]]:
        bucket, rows = bucket_of(self.geometry, ids), torch.empty_like(ids)
        fresh = []
        for part in self.maps:
            here = (bucket >= part.buckets.start) & (bucket < part.buckets.stop)
            seen = part.observe(ids[here], counts[here], step)
            rows[here] = seen.rows
            assert torch.equal(part.find(ids[here]), seen.rows)
            fresh += zip(seen.fresh_rows.tolist(), seen.fresh_ids.tolist(), strict=True)
        return {"rows": rows[torch.sort(ids).indices].tolist(), "fresh": fresh}

    def state(self) -> dict[str, Tensor]:
        parts = [part.row_state | part.candidate_state for part in self.maps]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def load(self, state: dict[str, Tensor]) -> None:
        for part in self.maps:
            for name, tensor in (part.row_state | part.candidate_state).items():
                first = part.first_candidate if name.startswith("candidate") else part.first_row
                tensor.copy_(state[name][first : first + len(tensor)])


@settings(max_examples=25)
@given(
    settings_=st.sampled_from(
        [{}, {"evict": "lru"}, {"evict": "age", "age": 2}, {"after": 2, "candidates": 0.5}, {"probability": 0.4}]
    ),
    cuts=st.lists(st.integers(0, 7), max_size=4),
    others=st.lists(st.integers(0, 7), max_size=4),
    seed=st.integers(0, 10_000),
)
def test_neither_split_nor_order_matters(settings_: dict, cuts: list[int], others: list[int], seed: int) -> None:
    """One map of all buckets, and several whose state moves to other splits on the way and whose ids are shuffled."""
    config, geometry = DynamicConfig(rows=1, **settings_), BucketGeometry(7, 5, 8)
    generator = torch.Generator().manual_seed(seed)
    whole, parts = Parts(config, geometry, []), Parts(config, geometry, cuts)
    for step in range(6):
        drawn = torch.randint(0, 600, (400,), generator=generator) * 0x1234567
        ids, counts = torch.unique(drawn, return_counts=True)
        order = torch.randperm(len(ids), generator=generator)
        expected, found = whole.observe(ids, counts, step), parts.observe(ids[order], counts[order], step)
        assert found == expected
        for name, tensor in whole.state().items():
            assert torch.equal(parts.state()[name], tensor)
        if step == 2:
            moved = Parts(config, geometry, others)
            moved.load(parts.state())
            parts = moved
    assert sum(part.counters.admissions for part in whole.maps) > 200


@pytest.mark.parametrize("rows", [2_000, 100_000])
def test_tables_fill_before_anything_is_evicted(rows: int) -> None:
    made = table_map(DynamicConfig(rows=rows))
    ids = draw_ids(made.geometry.rows, seed=1)
    for step, part in enumerate(ids.split(made.geometry.rows // 100)):
        before = made.occupied()
        seen = made.observe(part, ones(part), step)
        if made.counters.evictions or (seen.rows < 0).any():
            break
    assert before > (0.9 if rows == 100_000 else 0.6) * made.geometry.rows


@pytest.mark.parametrize("rows", [1, 20, 1_000, 1_024, 70_000, 1_000_000, 10**9])
def test_geometry_holds_what_was_asked_for(rows: int) -> None:
    geometry = BucketGeometry.of(rows)
    assert max(rows, 16) <= geometry.rows < (rows * 1.01 if rows >= 50_000 else rows + 16 * 32)
    assert 2 <= geometry.buckets <= 1024
    ids = draw_ids(20_000, seed=2)
    sets, buckets = sets_of(geometry, ids), bucket_of(geometry, ids)
    assert torch.equal(sets // geometry.bucket_sets, buckets.unsqueeze(1).expand_as(sets))
    assert sets[:300].tolist() == [plain_sets(geometry, i) for i in ids[:300].tolist()]
    counted = torch.bincount(buckets, minlength=geometry.buckets).double()
    mean = 20_000 / geometry.buckets
    assert (counted - mean).abs().max() < 6 * mean**0.5
    if geometry.bucket_sets > 1:
        assert (sets[:, 0] != sets[:, 1]).all()
        places = (sets % geometry.bucket_sets + 0.5) / geometry.bucket_sets
        torch.testing.assert_close(places.mean(0), torch.tensor([0.5, 0.5]), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "geometry",
    [BucketGeometry(2, 1, 8), BucketGeometry(3, 2, 8), BucketGeometry.of(1), BucketGeometry.of(3_000)],
    ids=str,
)
def test_any_int64_is_an_id(geometry: BucketGeometry) -> None:
    """Neither a free row nor one whose candidate was admitted is taken for an id."""
    made = table_map(DynamicConfig(rows=1, after=2), geometry=geometry)
    ids = torch.tensor([*range(-5, 64), *EXTREMES]).unique()
    assert (made.find(ids) == -1).all()
    extremes = torch.tensor(EXTREMES)
    assert (made.observe(extremes, ones(extremes), 0).rows == -1).all()
    assert made.candidates() == len(EXTREMES)
    rows = made.observe(extremes, ones(extremes), 1).rows
    assert (rows >= 0).all() and rows.unique().numel() == len(EXTREMES)
    assert (made.candidates(), made.occupied()) == (0, len(EXTREMES))
    assert (made.find(ids) >= 0).sum() == len(EXTREMES)
    assert torch.equal(made.find(extremes), rows)
    assert made.row_state["id"][rows].tolist() == EXTREMES
    made.observe(torch.tensor([7]), torch.tensor([1]), 2)
    assert made.candidates() == 1


def test_finding_takes_repeated_ids_and_changes_nothing() -> None:
    made = table_map(DynamicConfig(rows=5_000, after=2))
    ids = draw_ids(3_000, seed=4)
    made.observe(ids[:2_000], torch.arange(2_000) % 2 + 1, 0)
    before = {name: tensor.clone() for name, tensor in (made.row_state | made.candidate_state).items()}
    twice = torch.cat([ids, ids.flip(0)])
    rows = made.find(twice)
    assert torch.equal(rows[:3_000], rows[3_000:].flip(0))
    assert torch.equal(rows[:2_000] >= 0, torch.arange(2_000) % 2 == 1)
    assert (rows[2_000:3_000] == -1).all()
    for name, tensor in (made.row_state | made.candidate_state).items():
        assert torch.equal(tensor, before[name])
    assert made.find(ids[:0]).tolist() == []


@pytest.mark.parametrize("after", [1, 3])
def test_counts_of_a_power_law_are_exact(after: int) -> None:
    """Where nothing is evicted or forgotten every count is the stream's, occurrences before admission included."""
    made, counted = table_map(DynamicConfig(rows=60_000, after=after)), Counter()
    for step, (ids, counts) in enumerate(power_law(steps=12, ids_a_step=20_000, space=40_000)):
        made.observe(ids, counts, step)
        counted.update(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
    assert made.counters.evictions == made.counters.forgotten == made.counters.refused == 0
    held = content(made.row_state)
    assert {row[0]: row[1] for row in held if row} == {i: n for i, n in counted.items() if n >= after}
    assert made.candidates() == sum(n < after for n in counted.values())


def test_frequent_ids_stay_where_there_are_too_many() -> None:
    """LFU over a space eight times the table: counts since admission are exact, and the head keeps its rows."""
    made, total, since = table_map(DynamicConfig(rows=5_000)), Counter(), {}
    for step, (ids, counts) in enumerate(power_law(steps=100, ids_a_step=500, space=40_000)):
        before = content(made.row_state)
        seen = made.observe(ids, counts, step)
        for i in lost(before, made).values():
            del since[i]
        since |= dict.fromkeys(seen.fresh_ids.tolist(), 0)
        for i, n, row in zip(ids.tolist(), counts.tolist(), seen.rows.tolist(), strict=True):
            total[i] += n
            if row >= 0:
                since[i] += n
    assert {row[0]: row[1] for row in content(made.row_state) if row} == since
    head = [i for i, _ in total.most_common(200)]
    assert sum(since.get(i) == total[i] for i in head) > 0.99 * len(head)
    assert made.counters.evictions > 10_000
    assert made.counters.admissions - made.counters.evictions == made.occupied() == len(since)


def power_law(steps: int, ids_a_step: int, space: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(9)
    drawn = (torch.rand(steps, ids_a_step, generator=generator).double() ** 4 * space).long() * 0x9E3779B97F4A7
    return [torch.unique(row, return_counts=True) for row in drawn]


def crowd(ids_wanted: int, geometry: BucketGeometry) -> Tensor:
    """Ids of one bucket, in ascending order."""
    ids = torch.arange(50 * ids_wanted)
    return ids[bucket_of(geometry, ids) == 0][:ids_wanted]


def test_newcomers_are_served_by_count_and_those_of_the_step_stay() -> None:
    geometry = BucketGeometry(2, 1, 8)
    made, ids = table_map(DynamicConfig(rows=1), geometry), crowd(20, geometry)
    first = made.observe(ids[:8], ones(ids[:8]), 0)
    assert sorted(first.rows.tolist()) == list(range(8))
    before = content(made.row_state)
    seen = made.observe(ids[7:], torch.arange(13) % 7 + 1, 1)  # ids[7] is resident, of the others 6 get no row
    expected = sorted(range(8, 20), key=lambda at: (-((at - 7) % 7 + 1), at))[:7]
    assert sorted(seen.fresh_ids.tolist()) == ids[sorted(expected)].tolist()
    assert sorted(lost(before, made).values()) == ids[:7].tolist()
    assert seen.rows[0] == first.rows[7]
    assert (made.counters.admissions, made.counters.evictions, made.counters.refused) == (15, 7, 5)


def test_a_row_of_age_is_taken_only_when_it_is_wanted() -> None:
    geometry = BucketGeometry(2, 1, 8)
    made, ids = table_map(DynamicConfig(rows=1, evict="age", age=3), geometry=geometry), crowd(12, geometry)
    made.observe(ids[:8], ones(ids[:8]), 0)
    assert made.observe(ids[8:9], ones(ids[:1]), 2).rows.tolist() == [-1]
    assert (made.find(ids[:8]) >= 0).all()
    back = made.observe(ids[:1], ones(ids[:1]), 3)  # of age, but still there
    assert len(back.fresh_ids) == 0 and made.row_state["count"][back.rows].tolist() == [2]
    before = content(made.row_state)
    seen = made.observe(ids[8:], ones(ids[8:]), 3)
    assert (seen.rows >= 0).all() and set(lost(before, made).values()) < set(ids[1:8].tolist())


def test_admission_by_chance_depends_on_seed_table_id_and_step() -> None:
    ids, few = draw_ids(40_000, seed=5), DynamicConfig(rows=100_000, probability=0.2)

    def admitted(name: str = "t", seed: int = 1, step: int = 0, count: int = 1) -> Tensor:
        return table_map(few, name=name, seed=seed).observe(ids, ones(ids) * count, step).rows >= 0

    base = admitted()
    assert base.double().mean() == pytest.approx(0.2, abs=0.01)
    assert torch.equal(base, admitted())
    assert admitted(count=3).double().mean() == pytest.approx(1 - 0.8**3, abs=0.01)
    for other in (admitted(name="u"), admitted(seed=2), admitted(step=1)):
        assert (base & other).double().mean() == pytest.approx(0.04, abs=0.006)
    everyone = table_map(DynamicConfig(rows=100_000, probability=1.0)).observe(ids, ones(ids), 0)
    assert (everyone.rows >= 0).all() and everyone.fresh_ids.numel() == 40_000


def test_an_empty_part_and_an_empty_step() -> None:
    geometry = BucketGeometry(4, 2, 8)
    nothing = torch.empty(0, dtype=torch.int64)
    for buckets in (range(2, 2), range(1, 3)):
        made = table_map(DynamicConfig(rows=1, after=2), geometry=geometry, buckets=buckets)
        seen: Observed = made.observe(nothing, nothing, 4)
        assert not any(len(part) for part in (seen.rows, seen.fresh_rows, seen.fresh_ids))
        assert made.find(nothing).tolist() == [] and made.occupied() == made.candidates() == 0


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ({"after": 2, "probability": 0.5}, "leave one out"),
        ({"evict": "age"}, "needs `age`"),
        ({"evict": "lru", "age": 3}, "leave it out"),
        ({"after": 0}, "greater than or equal to 1"),
        ({"probability": 0.0}, "greater than 0"),
    ],
)
def test_settings_that_do_not_go_together(said: dict, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        DynamicConfig(rows=10, **said)


@settings(max_examples=60)
@given(
    after=st.integers(1, 3),
    evict=st.sampled_from(["lfu", "lru"]),
    geometry=geometries,
    stream=streams,
    wanted=st.sets(st.sampled_from(IDS), min_size=1),
)
def test_filling_takes_free_rows_only(
    after: int, evict: str, geometry: BucketGeometry, stream: list[dict[int, int]], wanted: set[int]
) -> None:
    made, plain = (kind(DynamicConfig(rows=1, after=after, evict=evict), geometry) for kind in (table_map, PlainMap))
    for step, counts in enumerate(stream):
        made.observe(
            torch.tensor([*counts], dtype=torch.int64), torch.tensor([*counts.values()], dtype=torch.int64), step
        )
        plain.observe(counts, step)
    before, counted, last = [*plain.table.rows], made.counters.admissions, len(stream) - 1
    ids = [i for i in wanted if plain.table.row(i) < 0]
    rows = made.fill(torch.tensor(ids, dtype=torch.int64), last).tolist()
    given_rows = [r for r in rows if r >= 0]
    assert len(set(given_rows)) == len(given_rows) == made.counters.admissions - counted
    now = content(made.row_state)
    waiting = {row[0]: row[1] for row in plain.candidates.rows if row} if after > 1 else {}
    for an_id, row in zip(ids, rows, strict=True):
        of_its_sets = [r for a_set in plain_sets(geometry, an_id) for r in plain.table.of_set(a_set)]
        if row < 0:
            assert all(now[r] for r in of_its_sets)
            continue
        assert row in of_its_sets and before[row] is None
        assert now[row] == (an_id, 1 + waiting.pop(an_id, 0), last)
        assert made.row_state["admitted"][row] == last
    assert all(now[r] == held for r, held in enumerate(before) if r not in given_rows)
    if after > 1:
        renamed = {name.removeprefix("candidate_"): tensor for name, tensor in made.candidate_state.items()}
        assert {row[0]: row[1] for row in content(renamed) if row} == waiting
    assert made.find(torch.tensor(ids, dtype=torch.int64)).tolist() == rows


@pytest.mark.parametrize("pause", [1, 5])
@pytest.mark.parametrize(
    "policy",
    [{}, {"evict": "lru"}, {"evict": "age", "age": 3}, {"age": 2}, {"after": 2, "candidates": 0.5, "evict": "lru"}],
)
def test_counting_steps_anew_changes_nothing_else(policy: dict[str, Any], pause: int) -> None:
    """Beside a map whose steps go on: whatever the policy, the same ids get and lose the same rows."""
    one, other = (table_map(DynamicConfig(rows=1, **policy), BucketGeometry(7, 5, 8)) for _ in range(2))
    generator, cut = torch.Generator().manual_seed(5), 3
    for step in range(8):
        ids, counts = torch.randint(0, 600, (200,), generator=generator).mul_(0x1234567).unique(return_counts=True)
        at = step if step < cut else step + pause
        if step == cut:
            other.start_over(at)
        seen = [one.observe(ids, counts, at), other.observe(ids, counts, step if step < cut else step - cut)]
        assert all(torch.equal(a, b) for a, b in zip(vars(seen[0]).values(), vars(seen[1]).values(), strict=True))
    assert one.counters == other.counters and one.counters.evictions > 50
    shift, held = cut + pause, one.row_state["count"] > 0
    for name in ("last_use", "admitted"):
        assert torch.equal(one.row_state[name][held] - shift, other.row_state[name][held])


def test_free_rows_stay_the_first_to_be_taken() -> None:
    """Whatever number of times steps are counted anew."""
    made = table_map(DynamicConfig(rows=1, evict="lru"))
    made.observe(torch.tensor([5]), torch.tensor([1]), 0)
    for _ in range(3):
        made.start_over((1 << 31) - 1)
    state = made.row_state
    free = state["count"] == 0
    assert int(free.sum()) == len(free) - 1
    assert (state["last_use"][free] == UNUSED).all() and state["last_use"][~free].item() > UNUSED


@pytest.mark.parametrize("said", [{}, {"after": 2}, {"evict": "lru"}, {"evict": "age", "age": 2}, {"probability": 0.3}])
def test_a_gpu_keeps_the_same_map(said: dict[str, Any], gpu: str) -> None:
    maps = [table_map(DynamicConfig(rows=5_000, **said), device=device) for device in ("cpu", "cuda")]
    for step in range(6):
        ids, counts = draw_ids(4_000, seed=step % 4).unique(return_counts=True)
        seen = [made.observe(ids.to(d), counts.to(d), step) for made, d in zip(maps, ("cpu", "cuda"), strict=True)]
        assert torch.equal(seen[0].rows, seen[1].rows.cpu())
        assert torch.equal(seen[0].fresh_ids, seen[1].fresh_ids.cpu())
    for one, other in ((maps[0].row_state, maps[1].row_state), (maps[0].candidate_state, maps[1].candidate_state)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name].cpu()) for name in one)
    assert maps[0].counters == maps[1].counters
