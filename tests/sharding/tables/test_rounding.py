"""fp16 rows are rounded stochastically: in the mean exact, to a neighbour, by draws that depend on no plan."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardrec.sharding.tables.rounding import StochasticRounding, rounding_key
from shardrec.sharding.updates.rules import Sgd

finite = st.floats(-60_000, 60_000, width=32) | st.floats(-(2.0**-13), 2.0**-13, width=32)


def rounded(values: torch.Tensor, **where: int) -> torch.Tensor:
    rounding = StochasticRounding(**{"key": rounding_key(0, "t", 0), **where})
    return rounding.round(values, torch.arange(len(values)))


@given(value=finite)
def test_rounds_to_a_neighbour_and_to_the_value_in_the_mean(value: float) -> None:
    exact = np.float32(value)
    found = rounded(torch.full((2500, 4), value)).double().numpy()
    nearest = np.float16(exact)
    below = nearest if nearest <= exact else np.nextafter(nearest, np.float16(-np.inf))
    above = nearest if nearest >= exact else np.nextafter(nearest, np.float16(np.inf))
    assert set(found.ravel()) <= {float(below), float(above)}
    gap = float(above) - float(below)
    assert abs(found.mean() - float(exact)) <= 5 * gap / 2 / np.sqrt(found.size)


def test_what_fp16_holds_stays() -> None:
    bits = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    held = bits.view(torch.float16)
    held = held[held.isfinite()].unsqueeze(1)
    assert torch.equal(rounded(held.float()), held)


def test_columns_and_rows_are_drawn_apart() -> None:
    draws = StochasticRounding(rounding_key(1, "t", 7))._draws(torch.arange(4000), 6).double()
    assert draws.min() >= 0 and draws.max() < 1 << 13
    assert np.corrcoef(draws.T.numpy())[np.triu_indices(6, 1)] == pytest.approx(0, abs=0.1)
    assert np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1] == pytest.approx(0, abs=0.1)
    assert draws.mean(0).tolist() == pytest.approx([(1 << 12) - 0.5] * 6, rel=0.05)


@given(row=st.integers(0, 1 << 40), column=st.integers(0, 9), rows=st.integers(1, 9), columns=st.integers(1, 9))
def test_a_shard_rounds_as_the_whole_table_does(row: int, column: int, rows: int, columns: int) -> None:
    values = torch.linspace(0.5, 1, 400).view(20, 20)
    whole = rounded(values, row=row)
    part = rounded(values[4 : 4 + rows, column : column + columns].clone(), row=row + 4, column=column)
    assert torch.equal(part, whole[4 : 4 + rows, column : column + columns])


def test_seed_table_and_step_change_the_draws() -> None:
    values = torch.full((100, 4), 1.0003)
    found = [rounded(values, key=rounding_key(*of)) for of in ((0, "t", 0), (1, "t", 0), (0, "u", 0), (0, "t", 1))]
    assert not any(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("every_row", [False, True])
def test_small_steps_move_rows_as_far_as_in_fp32(every_row: bool) -> None:
    """2,000 updates of 1e-5, each a fiftieth of what fp16 can tell from 1."""
    rule = Sgd(learning_rate=1e-5)
    weight, kept = torch.ones(600, 3).half(), torch.ones(600, 3).half()
    rows = None if every_row else torch.arange(600)
    for step in range(2000):
        gradient = torch.full((600, 3), -1.0)
        rule.apply(weight, {}, rows, gradient, rounding=StochasticRounding(rounding_key(0, "t", step)))
        rule.apply(kept, {}, rows, gradient)
    assert (kept == 1).all()
    assert weight.double().mean().item() == pytest.approx(1.02, abs=3e-4)
    assert weight.double().std().item() < 0.005


def test_whole_tables_and_their_rows_are_rounded_alike() -> None:
    rule = Sgd(learning_rate=1e-3)
    gradient = torch.randn(150_000, 2, generator=torch.Generator().manual_seed(0))
    whole, by_row = (torch.ones(150_000, 2).half() for _ in range(2))
    rounding = StochasticRounding(rounding_key(0, "t", 0))
    rule.apply(whole, {}, None, gradient, rounding=rounding)
    rule.apply(by_row, {}, torch.arange(150_000), gradient, rounding=rounding)
    assert torch.equal(whole, by_row)
    later = torch.ones(50_000, 2).half()
    rule.apply(later, {}, None, gradient[100_000:], rounding=replace(rounding, row=100_000))
    assert torch.equal(whole[100_000:], later)
