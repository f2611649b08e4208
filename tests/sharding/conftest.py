"""The processes that this folder's tests share."""

from pathlib import Path
from typing import Any

import pytest

from tests.processes import run_processes
from tests.sharding.everywhere import WRITER, run_everything


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoint")


@pytest.fixture(scope="session")
def everywhere(checkpoint_folder: Path) -> dict[int, list[dict[str, Any]]]:
    """Results of `run_everything` for world sizes 1 to 4: a list by rank."""
    results = {WRITER: run_processes(WRITER, run_everything, checkpoint_folder, None, timeout=280)}
    entries = [entry for result in results[WRITER] for entry in result["wrote"]["entries"]]
    for world_size in {1, 2, 3, 4} - {WRITER}:
        results[world_size] = run_processes(world_size, run_everything, checkpoint_folder, entries, timeout=280)
    return results
