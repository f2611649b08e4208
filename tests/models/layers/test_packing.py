"""Positions regrouped by time step, against their definition by loops."""

import numpy as np
import pytest
import torch

from shardrec.models.layers.packing import pack_steps
from shardrec.trainer.benchmarks.gpu_check.sections.host_reads import HostReads
from tests.models.layers.jagged import numbers, rows


@pytest.mark.parametrize("lengths", [(3, 0, 5, 1, 5, 0, 2), (1,), (0, 4, 4), (2, 1, 0)])
def test_each_step_has_the_rows_that_still_go_longest_first(lengths: tuple[int, ...]) -> None:
    given = rows(lengths)
    packing = pack_steps(*given)
    order = sorted(range(len(lengths)), key=lambda b: -lengths[b])
    expected = [(t, b) for t in range(max(lengths)) for b in order if lengths[b] > t]
    steps = torch.arange(given.positions) - given.offsets[given.row]
    where = list(zip(steps[packing.jagged].tolist(), given.row[packing.jagged].tolist(), strict=True))
    assert where == expected
    assert packing.counts == tuple(sum(n > t for n in lengths) for t in range(max(lengths)))
    assert packing.rows.tolist() == [b for b in order if lengths[b]]
    assert packing.last.tolist() == [expected.index((lengths[b] - 1, b)) for b in packing.rows.tolist()]


@pytest.mark.parametrize("lengths", [(3, 0, 5, 1, 5, 0, 2), (1,), (0, 0)])
def test_lengths_on_the_host_spare_a_read(lengths: tuple[int, ...]) -> None:
    given = rows(lengths)
    with HostReads() as reads:
        found = pack_steps(*given, np.array(lengths))
    assert reads.total == 0
    expected = pack_steps(*given)
    assert found.counts == expected.counts
    assert all(torch.equal(a, b) for a, b in zip(found[1:], expected[1:], strict=True))


def test_packing_and_unpacking_undo_each_other_and_their_gradients_too() -> None:
    given = rows()
    packing = pack_steps(*given)
    values = numbers(given.positions, 2)
    assert torch.equal(packing.unpack(packing.pack(values)), values)
    assert torch.autograd.gradcheck(packing.pack, values) and torch.autograd.gradcheck(packing.unpack, values)


def test_final_states() -> None:
    given = rows()
    packing = pack_steps(*given)
    values = numbers(given.positions, 2)
    zero = torch.zeros(2, dtype=torch.float64)
    expected = torch.stack([part[-1] if len(part) else zero for part in given.split(values)])
    assert torch.equal(packing.final(packing.pack(values), 7), expected)


def test_without_positions() -> None:
    packing = pack_steps(*rows((0, 0)))
    assert packing.counts == () and packing.final(torch.zeros(0, 3), 2).tolist() == [[0.0] * 3] * 2
