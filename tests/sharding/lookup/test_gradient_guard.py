"""Gradients that would spoil rows reach no kernel: of any optimizer, placement, kind of lookup and rank."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from shardrec.models.inputs import PooledEmbeddings
from shardrec.sharding.tables.magnitudes import LARGEST_GRADIENT
from shardrec.sharding.updates.context import UpdateContext
from tests.sharding.cases import Case, draw_rows, every_case, make, share, table, whole_tables
from tests.sharding.everywhere import FURTHER, OPTIMIZERS, spoil_gradients

SPOILED = (math.nan, math.inf, 1e30)


def check_unspoiled(found: dict[str, Any]) -> None:
    """Every value is finite, and what a step has is not: no state came of the gradient that was stopped."""
    for name, tensors in found["after"].items():
        for tensor, values in tensors.items():
            assert values.isfinite().all(), (name, tensor)
            assert values.abs().max() < 1e6, (name, tensor)


@pytest.mark.parametrize("value", SPOILED)
def test_one_rank(value: float) -> None:
    found = spoil_gradients(value, spoiled_rank=0)
    check_unspoiled(found)
    assert all(found["stopped"])


@pytest.mark.parametrize("world_size", FURTHER)
def test_of_several_ranks_one_has_such_a_gradient(world_size: int, everywhere: dict) -> None:
    """It alone stops it; what the others send is learned from."""
    found = [of_rank["spoiled"] for of_rank in everywhere[world_size]]
    check_unspoiled(found[0])
    assert [all(f["stopped"]) for f in found] == [rank == 1 for rank in range(world_size)]
    assert [any(f["stopped"]) for f in found] == [rank == 1 for rank in range(world_size)]
    moved = [n for n, b in found[0]["before"].items() if not torch.equal(b["weight"], found[0]["after"][n]["weight"])]
    assert len(moved) > len(found[0]["before"]) / 2


def test_half_precision_rows() -> None:
    case = every_case().optimized({"sgd": OPTIMIZERS["sgd"], "adagrad": OPTIMIZERS["adagrad"]})
    case = case.changed(lambda table: replace(table, dtype="fp16"))
    assert all(step_with(case, math.inf)["stopped"])


@pytest.mark.parametrize("share_of_largest", [0.5, 2.0])
def test_the_bound_is_on_the_norm_of_all_of_a_parts_vectors(share_of_largest: float) -> None:
    """Just below it a gradient is used as it is; above it, not at all."""
    case = Case({"fields": PooledEmbeddings({"a": table("t", 9, 4, optimizer=OPTIMIZERS["sgd"])})}, {"a": 1})
    norm = step_with(case, 1.0)["norm"]
    found = step_with(case, share_of_largest * LARGEST_GRADIENT / norm)
    assert found["moved"] == (share_of_largest < 1) and any(found["stopped"]) == (share_of_largest > 1)


def step_with(case: Case, value: float) -> dict[str, Any]:
    """One step of a loss times `value`: the largest norm of a part's gradient, what was stopped, whether rows moved."""
    distributed = make(case)
    before = whole_tables(distributed)
    norms: list[float] = []
    passed = distributed.lookup.guard._passed

    def counted(part: int, gradient: torch.Tensor) -> torch.Tensor | None:
        norms.append(float(gradient.norm()))
        return passed(part, gradient)

    distributed.lookup.guard._passed = counted  # type: ignore[method-assign]
    distributed.begin(UpdateContext(0))
    rows = draw_rows(case, 12, torch.Generator().manual_seed(1))
    total, _ = distributed.module(share(case, rows, 0, 1, distributed.lookup))
    (total * value).backward()
    distributed.step()
    after = whole_tables(distributed)
    assert all(t.isfinite().all() for tensors in after.values() for t in tensors.values())
    return {
        "norm": max(norms),
        "stopped": distributed.lookup.guard.stopped(torch.device("cpu")).tolist(),
        "moved": any(not torch.equal(before[n]["weight"], after[n]["weight"]) for n in after),
    }
