"""The processes that this folder's tests share."""

from pathlib import Path
from typing import Any

import pytest

from tests.processes import run_processes
from tests.sharding.everywhere import CHAIN, WRITER, run_everything


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoint")


@pytest.fixture(scope="session")
def everywhere(checkpoint_folder: Path) -> dict[int, list[dict[str, Any]]]:
    """Results of `run_everything` for world sizes 1 to 4: a list by rank."""
    results: dict[int, list[dict[str, Any]]] = {}
    entries, link = None, None
    for world_size in (WRITER, *sorted({1, 2, 3, 4} - {WRITER})):
        results[world_size] = run_processes(world_size, run_everything, checkpoint_folder, entries, link, timeout=280)
        entries = entries or entries_of(results[world_size], "wrote")
        link = entries_of(results[world_size], "link") if world_size in CHAIN else link
    return results


def entries_of(results: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    """The manifest entries of all ranks' files."""
    return [entry for result in results for entry in result[what]["entries"]]
