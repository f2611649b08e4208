"""What people read of a plan for more ranks than a page has columns."""

import json

import pytest

from shardrec.data_pipeline.declared.sizes import readable
from shardrec.models.inputs import PooledEmbeddings
from shardrec.models.table_settings import TableOptimizer
from shardrec.sharding.planning.plan import Plan
from shardrec.sharding.planning.plan_facts import plan_facts
from shardrec.sharding.planning.plan_report import in_runs, plan_text
from shardrec.sharding.planning.planner import plan_tables
from shardrec.sharding.planning.topology import Topology
from tests.sharding.cases import table


def plan(hosts: int, devices: int) -> Plan:
    """A table in rows, two whole ones of unequal size, a replica, and one in columns."""
    tables = [
        table("user", 10**10, 64, dtype="fp16"),
        table("item", 40_000_000, 64, placement="table_wise"),
        table("shop", 3_000_000, 64, placement="table_wise"),
        table("day", 7, 4, placement="data_parallel"),
        table("word", 1_000_000, 32, optimizer=TableOptimizer(name="adagrad"), placement="column_wise"),
    ]
    inputs = {"all": PooledEmbeddings({t.name: t for t in tables}, concat=True)}
    return plan_tables(inputs, TableOptimizer(), Topology.described(hosts, devices, "cuda", 70 << 30))


def test_report_of_many_ranks() -> None:
    assert plan_text(plan(16, 8)) == REPORT


REPORT = """\
table            rows  dim  dtype  optimizer        placement      shards    a shard     in all  on ranks
user   10,000,000,000   64  fp16   rowwise_adagrad  row_wise          128    9.6 GiB    1.2 TiB  all
item       40,000,000   64  fp32   rowwise_adagrad  table_wise          1    9.7 GiB    9.7 GiB  32
shop        3,000,000   64  fp32   rowwise_adagrad  table_wise          1  743.9 MiB  743.9 MiB  96
day                 7    4  fp32   rowwise_adagrad  data_parallel     128      280 B   35.0 KiB  all
word        1,000,000   32  fp32   adagrad          column_wise         8   30.5 MiB  244.1 MiB  4-11
total  10,044,000,007                                                                   1.2 TiB
memory of a rank: 9.6 GiB (rank 0) to 19.3 GiB (rank 32), median 9.6 GiB, of 70.0 GiB for tables, 128 ranks
  9.6 GiB to 10.3 GiB  ########################################  127 rank(s): 0-31, 33-127
  19.3 GiB             #                                         1 rank(s): 32
"""


def test_facts_of_many_ranks_are_small_and_add_up() -> None:
    made = plan(16, 8)
    facts = json.loads(json.dumps(plan_facts(made)))
    by_placement = facts["bytes_per_rank"]
    assert by_placement.keys() == {"row_wise", "table_wise", "data_parallel", "column_wise"}
    assert [sum(sizes) for sizes in zip(*by_placement.values(), strict=True)] == list(made.bytes_per_rank)
    assert sum(of["bytes"] for of in facts["tables"]) == sum(made.bytes_per_rank)
    assert len(json.dumps(facts)) < 10_000


def test_ranks_that_are_alike_are_one_line() -> None:
    only = {"all": PooledEmbeddings({"t": table("t", 8_000, 16)}, concat=True)}
    made = plan_tables(only, TableOptimizer(), Topology.described(1, 8, "cpu", 1 << 30))
    assert plan_text(made).splitlines()[-1] == "memory of a rank: 66.4 KiB on all, of 1.0 GiB for tables, 8 ranks"


def test_bytes_per_rank_are_those_of_the_tables() -> None:
    made = plan(8, 4)
    expected = tuple(sum(t.bytes_on(r) for t in made.tables.values()) for r in range(32))
    assert made.bytes_per_rank == expected
    assert made.tables["word"].largest_shard == 1_000_000 * 4 * 8


@pytest.mark.parametrize(
    ("ranks", "text"), [([3], "3"), ([2, 0, 1, 5], "0-2, 5"), (range(0, 20, 2), "0, 2, 4, 6, 8, 10, ...")]
)
def test_ranks_in_runs(ranks: list[int], text: str) -> None:
    assert in_runs(ranks) == text


def test_readable_bytes() -> None:
    assert [readable(n) for n in (0, 1023, 1536, 5 << 30, 3 << 41)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 GiB",
        "6.0 TiB",
    ]
