"""Two gloo ranks, shared by all tests of this folder that compare ranks."""

from typing import Any

import pytest

from tests.models.gloo_ranks import on_two_ranks
from tests.models.layers.normalised import train_share
from tests.models.metrics.rows import CASES, COARSE, run


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Results by rank and case: metrics (`coarse ...` beyond their capacity), and a net with batch norm and Dice."""
    metrics = CASES | {f"coarse {name}": case for name, case in COARSE.items()}
    cases = {name: (run, case) for name, case in metrics.items()} | {"moments": (train_share, None)}
    return on_two_ranks(tmp_path_factory.mktemp("ranks"), cases)
