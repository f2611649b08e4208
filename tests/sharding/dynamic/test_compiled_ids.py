"""The compiled form of id maps beside the torch form, to the last bit: also on more threads and other processors."""

from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardrec.models.dynamic_ids import BucketGeometry, DynamicConfig
from shardrec.models.kernels.sources import compiler
from shardrec.sharding.dynamic.distinct import distinct
from shardrec.sharding.dynamic.id_map import IdMap
from shardrec.sharding.dynamic.set_cache import bucket_of
from tests.sharding.kernels.test_rows import set_to


@pytest.fixture(autouse=True, scope="module")
def _is_compiled() -> None:
    if compiler() is None:
        pytest.skip("no C++ compiler here")


def state_of(made: IdMap) -> dict[str, Tensor]:
    """All that a map has; whatever a free row's `admitted` is, nobody reads it."""
    return {name: column.clone() for name, column in (made.row_state | made.candidate_state).items()}


configs = st.one_of(
    st.builds(DynamicConfig, rows=st.just(1), evict=st.sampled_from(["lfu", "lru"]), after=st.integers(1, 3)),
    st.builds(DynamicConfig, rows=st.just(1), after=st.just(2), candidates=st.sampled_from([0.25, 3.0])),
    st.builds(DynamicConfig, rows=st.just(1), evict=st.sampled_from(["lfu", "age"]), age=st.integers(1, 3)),
    st.builds(DynamicConfig, rows=st.just(1), probability=st.floats(0.1, 1)),
)
geometries = st.builds(
    BucketGeometry, buckets=st.integers(2, 5), bucket_sets=st.integers(1, 4), ways=st.sampled_from([8, 32])
)
sizes = st.lists(st.integers(0, 300), min_size=1, max_size=7)


@settings(max_examples=80)
@given(
    config=configs,
    geometry=geometries,
    sizes=sizes,
    space=st.sampled_from([60, 400, 4000]),
    part=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    seed=st.integers(0, 999),
)
def test_equals_the_torch_form(
    config: DynamicConfig, geometry: BucketGeometry, sizes: list[int], space: int, part: tuple[int, int], seed: int
) -> None:
    """Of a part of the buckets, as one of several ranks has it, and of all of them."""
    first, last = (min(b, geometry.buckets) for b in sorted(part))
    buckets = range(first, last) if first < last else range(geometry.buckets)
    one, other = (
        IdMap(config, name="t", seed=1, geometry=geometry, buckets=buckets, compiled=compiled)
        for compiled in (True, False)
    )
    draw = torch.Generator().manual_seed(seed)
    for step, size in enumerate(sizes):
        drawn = torch.randint(0, space, (size,), generator=draw) * 0x9E3779B97F4A7
        ids, counts = drawn.unique(return_counts=True)
        here = (bucket_of(geometry, ids) >= buckets.start) & (bucket_of(geometry, ids) < buckets.stop)
        shuffled = torch.randperm(int(here.sum()), generator=draw)
        ids, counts = ids[here][shuffled], counts[here][shuffled]
        if step % 3 == 2:
            ids = ids[one.find(ids) < 0]
            assert torch.equal(one.fill(ids, step), other.fill(ids, step))
        else:
            seen = [vars(made.observe(ids, counts, step)) for made in (one, other)]
            assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in seen), strict=True))
        assert torch.equal(one.find(ids), other.find(ids))
        assert asdict(one.counters) == asdict(other.counters)
        states = state_of(one), state_of(other)
        assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True)), step


@settings(max_examples=60)
@given(
    ids=st.lists(st.sampled_from([0, -1, 2**63 - 1, -(2**63), *range(3, 90)]), max_size=200),
    buckets=st.integers(2, 40),
    weighted=st.booleans(),
)
def test_distinct_ids_are_the_torch_forms_by_bucket(ids: list[int], buckets: int, weighted: bool) -> None:
    geometry, batch = BucketGeometry(buckets, 2, 8), torch.tensor(ids, dtype=torch.int64)
    times = torch.arange(len(ids)) % 3 if weighted else None
    forms = [distinct(geometry, batch, times, compiled=compiled) for compiled in (True, False)]
    for form in forms:
        assert torch.equal(form.ids[form.inverse], batch)
        assert torch.equal(form.starts, forms[0].starts)
        assert torch.equal(bucket_of(geometry, form.ids), torch.arange(buckets).repeat_interleave(form.starts.diff()))
        expected = [sum(1 if times is None else int(times[at]) for at in which(ids, i)) for i in form.ids.tolist()]
        assert form.counts.tolist() == expected
    assert sorted(forms[0].ids.tolist()) == sorted(forms[1].ids.tolist()) == sorted(set(ids))


def which(ids: list[int], wanted: int) -> list[int]:
    return [at for at, i in enumerate(ids) if i == wanted]


@pytest.mark.parametrize("config", [{}, {"after": 2}, {"evict": "lru"}, {"evict": "age", "age": 1}], ids=str)
def test_same_bits_on_any_number_of_threads_and_any_processor(config: dict) -> None:
    """Of batches that are worth dividing among threads, and evict."""

    def run() -> list[Tensor]:
        made, draw = IdMap(DynamicConfig(rows=6_000, **config), name="t", seed=1), torch.Generator().manual_seed(2)
        seen: list[Tensor] = []
        for step in range(5):
            batch = (torch.rand(9_000, generator=draw).double() ** 2 * 30_000).long() * 0x9E3779B97F4A7
            asked = distinct(made.geometry, batch)
            assert len(asked.ids) > 4096
            seen += vars(made.observe(asked.ids, asked.counts, step)).values()
            seen += [*vars(asked).values(), made.find(asked.ids)]
        return [*seen, *state_of(made).values(), torch.tensor(list(asdict(made.counters).values()))]

    with set_to():
        expected = run()
    for form in ({"threads": 2}, {"threads": 4}, {"level": 0}, {"level": 1}):
        with set_to(**form):
            found = run()
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True)), form


def test_ids_of_another_ranks_buckets_change_nothing() -> None:
    geometry = BucketGeometry(4, 2, 8)
    made = IdMap(DynamicConfig(rows=1), name="t", seed=1, geometry=geometry, buckets=range(1, 3))
    ids = torch.arange(40)
    astray = ids[(bucket_of(geometry, ids) == 3)][:1]
    mine = ids[(bucket_of(geometry, ids) == 1)]
    both = torch.cat([mine, astray])
    for call in (lambda: made.find(both), lambda: made.observe(both, torch.ones_like(both), 0)):
        with pytest.raises(IndexError, match=f"id {astray.item()} at place {len(mine)} .* bucket"):
            call()
    assert made.occupied() == 0
