"""The order is arithmetic: every property is checked by listing an epoch's rows as a reader would."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.reading import order as order_module
from shardrec.data_pipeline.reading.order import Order, default_lanes, permutation


@pytest.fixture(autouse=True)
def small_units(request):
    """Units of 16 rows, so that small data sets have many; tests that ask for `real_units` keep the true size."""
    with pytest.MonkeyPatch.context() as patch:
        if "real_units" not in request.fixturenames:
            patch.setattr(order_module, "UNIT_ROWS", 16)
        yield


@pytest.fixture
def real_units():
    return order_module.UNIT_ROWS


@st.composite
def orders(draw, shuffle=None):
    groups = draw(st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(sum))
    lanes = draw(st.integers(1, 7))
    return Order(
        np.array(groups, np.int64),
        lanes * draw(st.integers(1, 9)),
        lanes,
        window=draw(st.integers(1, 40)),
        seed=draw(st.integers(-5, 2**63)),
        shuffle=draw(st.booleans()) if shuffle is None else shuffle,
    )


def lane_rows(order: Order, epoch: int, lane: int) -> list[int]:
    """A lane's rows in the order in which batches take them."""
    ranges = order.lane_ranges(epoch, lane)
    rows = np.concatenate([np.arange(a, b) for a, b in ranges]) if len(ranges) else np.zeros(0, np.int64)
    assert len(rows) == order.lane_rows(lane)
    result, position = [], 0
    while position < len(rows):
        start, stop = order.window_bounds(lane, position)
        assert start == position, "windows follow each other"
        assert all(order.window_bounds(lane, p) == (start, stop) for p in range(start, stop))
        assert 0 < stop - start <= order.window
        window, shuffled = rows[start:stop], order.window_permutation(epoch, lane, start, stop)
        result += (window if shuffled is None else window[shuffled]).tolist()
        position = stop
    return result


def epoch_batches(order: Order, epoch: int, world_size: int) -> list[list[list[int]]]:
    """steps x ranks -> rows."""
    lanes = [lane_rows(order, epoch, lane) for lane in range(order.lanes)]
    steps = []
    for step in range(order.steps_per_epoch):
        ranks = []
        for rank in range(world_size):
            rows = []
            for share in order.shares(rank, world_size):
                start, stop = share.of(*order.batch_bounds(share.lane, step))
                rows += lanes[share.lane][start:stop]
            ranks.append(rows)
        steps.append(ranks)
    return steps


@given(orders(), st.integers(0, 3), st.integers(1, 9))
def test_every_row_exactly_once_in_batches_that_no_world_size_changes(order, epoch, world_size):
    steps = epoch_batches(order, epoch, world_size)
    assert sorted(row for ranks in steps for rows in ranks for row in rows) == list(range(order.num_rows))
    alone = epoch_batches(order, epoch, 1)
    for step, (ranks, (whole,)) in enumerate(zip(steps, alone, strict=True)):
        assert sorted(row for rows in ranks for row in rows) == sorted(whole)
        assert 0 < len(whole) <= order.global_batch_size
        assert [len(rows) for rows in ranks] == [order.rank_rows(step, r, world_size) for r in range(world_size)]
        assert order.padded_rows(step, world_size) == max(len(rows) for rows in ranks)


@given(orders())
def test_lanes_differ_by_at_most_one_row_and_are_dealt_evenly(order):
    sizes = [order.lane_rows(lane) for lane in range(order.lanes)]
    assert max(sizes) - min(sizes) <= 1
    for world_size in range(1, order.lanes + 1):
        dealt = [len(order.shares(rank, world_size)) for rank in range(world_size)]
        assert max(dealt) - min(dealt) <= 1


@given(orders(shuffle=True))
def test_units_are_runs_of_groups_or_slices_of_huge_ones(order):
    ends = set(np.cumsum(order.group_rows).tolist())
    units = order.units
    sizes = np.diff(units)
    assert units[0] == 0 and units[-1] == order.num_rows and (sizes > 0).all()
    assert len(units) == 2 or sizes.min() >= 16
    for cut in set(units[1:].tolist()) - ends:  # inside a group: a slice
        assert order.num_rows >= 32
        near = [int(s) for s, a, b in zip(sizes, units[:-1], units[1:], strict=True) if cut in (a, b)]
        assert max(near) <= max(2 * 16, order.num_rows // 32 * 2)


@given(orders(shuffle=False))
def test_without_shuffle_one_lane_gives_the_rows_of_the_files_in_order(order):
    order = Order(order.group_rows, order.global_batch_size, 1, order.window, order.seed, shuffle=False)
    size = order.global_batch_size
    for step, ranks in enumerate(epoch_batches(order, 0, 3)):
        rows = [row for rank in ranks for row in rank]
        assert rows == list(range(step * size, min((step + 1) * size, order.num_rows)))


def test_epochs_and_seeds_have_orders_of_their_own():
    def rows(seed, epoch):
        order = Order(np.full(20, 16), 8, 4, window=8, seed=seed)
        return [lane_rows(order, epoch, lane) for lane in range(4)]

    assert rows(0, 0) == rows(0, 0)
    assert rows(0, 0) != rows(0, 1) != rows(1, 0) != rows(0, 0)


def test_shuffled_units_reach_every_place_of_an_epoch():
    order = Order(np.full(20, 16), 8, 1, window=8)
    first = np.array([order.lane_ranges(epoch, 0)[:, 0] // 16 for epoch in range(400)])  # [epoch, place] -> unit
    counts = np.array([np.bincount(first[:, place], minlength=20) for place in range(20)])
    assert counts.min() > 4 and counts.max() < 45  # 20 expected; a binomial's six sigma


def test_permutation_is_the_same_on_every_platform_and_version():
    assert permutation(8, 7, 1, 2, 3, 4).tolist() == [3, 7, 1, 2, 5, 4, 6, 0]
    assert permutation(1, 0, 1, 0).tolist() == [0]
    assert permutation(0, 0, 1, 0).tolist() == []


@given(st.integers(0, 300), st.integers(0, 2**64 - 1), st.integers(0, 99), st.integers(0, 15), st.integers(0, 10**10))
def test_permutation_is_one(count, seed, epoch, lane, index):
    assert sorted(permutation(count, seed, 2, epoch, lane, index)) == list(range(count))


def test_permutation_is_uniform():
    seen = {}
    for index in range(6000):
        key = tuple(permutation(3, 1, 2, 0, 0, index).tolist())
        seen[key] = seen.get(key, 0) + 1
    assert len(seen) == 6 and all(850 < n < 1150 for n in seen.values())  # 1000 expected, sigma 29


@pytest.mark.parametrize("rows", [100, 100_000])
def test_a_hundred_thousand_row_groups_up_to_ten_billion_rows(real_units, rows):
    begun = time.perf_counter()
    order = Order(np.full(100_000, rows, np.int64), 4096, 16)
    ranges = order.lane_ranges(3, 15)
    assert time.perf_counter() - begun < 5
    assert order.num_rows == 100_000 * rows
    assert int((ranges[:, 1] - ranges[:, 0]).sum()) == order.lane_rows(15) == order.num_rows // 16
    assert np.diff(order.units).min() >= real_units
    last = order.steps_per_epoch - 1
    assert order.batch_bounds(15, last)[1] == order.lane_rows(15)
    assert order.padded_rows(last, 16) == order.rank_rows(last, 15, 16) > 0


def test_one_huge_group_is_cut_into_slices(real_units):
    sizes = np.diff(Order(np.array([5_000_000]), 4096, 16).units)
    assert len(sizes) >= 16 and sizes.min() >= real_units


def test_equal_groups_are_never_cut_but_by_lanes(real_units):
    order = Order(np.full(64, 1_000_000), 4096, 16)
    assert (order.units % 1_000_000 == 0).all()


def test_lanes_must_divide_the_batch():
    with pytest.raises(UserError, match=r"global_batch_size 100 is not a multiple of data.lanes 16.*96 or 112"):
        Order(np.array([5]), 100, 16)
    with pytest.raises(UserError, match=r"nearest multiples: 16"):
        Order(np.array([5]), 10, 16)
    with pytest.raises(UserError, match=r"data.window is 0"):
        Order(np.array([5]), 16, 16, window=0)


def test_default_lanes_divide_the_batch_and_fit_the_memory():
    assert default_lanes(4096, 10, 1000) == 16
    assert default_lanes(4096, 100, 1000) == 8
    assert default_lanes(4096, 10_000, 1000) == 1
    assert default_lanes(24, 10, 1000) == 8
    assert default_lanes(1001, 10, 1000) == 1
