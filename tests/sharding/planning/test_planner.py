"""Plans: what people read, what is refused, and that every plan covers every row and column once."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardrec.data_pipeline.errors import UserError
from shardrec.models.dynamic_ids import DynamicConfig, DynamicIds
from shardrec.models.inputs import PooledEmbeddings, SequenceEmbeddings
from shardrec.models.table_settings import TableOptimizer
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.planning.fit import fewest_hosts, least_peak
from shardrec.sharding.planning.placements import column_width
from shardrec.sharding.planning.plan import Plan, id_map_share, table_bytes
from shardrec.sharding.planning.plan_report import plan_text
from shardrec.sharding.planning.planner import PlanError, plan_tables
from shardrec.sharding.planning.topology import Topology
from shardrec.sharding.tables.live import physical_dim
from tests.sharding.cases import table

MIB = 1 << 20
SGD, ADAGRAD, ROWWISE, FTRL = (TableOptimizer(name=n) for n in ("sgd", "adagrad", "rowwise_adagrad", "ftrl"))


def plan(tables: list[EmbeddingTable], ranks: int = 2, memory: int = 64 * MIB, device: str = "cpu") -> Plan:
    inputs = {"all": PooledEmbeddings({t.name: t for t in tables}, concat=True)}
    return plan_tables(inputs, ROWWISE, Topology(ranks, ranks, device, memory))  # type: ignore[arg-type]


def on_hosts(tables: list[EmbeddingTable], ranks: int, local: int, memory: int = 1 << 40) -> Plan:
    inputs = {"all": PooledEmbeddings({t.name: t for t in tables}, concat=True)}
    return plan_tables(inputs, ROWWISE, Topology(ranks, min(local, ranks), "cpu", memory))


def dynamic_table(name: str, rows: int, dim: int, space: str = "", after: int = 1, **more: object) -> EmbeddingTable:
    ids = DynamicIds(space or name, DynamicConfig(rows=rows, after=after))
    return table(name, ids.num_embeddings, dim, dynamic=ids, **more)


def test_report() -> None:
    tables = [
        table("user", 100_001, 17, placement="row_wise"),
        table("deep/item", 70_000, 16, dtype="fp16", optimizer=SGD, placement="table_wise"),
        table("tag", 1_000, 8, optimizer=ADAGRAD, placement="column_wise"),
        table("day", 7, 4, placement="data_parallel"),
    ]
    assert plan_text(plan(tables)) == REPORT


REPORT = """\
table         rows  dim  dtype  optimizer        placement      rank 0: rows  rank 1: rows  rank 0: bytes  rank 1: bytes
user       100,001   17  fp32   rowwise_adagrad  row_wise             50,001        50,000        4.0 MiB        4.0 MiB
deep/item   70,000   16  fp16   sgd              table_wise                0        70,000            0 B        2.1 MiB
tag          1,000    8  fp32   adagrad          column_wise           1,000         1,000       31.2 KiB       31.2 KiB
day              7    4  fp32   rowwise_adagrad  data_parallel             7             7          280 B          280 B
total      171,008                                                    51,008       121,007        4.0 MiB        6.2 MiB
memory for tables: 64.0 MiB a rank, 2 rank(s)
"""


def test_row_wise_bytes_are_weights_and_state_of_padded_rows() -> None:
    (planned,) = plan([table("t", 101, 17, placement="row_wise")]).tables.values()
    assert [planned.rows_on(r) for r in (0, 1)] == [51, 50]
    assert [planned.bytes_on(r) for r in (0, 1)] == [51 * (20 * 4 + 4), 50 * (20 * 4 + 4)]
    (half,) = plan([table("t", 101, 17, dtype="fp16", optimizer=ADAGRAD, placement="row_wise")]).tables.values()
    assert half.bytes_on(0) == 51 * (20 * 2 + 20 * 4)


def test_replicas_count_their_gradient_buffer() -> None:
    planned = plan([table("t", 100, 4, optimizer=SGD, placement="data_parallel")])
    assert planned.bytes_per_rank == (100 * (4 + 5) * 4,) * 2


def test_tables_of_our_own_kernel_are_not_padded() -> None:
    """A 1-d FTRL table takes three numbers a row; a 17-d one is cut into 9 and 8 columns."""
    made = plan(
        [
            table("wide", 1_000, 1, optimizer=FTRL, placement="row_wise"),
            table("cut", 10, 17, optimizer=FTRL, placement="column_wise"),
            table("copied", 100, 1, optimizer=FTRL, placement="data_parallel"),
            table("adam", 10, 3, optimizer=TableOptimizer(name="adam"), placement="table_wise"),
            table("momentum", 10, 3, optimizer=TableOptimizer(name="sgd", momentum=0.9), placement="table_wise"),
        ]
    )
    assert [made.tables["wide"].bytes_on(r) for r in (0, 1)] == [500 * 3 * 4] * 2
    assert [(s.column, s.columns) for s in made.tables["cut"].shards] == [(0, 9), (9, 8)]
    assert made.tables["copied"].bytes_on(0) == 100 * (3 + 2) * 4
    assert sum(made.tables["adam"].bytes_on(r) for r in (0, 1)) == 10 * (3 * 3 + 1) * 4
    assert sum(made.tables["momentum"].bytes_on(r) for r in (0, 1)) == 10 * 3 * 2 * 4


def test_tables_decayed_whole_are_replicas() -> None:
    whole = TableOptimizer(name="sgd", weight_decay=0.1, decay="table")
    for ranks in (1, 2):
        made = plan([table("t", 10, 3, optimizer=whole)], ranks)
        assert made.tables["t"].placement == "data_parallel"
        assert made.bytes_per_rank == (10 * (3 + 4) * 4,) * ranks
    said = refused(UserError, [table("t", 10, 3, optimizer=whole, placement="row_wise")])
    assert said == (
        "table 't': decay: table updates all rows in every step, which only data_parallel tables can, "
        "but its placement is row_wise; choose data_parallel, or decay: batch"
    )


def test_one_rank_is_table_wise_whatever_was_asked() -> None:
    tables = [table(p, 10, 8, optimizer=SGD, placement=p) for p in ("data_parallel", "row_wise", "column_wise")]
    assert {t.placement for t in plan(tables, ranks=1).tables.values()} == {"table_wise"}


@pytest.mark.parametrize(
    ("rows", "ranks", "expected"), [(2, 3, "table_wise"), (5, 4, "table_wise"), (4, 4, "row_wise")]
)
def test_too_few_rows_for_row_blocks(rows: int, ranks: int, expected: str) -> None:
    """5 rows on 4 ranks would be blocks of 2, 2, 1 and 0."""
    assert plan([table("t", rows, 8, placement="row_wise")], ranks).tables["t"].placement == expected


def test_four_columns_are_not_cut() -> None:
    assert plan([table("t", 9, 3, optimizer=SGD, placement="column_wise")]).tables["t"].placement == "table_wise"


def test_column_blocks_are_dealt_in_turn() -> None:
    tables = [table(f"t{i}", 10, 16, optimizer=ADAGRAD, placement="column_wise") for i in range(2)]
    made = plan(tables, ranks=2)
    assert [[s.rank for s in t.shards] for t in made.tables.values()] == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("columns", "ranks", "width"),
    [(20, 2, 4), (16, 2, 8), (32, 3, 8), (128, 4, 32), (8, 4, 4), (24, 2, 12), (17, 2, 9), (5, 4, 2)],
)
def test_column_width(columns: int, ranks: int, width: int) -> None:
    assert column_width(columns, ranks) == width


# ---------------------------------------------------------------- several hosts


def test_rows_within_a_host_go_to_the_emptiest_one() -> None:
    """The larger table alone, the two others together; rows in blocks as on all ranks."""
    tables = [table(f"t{rows}", rows, 16, placement="table_row_wise") for rows in (10, 30, 18)]
    shards = {n: [(s.rank, s.row, s.rows) for s in p.shards] for n, p in on_hosts(tables, 4, 2).tables.items()}
    assert shards == {"t10": [(2, 0, 5), (3, 5, 5)], "t30": [(0, 0, 15), (1, 15, 15)], "t18": [(2, 0, 9), (3, 9, 9)]}


def test_a_grid_deals_columns_to_hosts_and_rows_to_their_ranks() -> None:
    (planned,) = on_hosts([table("t", 9, 16, optimizer=SGD, placement="grid")], 6, 2).tables.values()
    assert [(s.rank, s.row, s.column, s.rows, s.columns) for s in planned.shards[:4]] == [
        (0, 0, 0, 5, 4),
        (1, 5, 0, 4, 4),
        (2, 0, 4, 5, 4),
        (3, 5, 4, 4, 4),
    ]
    assert [s.rank for s in planned.shards[4:]] == [4, 5, 0, 1]  # four blocks of columns on three hosts


@pytest.mark.parametrize(
    ("rows", "dim", "ranks", "local", "table_row_wise", "grid"),
    [
        (10, 8, 4, 2, "table_row_wise", "grid"),
        (10, 4, 4, 2, "table_row_wise", "table_row_wise"),  # four columns are not cut
        (1, 8, 4, 2, "table_wise", "column_wise"),  # nor is a row
        (10, 8, 4, 4, "row_wise", "row_wise"),  # one host
        (10, 8, 4, 1, "table_wise", "column_wise"),  # hosts of one rank
        (10, 8, 5, 2, "row_wise", "row_wise"),  # unlike hosts
        (10, 8, 1, 1, "table_wise", "table_wise"),
    ],
)
def test_what_becomes_of_tables_that_hosts_cannot_cut(
    rows: int, dim: int, ranks: int, local: int, table_row_wise: str, grid: str
) -> None:
    names = ("table_row_wise", "grid")
    made = on_hosts([table(n, rows, dim, optimizer=SGD, placement=n) for n in names], ranks, local)
    assert [made.tables[n].placement for n in names] == [table_row_wise, grid]
    said = "hosts have unequal numbers of ranks (5 in all, up to 2 a host): row_wise instead"
    assert made.notes == ((f"{said} (table_row_wise: table_row_wise, grid: grid)",) if ranks == 5 else ())


def test_tables_that_are_read_as_sequences_stay_row_wise_and_the_plan_says_so() -> None:
    item, kind = (table(n, 40, 8, placement="table_row_wise") for n in ("item", "kind"))
    inputs = {"history": SequenceEmbeddings({"items": item}), "target": PooledEmbeddings({"item": item, "kind": kind})}
    made = plan_tables(inputs, ROWWISE, Topology(4, 2, "cpu", MIB))
    assert {n: p.placement for n, p in made.tables.items()} == {"item": "row_wise", "kind": "table_row_wise"}
    assert plan_text(made).endswith(
        "tables that are read as sequences are row_wise instead, as only pooled ones can be so (item: table_row_wise)\n"
    )


def test_many_tables_are_cut_within_hosts_where_other_hosts_are_far() -> None:
    """Twice as many as hosts, none of which a rank has room for; a table too large for a host goes to all."""
    tables = [table("largest", 10 * MIB, 16), *(table(f"t{i}", 3 * MIB, 16) for i in range(8))]
    inputs = {"all": PooledEmbeddings({t.name: t for t in tables}, concat=True)}
    machines = Topology.described(4, 4, "cpu", 150 * MIB, local_bandwidth=1e10, host_bandwidth=1e9)
    made = plan_tables(inputs, ROWWISE, machines)
    placements = {n: p.placement for n, p in made.tables.items()}
    assert placements.pop("largest") == "row_wise"
    assert set(placements.values()) == {"table_row_wise"}
    assert {p.shards[0].rank // 4 for n, p in made.tables.items() if n != "largest"} == {0, 1, 2, 3}
    assert max(made.bytes_per_rank) <= machines.memory_per_rank


def test_grid_rowwise_adagrad() -> None:
    said = refused(UserError, [table("t", 10, 16, placement="grid")])
    assert said.startswith("table 't': grid with rowwise_adagrad is another algorithm")


@st.composite
def any_tables(draw: st.DrawFn) -> list[EmbeddingTable]:
    found = []
    for i in range(draw(st.integers(1, 6))):
        optimizer = draw(st.sampled_from([SGD, ADAGRAD, ROWWISE, FTRL]))
        allowed = [None, "data_parallel", "table_wise", "row_wise", "table_row_wise"]
        allowed += ["column_wise", "grid"] * (optimizer is not ROWWISE)
        rows, dim = draw(st.sampled_from([1, 2, 5, 1_000, 90_001])), draw(st.integers(1, 40))
        kind = dynamic_table if rows > 5 and draw(st.booleans()) else table
        found.append(kind(f"t{i}", rows, dim, optimizer=optimizer, placement=draw(st.sampled_from(allowed))))
    return found


@settings(max_examples=40)
@given(tables=any_tables(), ranks=st.sampled_from([1, 2, 3, 4, 5, 9, 12]), local=st.integers(1, 12))
def test_every_plan_covers_every_table_once(tables: list[EmbeddingTable], ranks: int, local: int) -> None:
    made = on_hosts(tables, ranks, local)
    assert made == on_hosts(tables, ranks, local)
    for t in tables:
        planned = made.tables[t.name]
        if planned.placement == "data_parallel":
            assert [s.rank for s in planned.shards] == list(range(ranks))
            continue
        covered = torch.zeros(t.num_embeddings, physical_dim(t), dtype=torch.int32)
        for s in planned.shards:
            assert s.rows > 0 and s.columns > 0 and 0 <= s.rank < ranks
            assert t.optimizer is FTRL or s.columns % 4 == 0
            covered[s.row : s.row + s.rows, s.column : s.column + s.columns] += 1
        assert (covered == 1).all()


def test_a_table_too_large_for_a_rank_is_spread() -> None:
    """7 MiB of rows where each rank has 4: row-wise, the small ones beside it."""
    tables = [table("large", 7 * MIB // 68, 16), *(table(f"s{i}", 100, 16) for i in range(4))]
    made = plan(tables, 2, memory=4 * MIB)
    assert made.tables["large"].placement == "row_wise"
    assert max(made.bytes_per_rank) <= 4 * MIB


def test_many_tables_are_balanced_and_planned_fast() -> None:
    made = plan([table(f"t{i}", 1_000, 16) for i in range(100)], 8)
    assert {t.placement for t in made.tables.values()} == {"table_wise"}
    assert max(made.bytes_per_rank) < 1.1 * min(made.bytes_per_rank)


def test_whole_tables_are_dealt_in_runs() -> None:
    """So that vectors come back in the tower's order."""
    made = plan([table(f"t{i}", 1_000 * (i + 1), 16, placement="table_wise") for i in range(7)], 3)
    assert [t.shards[0].rank for t in made.tables.values()] == [0, 0, 1, 1, 1, 2, 2]


def test_runs_give_way_to_memory() -> None:
    """Two large tables side by side fit on two ranks only if parted."""
    tables = [table(f"t{i}", n, 16, placement="table_wise") for i, n in enumerate([50_000, 50_000, 10, 10])]
    made = plan(tables, 2, memory=4 * MIB)
    assert made.tables["t0"].shards[0].rank != made.tables["t1"].shards[0].rank


# ---------------------------------------------------------------- refusals


def refused(error: type[Exception], tables: list[EmbeddingTable], **more: object) -> str:
    with pytest.raises(error) as caught:
        plan(tables, **more)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_column_wise_rowwise_adagrad() -> None:
    said = refused(UserError, [table("t", 10, 16, placement="column_wise")])
    assert said.startswith("table 't': column_wise with rowwise_adagrad is another algorithm")
    assert "choose optimizer adagrad or sgd" in said


def test_ftrl_is_not_for_half_precision() -> None:
    assert refused(UserError, [table("t", 10, 1, dtype="fp16", optimizer=FTRL)]) == (
        "table 't': ftrl computes each weight anew from the last one, which rounding to fp16 would hold in place; "
        "choose dtype fp32, or another optimizer"
    )


def test_not_enough_memory_anywhere() -> None:
    said = refused(PlanError, [table("huge", 10**9, 16), table("b", 10, 16)], memory=64 * MIB)
    assert said == (
        "not enough memory: rank 0 would hold 31.7 GiB of tables and has 64.0 MiB for them, 31.6 GiB short; largest "
        "there: huge (row_wise, 31.7 GiB), b (row_wise, 340 B); all tables take 63.3 GiB and all 2 ranks have "
        "128.0 MiB; would fit: 507 hosts of 2 rank(s) each with as much memory"
    )


def test_a_table_too_large_for_the_rank_that_it_was_put_on() -> None:
    tables = [table("large", MIB, 16, placement="table_wise"), table("b", 10, 16)]
    assert refused(PlanError, tables, memory=64 * MIB) == (
        "not enough memory: rank 0 would hold 68.0 MiB of tables and has 64.0 MiB for them, 4.0 MiB short; largest "
        "there: large (table_wise, 68.0 MiB), b (row_wise, 340 B); would fit: place 'large' row_wise, or dtype fp16"
    )
    spread = [replace(tables[0], placement="row_wise"), tables[1]]
    assert max(plan(spread, memory=64 * MIB).bytes_per_rank) < 64 * MIB
    half = [replace(t, dtype="fp16") for t in tables]
    assert max(plan(half, memory=64 * MIB).bytes_per_rank) < 64 * MIB


def test_a_few_bytes_are_counted_out() -> None:
    said = refused(PlanError, [table("t", 1_000, 16)], ranks=1, memory=1_000 * 68 - 1)
    assert said.startswith(
        "not enough memory: rank 0 would hold 66.4 KiB of tables and has 66.4 KiB for them, 1 bytes short; largest "
        "there: t (table_wise, 66.4 KiB); would fit: 2 hosts of 1 rank(s)"
    )


def test_too_large_replicas() -> None:
    copied = table("copied", MIB, 16, placement="data_parallel")
    assert refused(PlanError, [copied], memory=64 * MIB) == (
        "not enough memory: rank 0 would hold 136.0 MiB of tables and has 64.0 MiB for them, 72.0 MiB short; largest "
        "there: copied (data_parallel, 136.0 MiB); would fit: place 'copied' row_wise"
    )


def test_columns_that_are_too_long() -> None:
    """Four columns of all rows are the least that a column-wise shard has."""
    long = table("long", 4 * MIB, 8, optimizer=ADAGRAD, placement="column_wise")
    assert refused(PlanError, [long], ranks=4, memory=100 * MIB) == (
        "not enough memory: rank 0 would hold 128.0 MiB of tables and has 100.0 MiB for them, 28.0 MiB short; largest "
        "there: long (column_wise, 128.0 MiB); would fit: place 'long' row_wise, or dtype fp16"
    )


def test_tables_decayed_whole_that_are_too_large() -> None:
    whole = TableOptimizer(name="sgd", weight_decay=0.1, decay="table")
    decayed = table("decayed", MIB, 16, optimizer=whole)
    assert refused(PlanError, [decayed], memory=96 * MIB) == (
        "not enough memory: rank 0 would hold 132.0 MiB of tables and has 96.0 MiB for them, 36.0 MiB short; largest "
        "there: decayed (data_parallel, 132.0 MiB); would fit: decay: batch for 'decayed'"
    )


def test_several_tables_that_would_have_to_move() -> None:
    """One of them in rows is not enough, and on more hosts each would still be whole."""
    tables = [table(f"t{i}", MIB, 16, placement="table_wise") for i in range(5)]
    said = refused(PlanError, tables, ranks=2, memory=180 * MIB)
    assert said == (
        "not enough memory: rank 0 would hold 204.0 MiB of tables and has 180.0 MiB for them, 24.0 MiB short; largest "
        "there: t0 (table_wise, 68.0 MiB), t2 (table_wise, 68.0 MiB), t4 (table_wise, 68.0 MiB); would fit: "
        "place 't0' row_wise, or 2 hosts of 2 rank(s) each with as much memory, or dtype fp16"
    )


def test_only_several_remedies_together_would_do() -> None:
    tables = [table("pinned", 4 * MIB, 16, placement="table_wise"), *(table(f"t{i}", MIB, 16) for i in range(4))]
    said = refused(PlanError, tables, ranks=2, memory=64 * MIB)
    assert said.endswith("would fit: place 'pinned' row_wise and use 5 hosts of 2 rank(s) each with as much memory")
    spread = [replace(t, placement="row_wise") for t in tables]
    assert max(plan(spread, ranks=10, memory=64 * MIB).bytes_per_rank) <= 64 * MIB


def test_lighter_optimizers_and_more_tables_than_are_named() -> None:
    tables = [table(f"t{i}", MIB, 16, optimizer=ADAGRAD, placement="row_wise") for i in range(6)]
    said = refused(PlanError, tables, ranks=1, memory=500 * MIB)
    assert said == (
        "not enough memory: rank 0 would hold 768.0 MiB of tables and has 500.0 MiB for them, 268.0 MiB short; "
        "largest there: t0 (table_wise, 128.0 MiB), t1 (table_wise, 128.0 MiB), t2 (table_wise, 128.0 MiB), 3 more "
        "(384.0 MiB); would fit: 2 hosts of 1 rank(s) each with as much memory, or optimizer rowwise_adagrad"
    )


def test_nothing_would_do() -> None:
    said = refused(PlanError, [table("t", 10**12, 64)], memory=MIB)
    assert said.endswith("; use fewer rows or columns")


@settings(max_examples=25, derandomize=True)
@given(tables=any_tables(), share=st.floats(0.02, 0.6), local=st.integers(1, 3))
def test_hosts_that_would_do_do_and_one_less_does_not(tables: list[EmbeddingTable], share: float, local: int) -> None:
    memory = max(1, int(share * sum(table_bytes(replace(t, optimizer=t.optimizer or ROWWISE)) for t in tables)))
    named = {t.name: replace(t, optimizer=t.optimizer or ROWWISE) for t in tables}
    hosts = fewest_hosts(named, Topology(local, local, "cpu", memory))
    inputs = {"all": PooledEmbeddings({t.name: t for t in tables}, concat=True)}
    if hosts is None:
        return
    made = plan_tables(inputs, ROWWISE, Topology(hosts * local, local, "cpu", memory))
    assert max(made.bytes_per_rank) <= memory
    if hosts > 1:
        assert least_peak(named, Topology((hosts - 1) * local, local, "cpu", memory)) > memory


# ---------------------------------------------------------------- id maps


def test_id_maps_are_shared_out_by_whole_buckets() -> None:
    """17 buckets on 4 ranks: one has 5 of them. A space's map is held once, however many tables read it."""
    tables = [dynamic_table(name, 17 * 4096, 4, space="user", after=2) for name in ("wide/user", "deep/user")]
    geometry = tables[0].dynamic.geometry  # type: ignore[union-attr]
    assert geometry.buckets == 17
    assert id_map_share(tables, 4) == 5 * geometry.bucket_rows * (32 + 24)
    assert id_map_share(tables, 1) == 17 * geometry.bucket_rows * (32 + 24)
    assert id_map_share(tables, 40) == geometry.bucket_rows * (32 + 24)


@pytest.mark.parametrize("placement", [None, "row_wise", "table_wise"])
@pytest.mark.parametrize("local", [1, 2, 7])
def test_the_fewest_hosts_named_are_the_fewest_that_plan(placement: str | None, local: int) -> None:
    """Id maps take more than the rows, and a rank's share of them depends on how many ranks there are."""
    tables = [dynamic_table("user", 300_000, 4, optimizer=SGD, placement=placement), table("item", 1_000, 4)]
    named = {t.name: replace(t, optimizer=t.optimizer or ROWWISE) for t in tables}
    share = 2 * MIB // local + (table_bytes(tables[0]) if placement == "table_wise" else 0)
    inputs = {"all": PooledEmbeddings({t.name: t for t in tables}, concat=True)}

    def planned(hosts: int) -> Plan:
        return plan_tables(inputs, ROWWISE, Topology(hosts * local, local, "cpu", share))

    with pytest.raises(PlanError) as caught:
        planned(1)
    hosts = fewest_hosts(named, Topology(local, local, "cpu", share))
    assert hosts is not None and hosts > 2
    assert f"{hosts} hosts of {local} rank(s)" in str(caught.value)
    made = planned(hosts)
    assert max(made.bytes_per_rank) <= share == made.memory_per_rank
    assert fewest_hosts(named, Topology(64 * local, local, "cpu", share)) == hosts
    with pytest.raises(PlanError):
        planned(hosts - 1)


def test_id_maps_are_among_what_is_largest() -> None:
    """15 MiB of ids beside 10 MiB of rows: two such ranks are enough."""
    tables = [dynamic_table("user", MIB // 2, 4), table("b", 10, 4)]
    assert refused(PlanError, tables, ranks=1, memory=14 * MIB) == (
        "not enough memory: rank 0 would hold 26.0 MiB of tables and id maps and has 14.0 MiB for them, 12.0 MiB "
        "short; largest there: id maps (16.0 MiB), user (table_wise, 10.0 MiB), b (table_wise, 200 B); would fit: "
        "2 hosts of 1 rank(s) each with as much memory"
    )
    assert max(plan(tables, ranks=2, memory=14 * MIB).bytes_per_rank) <= 14 * MIB


def test_placements_are_no_remedy_where_id_maps_leave_no_room() -> None:
    """In rows the table would fit by itself; with its share of the map it does not."""
    tables = [dynamic_table("user", MIB, 4, placement="table_wise")]
    said = refused(PlanError, tables, ranks=2, memory=20 * MIB)
    assert "all tables and id maps take 52.0 MiB and all 2 ranks have 40.0 MiB" in said
    assert "would fit: place 'user' row_wise and use 2 hosts of 2 rank(s)" in said
    spread = [replace(tables[0], placement="row_wise")]
    assert max(plan(spread, ranks=4, memory=20 * MIB).bytes_per_rank) <= 20 * MIB


def test_the_room_left_by_id_maps_is_what_tables_are_dealt_to() -> None:
    """Three whole tables of 2 MiB and a dynamic one: two of them on one rank would leave no room for its id map."""
    tables = [table(f"t{i}", MIB // 10, 4, placement="table_wise") for i in range(3)]
    made = plan([*tables, dynamic_table("user", MIB // 8, 4, placement="row_wise")], ranks=3, memory=5 * MIB)
    assert sorted(made.tables[t.name].shards[0].rank for t in tables) == [0, 1, 2]
    assert max(made.bytes_per_rank) <= 5 * MIB
