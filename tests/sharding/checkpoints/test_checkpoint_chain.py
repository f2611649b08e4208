"""Tables that move from world size to world size while they are trained: 2, 1, 3 and 2 ranks, always placed anew."""

from itertools import pairwise
from pathlib import Path

import torch

from shardrec.models.reads import declared_tables
from shardrec.sharding.tables.live import KERNEL_COLUMNS
from tests.processes import run_processes
from tests.sharding.conftest import entries_of
from tests.sharding.everywhere import ANY, CHAIN, chain_case, walk_link


def test_a_chain_of_world_sizes(everywhere: dict, checkpoint_folder: Path) -> None:
    """Every load is bit-equal to what was saved, state included; the end is that of the run that was never broken."""
    links = [everywhere[world_size][0]["link"] for world_size in CHAIN[:-1]]
    entries = entries_of(everywhere[CHAIN[-2]], "link")
    links.append(run_processes(CHAIN[-1], walk_link, checkpoint_folder, len(links), entries)[0])
    tables = declared_tables(chain_case(0).inputs)
    for before, after in pairwise(links):
        assert before["saved"].keys() == after["loaded"].keys() == tables.keys()
        for name, saved in before["saved"].items():
            assert (
                saved.keys() == {"sgd": {"weight"}, "adagrad": {"weight", "accumulator"}}[tables[name].optimizer.name]
            )
            assert saved.keys() == after["loaded"][name].keys()
            for tensor, values in saved.items():
                assert torch.equal(values, after["loaded"][name][tensor]), (name, tensor)
                assert not torch.equal(values, after["saved"][name][tensor]), (name, tensor)  # each link trains
    for name, unbroken in links[0]["unbroken"].items():
        for tensor, values in unbroken.items():
            found = links[-1]["saved"][name][tensor]
            torch.testing.assert_close(found, values, atol=1e-5, rtol=1e-5, msg=f"{name} {tensor}")
    placed = [link["placements"] for link, world_size in zip(links, CHAIN, strict=True) if world_size > 1]
    for name, table in tables.items():
        if table.embedding_dim > KERNEL_COLUMNS:  # fewer columns are not cut
            assert len({placements[name] for placements in placed}) == len(placed)
    assert all(set(placements.values()) == set(ANY) for placements in placed)
