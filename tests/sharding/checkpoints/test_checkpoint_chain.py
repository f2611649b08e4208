"""Tables that move from world size to world size while they are trained: 2, 1, 4 and 2 ranks, always placed anew."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from shardrec.models.table_reads import declared_tables, sequence_tables
from shardrec.sharding.tables.live import KERNEL_COLUMNS
from tests.processes import run_processes
from tests.sharding.conftest import Everywhere, entries_of
from tests.sharding.everywhere import ANY, CHAIN, OF_HOSTS, chain_case, walk_link

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def links(everywhere: Everywhere, checkpoint_folder: Path) -> Callable[[int], dict[str, Any]]:
    """Gives what a link's rank 0 loaded, saved and placed where."""

    @cache
    def link(number: int) -> dict[str, Any]:
        if number < len(CHAIN) - 1:
            return everywhere[CHAIN[number]][0]["link"]
        entries = entries_of(everywhere[CHAIN[number - 1]], "link")
        return run_processes(CHAIN[number], walk_link, checkpoint_folder, number, entries)[0]

    return link


@pytest.mark.parametrize("number", range(1, len(CHAIN)))
def test_a_link_loads_what_the_one_before_saved(number: int, links: Callable[[int], dict[str, Any]]) -> None:
    """Bit-equal, state included."""
    tables = declared_tables(chain_case(0).inputs)
    before, after = links(number - 1), links(number)
    assert before["saved"].keys() == after["loaded"].keys() == tables.keys()
    for name, saved in before["saved"].items():
        assert saved.keys() == {"sgd": {"weight"}, "adagrad": {"weight", "accumulator"}}[tables[name].optimizer.name]
        assert saved.keys() == after["loaded"][name].keys()
        for tensor, values in saved.items():
            assert torch.equal(values, after["loaded"][name][tensor]), (name, tensor)
            assert not torch.equal(values, after["saved"][name][tensor]), (name, tensor)  # each link trains


def test_the_end_is_that_of_the_run_that_was_never_broken(links: Callable[[int], dict[str, Any]]) -> None:
    for name, unbroken in links(0)["unbroken"].items():
        for tensor, values in unbroken.items():
            found = links(len(CHAIN) - 1)["saved"][name][tensor]
            torch.testing.assert_close(found, values, atol=1e-5, rtol=1e-5, msg=f"{name} {tensor}")


def test_every_link_places_every_table_anew(links: Callable[[int], dict[str, Any]]) -> None:
    inputs = chain_case(0).inputs
    first, of_hosts, last = (links(CHAIN.index(4) + i)["placements"] for i in (-2, 0, 1))
    for name, table in declared_tables(inputs).items():
        if table.embedding_dim > KERNEL_COLUMNS:  # fewer columns are not cut
            assert first[name] != last[name]
            assert of_hosts[name] in (("row_wise",) if name in sequence_tables(inputs) else OF_HOSTS)
    assert set(first.values()) == set(last.values()) == set(ANY)
    assert set(of_hosts.values()) == {"row_wise", *OF_HOSTS}
