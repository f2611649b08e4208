"""Every placement, on 1 to 4 ranks, trains like one process: against float64 loops over rows and ids."""

import pytest
import torch
from cases import Case, Reference, Rows, draw_rows, every_case, make, train, whole_tables

from models.inputs import TableOptimizer
from tests.processes import run_processes

STEPS, ROWS = 20, 14
OPTIMIZERS = {
    "sgd": TableOptimizer(name="sgd", learning_rate=0.5),
    "adagrad": TableOptimizer(name="adagrad", learning_rate=0.05, eps=1e-3),
    "rowwise_adagrad": TableOptimizer(name="rowwise_adagrad", learning_rate=0.05, eps=1e-3),
    "sgd_l2": TableOptimizer(name="sgd", learning_rate=0.5, weight_decay=0.1),
    "adagrad_l2": TableOptimizer(name="adagrad", learning_rate=0.05, eps=1e-3, weight_decay=0.1),
    "rowwise_l2": TableOptimizer(name="rowwise_adagrad", learning_rate=0.05, eps=1e-3, weight_decay=0.1),
}
PLACEMENTS = ("data_parallel", "table_wise", "row_wise", "column_wise", None)


def the_case() -> Case:
    return every_case().optimized(OPTIMIZERS)


def batches() -> list[Rows]:
    generator = torch.Generator().manual_seed(3)
    return [draw_rows(the_case(), ROWS, generator) for _ in range(STEPS)]


def train_everywhere(rank: int) -> dict:
    """The case under every placement, one after another in one set of processes."""
    found = {}
    for placement in PLACEMENTS:
        case = the_case().placed(placement)
        distributed = make(case)
        losses = train(case, distributed, batches())
        tables, bias = whole_tables(distributed), distributed.tower_parameters()["tower.bias"].item()
        chosen = {n: t.placement for n, t in distributed.plan.tables.items()}
        found[placement] = (losses, tables, bias, chosen) if rank == 0 else None
    return found


@pytest.fixture(scope="module")
def reference() -> tuple[list[float], Reference]:
    reference = Reference(the_case())
    return reference.train(batches()), reference


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_placement_trains_like_one_process(world_size: int, reference: tuple) -> None:
    results = run_processes(world_size, train_everywhere, timeout=240)[0]
    expected, plain = reference
    for placement, (losses, tables, bias, chosen) in results.items():
        assert world_size == 1 or placement is None or list(chosen.values()).count(placement) > len(chosen) / 2
        assert losses == pytest.approx(expected, abs=1e-5), placement
        assert bias == pytest.approx(plain.bias, abs=1e-5)
        for name, tensors in tables.items():
            wrong = (tensors["weight"] - plain.weights[name]).abs().max().item()
            assert wrong < 1e-5, (placement, name)


def test_the_reference_learns(reference: tuple) -> None:
    losses, plain = reference
    assert losses[-1] < losses[0] / 2
    moved = {n: (w - Reference(the_case()).weights[n]).abs().max().item() for n, w in plain.weights.items()}
    assert min(moved.values()) > 1e-3  # so that 1e-5 is a small difference
