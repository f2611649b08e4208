"""Every placement, on 1 to 4 ranks, trains like one process: against float64 loops over rows and ids."""

from copy import deepcopy

import pytest
import torch

from tests.sharding.cases import every_case
from tests.sharding.everywhere import (
    FEWER,
    FURTHER,
    OPTIMIZERS,
    ROUNDED_RANKS,
    detached_batches,
    detached_case,
    half_case,
    optimizers_of,
    partly_trained_case,
    placements_of,
    training_batches,
    training_case,
    uneven_batches,
    uneven_case,
    without_training_features,
)
from tests.sharding.reference import Reference

WORLD_SIZES = [1, 2, 3, 4]


@pytest.fixture(scope="module")
def references() -> dict[tuple[str, ...], tuple[list[float], Reference]]:
    found = {}
    for optimizers in (tuple(OPTIMIZERS), FEWER):
        reference = Reference(training_case(optimizers))
        found[optimizers] = (reference.train(training_batches()), reference)
    return found


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_every_placement_trains_like_one_process(world_size: int, everywhere: dict, references: dict) -> None:
    expected, plain = references[optimizers_of(world_size)]
    for placement, result in everywhere[world_size][0]["training"].items():
        assert result["losses"] == pytest.approx(expected, abs=1e-5), placement
        assert result["bias"] == pytest.approx(plain.bias, abs=1e-5)
        for name, tensors in result["tables"].items():
            wrong = (tensors["weight"] - plain.weights[name]).abs().max().item()
            # of rows that decay alone AdaGrad's first steps are as long as the row, which magnifies what is rounded
            assert wrong < (3e-6 if name.startswith("whole_l2") else 1e-6), (placement, name)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_exact_zeros_are_counted_once(world_size: int, everywhere: dict, references: dict) -> None:
    """Of tables with l1 only; replicas count once, shards together, whatever rank holds them."""
    plain = references[optimizers_of(world_size)][1]
    expected = {n: (w == 0).double().mean().item() for n, w in plain.weights.items() if n.startswith("ftrl/")}
    assert 0 < sum(expected.values()) / len(expected) < 0.9
    for result in everywhere[world_size][0]["training"].values():
        assert result["zeros"] == pytest.approx(expected)


@pytest.mark.parametrize("world_size", FURTHER)
def test_what_only_training_reads_is_left_out_of_scores(world_size: int, everywhere: dict) -> None:
    """Whether batches have ids of it or not, and training goes on as if nothing had been scored."""
    plain = Reference(partly_trained_case(None))
    first, second = training_batches()[:2]
    before = plain.train([first])
    scored = deepcopy(plain).train([without_training_features(second)])
    expected = [*before, *scored, *scored, *plain.train([second])]
    assert abs(expected[1] - expected[3]) > 1e-3
    for placement, losses in everywhere[world_size][0]["scored"].items():
        assert losses == pytest.approx(expected, abs=1e-5), placement


@pytest.mark.parametrize("world_size", FURTHER)
def test_detached_rows_are_read_and_left_as_they_are(world_size: int, everywhere: dict) -> None:
    """Losses and learned rows are those of loops; rows that no feature learns from keep all their bits."""
    batches = detached_batches()
    for plan, result in enumerate(everywhere[world_size][0]["detached"]):
        plain = Reference(detached_case(plan))
        expected = plain.train(batches)
        assert result["losses"] == pytest.approx(expected, abs=1e-5)
        assert abs(expected[0] - expected[-1]) > 1e-3
        read_only = 0
        for name, weight in plain.weights.items():
            tensors = result["tables"][name]
            torch.testing.assert_close(tensors["weight"].double(), weight, atol=1e-5, rtol=0)
            learned = {row for row, samples in plain.samples[name].items() if samples}
            kept = [row for row in range(len(weight)) if row not in learned]
            for state, values in tensors.items():
                assert torch.equal(values[kept], result["fresh"][name][state][kept]), (name, state)
            read_only += len(kept)
        assert read_only > 50 and not plain.samples["alone"]


@pytest.mark.parametrize("world_size", FURTHER)
def test_ids_may_be_sent_while_the_step_before_lasts(world_size: int, everywhere: dict) -> None:
    """Vectors are looked up in their own step, so that nothing changes by a bit."""
    for result in everywhere[world_size]:
        (losses, tables), (ahead_losses, ahead_tables) = result["ahead"][False], result["ahead"][True]
        assert ahead_losses == losses
        for name, tensors in tables.items():
            assert all(torch.equal(values, ahead_tables[name][state]) for state, values in tensors.items()), name


@pytest.mark.parametrize("world_size", FURTHER)
def test_ranks_may_have_unequal_shares(world_size: int, everywhere: dict) -> None:
    """Some with no rows at all, and other sizes than the step before."""
    plain = Reference(uneven_case())
    expected = plain.train(uneven_batches())
    result = everywhere[world_size][0]["uneven"]
    assert result["losses"] == pytest.approx(expected, abs=1e-5)
    for name, weight in plain.weights.items():
        torch.testing.assert_close(result["tables"][name]["weight"].double(), weight, atol=1e-5, rtol=0)


@pytest.mark.parametrize("world_size", FURTHER)
def test_all_tables_share_their_messages(world_size: int, everywhere: dict) -> None:
    """One of ids, one of vectors and one of gradients; one more of ids where ranks have to tell each other sizes."""
    assert everywhere[world_size][0]["messages"] == {"one id": [4, 3, 3], "several": [4, 4, 4]}


@pytest.mark.parametrize("world_size", FURTHER)
def test_our_own_kernels_rows_are_not_padded(world_size: int, everywhere: dict) -> None:
    """A table of 5 columns: 8 stored by FBGEMM, 5 by our kernel, cut into 3 and 2 (2, 2 and 1) where column-wise.

    A 1-d table takes 1-d memory under every placement.
    """
    stored = {p: r["columns"] for p, r in everywhere[world_size][0]["training"].items()}
    assert stored["row_wise"]["adagrad/group/shared"] == stored["data_parallel"]["adagrad/group/shared"] == 8
    assert stored["row_wise"]["ftrl/group/shared"] == stored["data_parallel"]["ftrl/group/shared"] == 5
    assert stored["column_wise"]["ftrl/group/shared"] == -(-5 // world_size)
    assert {columns["ftrl/both"] for columns in stored.values()} <= {1, 0}
    assert {columns["ftrl/tags"] for columns in stored.values()} <= {1, 0}


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_tables_are_where_they_should_be(world_size: int, everywhere: dict) -> None:
    """So that the test above tests what it says: small and refused tables aside, each placement is the one asked."""
    training = everywhere[world_size][0]["training"]
    assert tuple(training) == placements_of(world_size)
    for placement, result in training.items():
        chosen = result["placements"]
        assert placement is None or chosen.count(placement) >= len(chosen) / 5
        replicas = len(chosen) if placement == "data_parallel" else len(chosen) // len(optimizers_of(world_size))
        assert chosen.count("data_parallel") == replicas  # the tables that are decayed whole are so everywhere


def test_fresh_tables_are_bit_equal_under_every_plan(everywhere: dict) -> None:
    expected = everywhere[2][0]["training"][None]["fresh"]
    for world_size in WORLD_SIZES:
        for result in everywhere[world_size][0]["training"].values():
            for name, tensors in result["fresh"].items():
                assert torch.equal(tensors["weight"], expected[name]["weight"])
                assert not tensors.get("accumulator", torch.zeros(1)).any()


def test_the_reference_learns(references: dict) -> None:
    for optimizers, (losses, plain) in references.items():
        assert losses[-1] < losses[0] / 2
        fresh = Reference(training_case(optimizers)).weights
        moved = [(w - fresh[n]).abs().max().item() for n, w in plain.weights.items()]
        assert min(moved) > 5e-4  # so that 1e-5 is a small difference


@pytest.mark.parametrize("world_size", FURTHER)
def test_learning_rates_scale_for_every_placement(world_size: int, everywhere: dict) -> None:
    moved = everywhere[world_size][0]["learning_rate"]
    for name, whole in moved[1.0].items():
        assert whole.abs().max() > 1e-4
        torch.testing.assert_close(moved[0.5][name], whole / 2, atol=1e-6, rtol=0, msg=name)


@pytest.mark.parametrize("world_size", ROUNDED_RANKS)
@pytest.mark.parametrize("exchange", ["bf16", "fp16"])
def test_smaller_numbers_are_exchanged_where_asked(exchange: str, world_size: int, everywhere: dict) -> None:
    """Vectors arrive rounded, and training is that of one process but for rounding, in every placement."""
    result = everywhere[world_size][0]["rounded"][exchange]
    expected = Reference(every_case().changed_optimizer(OPTIMIZERS["sgd"])).train(training_batches())
    assert result["unrounded"] == 0.0
    assert result["losses"] == pytest.approx(expected, abs=2e-4)
    assert result["losses"] != pytest.approx(expected, abs=1e-7)


def test_hosts_have_groups_of_their_own_where_tables_are_cut_within_them(everywhere: dict) -> None:
    found = [result["groups"] for result in everywhere[4]]
    assert found == [[(host, True), (place, True)] for host in ([0, 1], [2, 3]) for place in ([0, 2], [1, 3])]
    assert everywhere[2][0]["groups"] == []


WRAPPED = {
    "static_graph": True,
    "broadcast_buffers": False,
    "gradient_as_bucket_view": True,
    "find_unused_parameters": False,
    "device_ids": None,
}


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_the_tower_is_replicated(world_size: int, everywhere: dict) -> None:
    """Equal values from rank 0, gradients averaged, names of no plan; a parameter without gradient hangs nobody."""
    results = [r["unused"] for r in everywhere[world_size]]
    for result in results:
        assert list(result["parameters"]) == ["unused", "step.tower.bias"]
        assert result["buffers"] == ["count"]
        assert result["parameters"]["unused"].tolist() == [0, 0, 0]
        assert torch.equal(result["gradient"], results[0]["gradient"])
        assert result["wrapped"] == (WRAPPED if world_size > 1 else None)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_ranks_agree_on_memory(world_size: int, everywhere: dict) -> None:
    assert [r["memory"] for r in everywhere[world_size]] == [(1001 - world_size, 502 - 2 * world_size)] * world_size


@pytest.mark.parametrize("world_size", FURTHER)
def test_half_precision_tables(world_size: int, everywhere: dict) -> None:
    """fp16 rows follow the float64 loops to their own precision under every placement, data-parallel included."""
    plain = Reference(half_case(None))
    plain.train(training_batches())
    for placement, tables in everywhere[world_size][0]["half"].items():
        for name, tensors in tables.items():
            assert tensors["weight"].dtype == torch.float16
            wrong = (tensors["weight"].double() - plain.weights[name]).abs().max().item()
            assert wrong < 2e-3, (placement, name)
            first = next(iter(everywhere[world_size][0]["half"].values()))[name]["weight"]
            differ = (tensors["weight"] != first).double().mean().item()
            assert differ < 0.01, (placement, name)  # the draws are the same; sums of gradients may differ in a bit


def test_no_second_copy_of_a_table_is_made(everywhere: dict) -> None:
    """Building takes the table and buffers for blocks; saving and loading take chunks."""
    grown = {name: size / (1 << 20) for name, size in everywhere[1][0]["grown"].items()}
    assert 250 < grown["built"] < 256 + 100
    assert grown["written"] < 100
    assert grown["read"] < 100
