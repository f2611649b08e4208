"""Two gloo ranks, shared by all tests of this folder that compare ranks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from shardrec.sharding.tables.collective import ProcessGroupCollective
from tests.models.layers.normalised import train_share
from tests.models.metrics.rows import CASES, COARSE, CURVES, curves, pictures, run
from tests.processes import run_processes

Cases = dict[str, tuple[Callable[[Any, ProcessGroupCollective], Any], Any]]


@pytest.fixture(scope="session")
def two_ranks() -> list[dict[str, Any]]:
    """Results by rank and case: metrics (`coarse ...`: beyond capacity), curves, and a net with batch norm and Dice."""
    metrics = CASES | {f"coarse {name}": case for name, case in COARSE.items()}
    cases: Cases = {name: (run, case) for name, case in metrics.items()}
    cases |= {f"moments {dtype}": (train_share, dtype) for dtype in (torch.float64, torch.float32)}
    cases |= {f"{f.__name__} of {name}": (f, CASES[name]) for name in CURVES for f in (curves, pictures)}
    return run_processes(2, run_cases, cases, timeout=240)


def run_cases(rank: int, cases: Cases) -> dict[str, Any]:
    return {name: function(case, ProcessGroupCollective()) for name, (function, case) in cases.items()}
