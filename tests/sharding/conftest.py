"""The processes that this folder's tests share."""

from pathlib import Path
from typing import Any

import pytest

from tests.processes import run_processes
from tests.sharding.everywhere import CHAIN, WRITER, run_everything


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoint")


class Everywhere(dict[int, list[dict[str, Any]]]):
    """Results of `run_everything` by world size and rank; a world size runs when it is first asked for.

    It goes on from files of others, which then run before it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def __missing__(self, world_size: int) -> list[dict[str, Any]]:
        entries = None if world_size == WRITER else entries_of(self[WRITER], "wrote")
        at = CHAIN.index(world_size) if world_size in CHAIN else 0
        link = entries_of(self[CHAIN[at - 1]], "link") if at else None
        self[world_size] = run_processes(world_size, run_everything, self._folder, entries, link, timeout=280)
        return self[world_size]


@pytest.fixture(scope="session")
def everywhere(checkpoint_folder: Path) -> Everywhere:
    """Results of `run_everything` for world sizes 1 to 4."""
    return Everywhere(checkpoint_folder)


def entries_of(results: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    """The manifest entries of all ranks' files."""
    return [entry for result in results for entry in result[what]["entries"]]
