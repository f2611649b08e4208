"""Where memory is short a kernel's call ends with a line, nothing is changed, and the process goes on."""

import ctypes
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shardrec.models.dynamic_ids import BucketGeometry
from shardrec.models.kernels.sources import compiler
from shardrec.sharding.dynamic.distinct import distinct
from shardrec.sharding.kernels.library import KernelMemoryError, library
from shardrec.sharding.updates.row_tables import RowTables
from shardrec.sharding.updates.rules import Sgd
from tests.processes import run_processes

IDS = 1 << 21
LEFT = {"update": 4 * IDS, "sum": 20 * IDS, "distinct": 30 * IDS}
"""Bytes that each call may take besides what there is: torch's part of what it wants, and not the kernel's."""


def call_without_memory(rank: int) -> dict[str, Any]:
    """Returns what each call said, and the rows after it was made once more, with memory."""
    ids, offsets, gradient = torch.arange(IDS) % 7, torch.arange(IDS + 1), torch.ones(IDS, 1)
    at_once, kept = (
        RowTables(
            [(7, 1)],
            [0],
            [Sgd(learning_rate=0.5)],
            dtypes=[torch.float32],
            device=torch.device("cpu"),
            deferred=deferred,
        )
        for deferred in (False, True)
    )
    calls: dict[str, Callable[[], object]] = {
        "update": lambda: at_once.receive(gradient, ids, offsets, None),
        "sum": lambda: kept.receive(gradient, ids, offsets, None),
        "distinct": lambda: distinct(BucketGeometry(16, 2, 8), ids),
    }
    said = {name: said_without(LEFT[name], call) for name, call in calls.items()}
    assert not at_once.weights[0].any()
    for call in calls.values():
        call()
    return {**said, "weights": at_once.weights[0].squeeze(1).tolist()}


def said_without(left: int, call: Callable[[], object]) -> str:
    """Returns what a call says that may take `left` bytes."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed by calls before is not there for this one
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + left, before[1]))
    try:
        call()
    except KernelMemoryError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    return "nothing"


def test_a_line_says_what_and_how_much() -> None:
    if compiler() is None:
        pytest.skip("no C++ compiler here")
    assert library() is not None  # compiled here, if need be, which may take longer than the process has
    (said,) = run_processes(1, call_without_memory)
    weights = said.pop("weights")
    assert weights == [-0.5 * (IDS // 7 + (row < IDS % 7)) for row in range(7)]
    whats = {"update": "updating the rows of", "sum": "summing the gradients of", "distinct": "finding the distinct of"}
    for name, line in said.items():
        assert f"{whats[name]} {IDS:,} ids needs" in line and " MiB more memory" in line and "\n" not in line
