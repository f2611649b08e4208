"""The estimate of a step against plain loops over ranks, samples and messages."""

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shardrec.models.dynamic_ids import DynamicConfig, DynamicIds
from shardrec.models.inputs import Input, PooledEmbeddings, SequenceEmbeddings
from shardrec.models.table_settings import TableOptimizer
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.planning.advice import worthwhile_changes
from shardrec.sharding.planning.cost import (
    COPIES,
    GRADIENTS,
    IDS,
    LOOKUP,
    TOWER,
    UPDATE,
    VECTORS,
    Estimate,
    Workload,
    estimate_step,
)
from shardrec.sharding.planning.exchange import Exchange
from shardrec.sharding.planning.plan import Plan
from shardrec.sharding.planning.planner import plan_tables
from shardrec.sharding.planning.topology import Topology
from tests.sharding.cases import table

ROWWISE = TableOptimizer(name="rowwise_adagrad")
ADAGRAD = TableOptimizer(name="adagrad")
# two hosts of three ranks; rates that no two parts share
HERE = Topology.described(
    2, 3, "cpu", 1 << 40, row_bandwidth=7e9, local_bandwidth=5e9, host_bandwidth=1e9, dense_flops=3e11, latency=1e-4
)
BATCH, SAMPLES = 600, 100  # of all ranks, of one


def estimated(inputs: dict[str, Input], ids: dict[str, float] | None = None, **more: Any) -> tuple[Plan, Estimate]:
    plan = plan_tables(inputs, ROWWISE, HERE)
    return plan, estimate_step(plan, HERE, Workload(inputs, BATCH, ids or {}, **more))


def pooled(*tables: EmbeddingTable) -> dict[str, Input]:
    return {"all": PooledEmbeddings({t.name: t for t in tables}, concat=True)}


def part(estimate: Estimate, name: str) -> Any:
    return next(p for p in estimate.parts if p.name == name)


def exchange_seconds(messages: dict[tuple[int, int], float]) -> list[float]:
    """Each rank's, of bytes by (sender, receiver): the slower of two networks, the larger of two directions."""
    found = []
    for rank in range(6):
        near, far = [0.0, 0.0], [0.0, 0.0]
        for (sender, receiver), size in messages.items():
            if sender == receiver or rank not in (sender, receiver):
                continue
            (near if sender // 3 == receiver // 3 else far)[rank == receiver] += size
        found.append(max(max(near) / 5e9, max(far) / 1e9))
    return found


def ring_seconds(size: float) -> float:
    """A reduce-scatter of `size` bytes on each rank, by three rings that leave a host at another rank each."""
    near, far = [0.0] * 6, [0.0] * 6
    for ring in range(3):
        first, second = [(ring + i) % 3 for i in range(3)], [3 + (ring + i) % 3 for i in range(3)]
        order = first + second
        for at, rank in enumerate(order):
            receiver = order[(at + 1) % 6]
            (near if rank // 3 == receiver // 3 else far)[rank] += size / 3 * 5 / 6
    assert max(near) == pytest.approx(min(near)) and max(far) == pytest.approx(min(far))
    return max(near[0] / 5e9, far[0] / 1e9)


def touched(rows: float, ids: float) -> float:
    return rows * (1 - math.exp(-ids / rows))


def test_whole_tables() -> None:
    """Ids go to the owner, with lengths where they are ragged; vectors come back; rows are read, and changed once."""
    inputs = pooled(table("a", 5_000, 16, placement="table_wise"), table("b", 900, 8, placement="table_wise"))
    plan, found = estimated(inputs, {"a": 1.0, "b": 3.0})
    owners = {name: planned.shards[0].rank for name, planned in plan.tables.items()}
    assert len(set(owners.values())) == 2
    shape = {"a": (5_000, 16, 1.0), "b": (900, 8, 3.0)}
    sent = {(r, owners[n]): SAMPLES * (ids * 8 + 8 * (n == "b")) for n, (*_, ids) in shape.items() for r in range(6)}
    back = {(owners[n], r): SAMPLES * dim * 4.0 for n, (_, dim, _) in shape.items() for r in range(6)}
    np.testing.assert_allclose(part(found, IDS).seconds, np.array(exchange_seconds(sent)) + 2e-4)
    np.testing.assert_allclose(part(found, VECTORS).seconds, np.array(exchange_seconds(back)) + 1e-4)
    there = {(receiver, sender): size for (sender, receiver), size in back.items()}
    np.testing.assert_allclose(part(found, GRADIENTS).seconds, np.array(exchange_seconds(there)) + 1e-4)
    for rank in range(6):
        read = changed = 0.0
        for name, (rows, dim, ids) in shape.items():
            if owners[name] == rank:
                read += BATCH * ids * dim * 4 + BATCH * dim * 4
                changed += BATCH * ids * dim * 4 + touched(rows, BATCH * ids) * 2 * (dim * 4 + 4)
        assert part(found, LOOKUP).seconds[rank] == pytest.approx(read / 7e9)
        assert part(found, UPDATE).seconds[rank] == pytest.approx(changed / 7e9)


def test_rows_spread_over_ranks() -> None:
    """Every rank gets all lengths, a sixth of the ids, and partial sums of its samples from each."""
    _, found = estimated(pooled(table("t", 6_000, 16, dtype="fp16", placement="row_wise")), {"t": 4.0})
    sent = {(r, o): SAMPLES * (4 * 8 / 6 + 8) for r in range(6) for o in range(6)}
    np.testing.assert_allclose(part(found, IDS).seconds, np.array(exchange_seconds(sent)) + 2e-4)
    summed = np.array(exchange_seconds(dict.fromkeys(sent, SAMPLES * 16 * 4.0))) + 1e-4
    np.testing.assert_allclose(part(found, VECTORS).seconds, summed)
    np.testing.assert_allclose(part(found, GRADIENTS).seconds, summed)
    ids = BATCH * 4 / 6
    np.testing.assert_allclose(part(found, LOOKUP).seconds, (ids * 16 * 2 + BATCH * 16 * 4) / 7e9)
    changed = ids * 16 * 4 + touched(1_000, ids) * 2 * (16 * 2 + 4)
    np.testing.assert_allclose(part(found, UPDATE).seconds, changed / 7e9)
    np.testing.assert_allclose(found.buffer_bytes, 2 * (BATCH + SAMPLES) * 16 * 4)


def test_sequences_spread_over_ranks_send_vectors_of_single_ids() -> None:
    item = table("item", 6_000, 16, placement="row_wise")
    inputs: dict[str, Input] = {"history": SequenceEmbeddings({"items": item})}
    _, found = estimated(inputs, {"items": 12.0})
    back = {(o, r): SAMPLES * 12 / 6 * 16 * 4.0 for r in range(6) for o in range(6)}
    np.testing.assert_allclose(part(found, VECTORS).seconds, np.array(exchange_seconds(back)) + 1e-4)


def test_a_table_read_by_a_sequence_and_a_target_gives_a_vector_for_each_id() -> None:
    item = table("item", 600, 16, placement="table_wise")
    inputs: dict[str, Input] = {
        "target": PooledEmbeddings({"item": item}),
        "history": SequenceEmbeddings({"items": item}),
    }
    workload = Workload(inputs, BATCH, {"items": 12.0})
    reads = workload.reads["item"]
    assert (reads.features, reads.ids, reads.vectors) == (2, 13.0, 13.0)


@pytest.mark.parametrize("placement", ["table_wise", "row_wise", "data_parallel"])
def test_detached_reads_cost_a_second_forward_and_no_backward(placement: str) -> None:
    item = table("item", 6_000, 16, placement=placement)
    once: dict[str, Input] = {"target": PooledEmbeddings({"item": item})}
    _, alone = estimated(once, {"item": 3.0})
    _, both = estimated(
        once | {"next": PooledEmbeddings({"next_item": item}, detached=True)}, {"item": 3.0, "next_item": 3.0}
    )
    for name, times in ((IDS, 2), (VECTORS, 2), (LOOKUP, 2), (GRADIENTS, 1), (UPDATE, 1), (COPIES, 1)):
        np.testing.assert_allclose(part(both, name).seconds, times * part(alone, name).seconds, err_msg=name)


def test_tables_share_their_messages() -> None:
    """One of ids, and one of vectors, however they are placed and read; ragged ids have a second one."""
    whole, rows = table("a", 600, 4, placement="table_wise"), table("b", 600, 8, placement="row_wise")
    within = table("c", 600, 4, placement="table_row_wise")
    sequence = {"history": SequenceEmbeddings({"items": table("item", 600, 4, placement="row_wise")})}
    cases: list[tuple[dict[str, Input], int, int]] = [
        (pooled(whole), 1, 1),
        (pooled(whole, rows), 1, 1),
        (pooled(whole, rows) | sequence, 2, 1),
        (pooled(whole, rows, within) | sequence, 2 + 3, 1 + 2),
    ]
    for inputs, of_ids, of_vectors in cases:
        slow, fast = (replace(HERE, latency=latency) for latency in (1e-4, 0.0))
        parts = [estimate_step(plan_tables(inputs, ROWWISE, x), x, Workload(inputs, BATCH)) for x in (slow, fast)]
        for name, messages in ((IDS, of_ids), (VECTORS, of_vectors), (GRADIENTS, of_vectors)):
            more = part(parts[0], name).seconds - part(parts[1], name).seconds
            np.testing.assert_allclose(more, 1e-4 * messages)


def test_every_rank_gets_all_ids_of_rows_that_have_one_each() -> None:
    _, found = estimated(pooled(table("t", 6_000, 16, placement="row_wise")))
    sent = {(r, o): SAMPLES * 8.0 for r in range(6) for o in range(6)}
    np.testing.assert_allclose(part(found, IDS).seconds, np.array(exchange_seconds(sent)) + 1e-4)


def test_columns_get_all_ids_each() -> None:
    plan, found = estimated(pooled(table("t", 600, 24, optimizer=ADAGRAD, placement="column_wise")), {"t": 2.0})
    owners = [s.rank for s in plan.tables["t"].shards]
    assert sorted(owners) == list(range(6))  # four columns each
    sent = {(r, o): SAMPLES * (2 * 8 + 8.0) for r in range(6) for o in owners}
    back = {(o, r): SAMPLES * 4 * 4.0 for r in range(6) for o in owners}
    np.testing.assert_allclose(part(found, IDS).seconds, np.array(exchange_seconds(sent)) + 2e-4)
    np.testing.assert_allclose(part(found, VECTORS).seconds, np.array(exchange_seconds(back)) + 1e-4)
    np.testing.assert_allclose(
        part(found, UPDATE).seconds, (1_200 * 4 * 4 + touched(600, 1_200) * 2 * (4 * 4 + 4 * 4)) / 7e9
    )


@pytest.mark.parametrize("exchange", ["fp32", "bf16"])
def test_rows_within_a_host_are_summed_there_and_sent_to_the_other(exchange: Exchange) -> None:
    """Each of three ranks has a third of the rows; of the sums of the whole batch it sends the other host its share."""
    here = replace(HERE, exchange=exchange)
    inputs = pooled(table("t", 6_000, 16, placement="table_row_wise"))
    plan = plan_tables(inputs, ROWWISE, here)
    found = estimate_step(plan, here, Workload(inputs, BATCH, {"t": 4.0}))
    assert [s.rank for s in plan.tables["t"].shards] == [0, 1, 2]
    number = {"fp32": 4.0, "bf16": 2.0}[exchange]
    sent = {(r, o): SAMPLES * (4 * 8 / 3 + 8) for r in range(6) for o in range(3)}
    np.testing.assert_allclose(part(found, IDS).seconds, np.array(exchange_seconds(sent)) + 3e-4)
    summed = np.array([BATCH * 16 * number * 2 / 3 / 5e9] * 3 + [0.0] * 3)  # a ring of three ranks, before the rest
    away = {(o, o + 3): SAMPLES * 16 * number for o in range(3)}
    np.testing.assert_allclose(part(found, VECTORS).seconds, summed + exchange_seconds(away) + 2e-4)
    back = {(receiver, sender): size for (sender, receiver), size in away.items()}
    np.testing.assert_allclose(part(found, GRADIENTS).seconds, summed + exchange_seconds(back) + 2e-4)
    of_owners = np.array([1.0] * 3 + [0.0] * 3)
    ids = BATCH * 4 / 3
    np.testing.assert_allclose(part(found, LOOKUP).seconds, of_owners * (ids + BATCH) * 16 * 4 / 7e9)
    changed = ids * 16 * 4 + touched(2_000, ids) * 2 * (16 * 4 + 4)
    np.testing.assert_allclose(part(found, UPDATE).seconds, of_owners * changed / 7e9)
    np.testing.assert_allclose(found.buffer_bytes, 2 * (of_owners * (BATCH + BATCH / 3) + SAMPLES) * 16 * 4)


def test_a_grid_is_such_rows_of_some_columns_on_each_host() -> None:
    whole, halves = (
        estimated(
            pooled(*(table(n, 6_000, dim, optimizer=ADAGRAD, placement=how) for n in names)), dict.fromkeys(names, 4.0)
        )
        for names, dim, how in (("t", 16, "grid"), ("ab", 8, "table_row_wise"))
    )
    assert sorted((s.rank, s.columns) for s in whole[0].tables["t"].shards) == [(r, 8) for r in range(6)]
    assert len({s.rank for p in halves[0].tables.values() for s in p.shards}) == 6
    for name in (IDS, VECTORS, LOOKUP, UPDATE, GRADIENTS):
        np.testing.assert_allclose(part(whole[1], name).seconds, part(halves[1], name).seconds)


@pytest.mark.parametrize("placement", ["table_wise", "row_wise", "column_wise"])
def test_half_as_many_bytes_are_exchanged_as_smaller_numbers(placement: str) -> None:
    inputs = pooled(table("t", 6_000, 16, optimizer=ADAGRAD, placement=placement))
    found = []
    for exchange in ("fp32", "fp16"):
        here = replace(HERE, latency=0.0, exchange=exchange)
        found.append(estimate_step(plan_tables(inputs, ADAGRAD, here), here, Workload(inputs, BATCH)))
    for name, times in ((IDS, 1), (VECTORS, 0.5), (LOOKUP, 1), (UPDATE, 1), (GRADIENTS, 0.5)):
        np.testing.assert_allclose(part(found[1], name).seconds, times * part(found[0], name).seconds)


def test_replicas_exchange_no_ids_but_their_whole_gradient() -> None:
    _, found = estimated(pooled(table("t", 600, 4, placement="data_parallel")), tower_parameters=1_000)
    assert part(found, IDS).longest == part(found, VECTORS).longest == 0.0
    buffer = 600 * 5 * 4
    np.testing.assert_allclose(part(found, COPIES).seconds, ring_seconds(2.0 * (buffer + 4_000)) + 2e-4)
    np.testing.assert_allclose(part(found, LOOKUP).seconds, (SAMPLES * 4 * 4 + SAMPLES * 4 * 4) / 7e9)
    changed = 4 * buffer + 2 * SAMPLES * 4 * 4 + touched(600, BATCH) * 2 * (4 * 4 + 4)
    np.testing.assert_allclose(part(found, UPDATE).seconds, changed / 7e9)


def test_weights_travel_with_ids_of_weighted_bags() -> None:
    plain, weighted = (
        estimated(pooled(table("t", 600, 4, placement="row_wise")), {"t": 5.0}, weighted=frozenset(names))[1]
        for names in ((), ("t",))
    )
    more = part(weighted, IDS).seconds - part(plain, IDS).seconds
    sent = {(r, o): SAMPLES * 5 * 8 / 6 for r in range(6) for o in range(6)}
    np.testing.assert_allclose(more, exchange_seconds(sent))


@pytest.mark.parametrize("placement", ["row_wise", "data_parallel"])
def test_ids_of_dynamic_tables_go_to_their_buckets_once(placement: str) -> None:
    """Distinct ids with their counts there and row numbers back, a sixth to each rank; two tables share the ids."""
    ids = DynamicIds("user", DynamicConfig(rows=4_096))
    tables = {n: table(n, ids.num_embeddings, 4, placement=placement) for n in ("wide/user", "deep/user")}

    def inputs(dynamic: DynamicIds | None) -> dict[str, Input]:
        made = {n: replace(t, dynamic=dynamic) for n, t in tables.items()}
        return {n: PooledEmbeddings({"user": t, "friends": t}) for n, t in made.items()}

    asked = {"user": 1.0, "friends": 6.0}
    (_, fixed), (_, found) = (estimated(inputs(dynamic), asked) for dynamic in (None, ids))
    distinct = touched(ids.geometry.rows, SAMPLES * 7)
    sent = {(r, o): distinct / 6 * (16 + 8) for r in range(6) for o in range(6)}
    more = part(found, IDS).seconds - part(fixed, IDS).seconds
    np.testing.assert_allclose(more, np.array(exchange_seconds(sent)) + 5e-4)
    assert found.seconds - fixed.seconds == pytest.approx(more.max())


def test_one_rank_exchanges_nothing() -> None:
    alone = Topology.described(1, 1, "cpu", 1 << 40, dense_flops=1e11, row_bandwidth=1e9)
    ids = DynamicIds("d", DynamicConfig(rows=600))
    inputs = pooled(table("t", 600, 4), table("d", ids.num_embeddings, 4, dynamic=ids))
    plan = plan_tables(inputs, ROWWISE, alone)
    found = estimate_step(plan, alone, Workload(inputs, BATCH, tower_flops=1e6, tower_parameters=10))
    assert found.group_seconds("exchange") == 0.0
    assert found.group_seconds("dense") == pytest.approx(3 * 1e6 * BATCH / 1e11)  # forward, and twice that backward
    assert found.seconds == pytest.approx(found.group_seconds("dense") + found.group_seconds("lookup"))
    assert found.samples_per_second == pytest.approx(BATCH / found.seconds)
    assert (found.slowest_group, found.bottleneck.name) == ("dense", TOWER)


def test_the_step_is_the_sum_of_the_slowest_ranks_and_names_the_table() -> None:
    inputs = pooled(table("small", 60, 4, placement="table_wise"), table("wide", 600, 256, placement="table_wise"))
    plan, found = estimated(inputs)
    assert found.seconds == pytest.approx(sum(max(p.seconds) for p in found.parts))
    slow = part(found, VECTORS)
    assert slow.slowest == plan.tables["wide"].shards[0].rank
    assert slow.leading() == ["wide", "small"]


# ---------------------------------------------------------------- what to change


def test_changes_are_planned_and_better() -> None:
    """A table whose vectors all leave one rank is parted; each change comes to what planning it comes to."""
    wide = table("wide", 600, 256, optimizer=ADAGRAD, placement="table_wise")
    inputs = pooled(wide, table("small", 60, 4, placement="table_wise"))
    fast = replace(HERE, latency=0.0)
    plan = plan_tables(inputs, ADAGRAD, fast)
    workload = Workload(inputs, 60_000)
    now = estimate_step(plan, fast, workload)
    found = worthwhile_changes(plan, fast, workload, ADAGRAD, now)
    by_name = {change.name: change for change in found}
    assert found == sorted(found, key=lambda change: -change.samples_per_second)
    assert all(change.samples_per_second > 1.05 * now.samples_per_second for change in found)
    assert {"place 'wide' table_row_wise", "place 'wide' grid", "trainer.exchange bf16"} <= by_name.keys()
    parted = by_name["place 'wide' column_wise"]
    changed = pooled(replace(wide, placement="column_wise"), table("small", 60, 4, placement="table_wise"))
    planned = plan_tables(changed, ADAGRAD, fast)
    assert parted.seconds == pytest.approx(estimate_step(planned, fast, Workload(changed, 60_000)).seconds)
    assert parted.most_bytes == max(planned.bytes_per_rank)


def test_no_change_is_named_that_does_not_fit_or_is_refused() -> None:
    """A replica would not fit; column-wise row-wise AdaGrad is refused."""
    tight = replace(HERE, memory_per_rank=600 * (256 * 4 + 4) + 1)
    inputs = pooled(table("wide", 600, 256, placement="table_wise"))
    plan = plan_tables(inputs, ROWWISE, tight)
    workload = Workload(inputs, 60_000)
    found = worthwhile_changes(plan, tight, workload, ROWWISE, estimate_step(plan, tight, workload))
    assert not {"place 'wide' column_wise", "place 'wide' data_parallel"} & {change.name for change in found}


def test_faster_products_count_where_dense_compute_is_slow() -> None:
    inputs = pooled(table("t", 600, 4))
    plan = plan_tables(inputs, ROWWISE, HERE)
    workload = Workload(inputs, BATCH, tower_flops=1e9)
    now = estimate_step(plan, HERE, workload)
    found = worthwhile_changes(plan, HERE, workload, ROWWISE, now, {"precision bf16": 2 * HERE.dense_flops})
    assert found[0].name == "precision bf16"
    assert now.seconds - found[0].seconds == pytest.approx(now.group_seconds("dense") / 2)


# ---------------------------------------------------------------- many ranks


def test_many_ranks_are_planned_in_seconds() -> None:
    """50 tables of up to 10^10 rows on 16 hosts of 8, several of which only fit when spread."""
    machines = Topology.described(16, 8, "cuda", 70 << 30)
    tables = [table(f"t{i}", 10**10 if i == 0 else 10**9 // (1 + i % 7), 64, dtype="fp16") for i in range(50)]
    began = time.process_time()
    made = plan_tables(pooled(*tables), ROWWISE, machines)
    assert time.process_time() - began < 10
    assert made.tables["t0"].placement == "row_wise"
    assert max(made.bytes_per_rank) <= machines.memory_per_rank


def test_many_ranks_get_the_cheapest_of_the_plans_that_fit() -> None:
    machines = Topology.described(3, 4, "cpu", 1 << 40)
    tables = [table(f"t{i}", 10_000 * (1 + i), 16) for i in range(5)]

    def seconds(placement: Any) -> float:
        inputs = pooled(*(replace(t, placement=placement) for t in tables))
        made = plan_tables(inputs, ROWWISE, machines)
        return estimate_step(made, machines, Workload(inputs, 512 * machines.world_size)).seconds

    assert seconds(None) <= min(seconds("row_wise"), seconds("table_wise"))
