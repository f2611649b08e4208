"""Fixtures that all layers share, and how tests run side by side: the rules are in `tests/__init__.py`."""

import fcntl
import os
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT

# Tests run side by side, one a core: more threads would only wait for each other. Read when torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Where commands note which run folders this user trained: not in the home of who runs the tests.
_STATE = tempfile.TemporaryDirectory(prefix="shardrec-tests-state-")
os.environ["XDG_STATE_HOME"] = _STATE.name


LONGEST_FIRST = ("sharding", "trainer", "models", "data_pipeline")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real public data sets beside the project; their licences forbid a copy inside it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's, which asks for it where `-n` is given
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Gives each process one module after another; all of `tests/sharding`, whose modules share processes, is one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByModule(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/sharding" if nodeid.startswith("tests/sharding/") else nodeid.partition("::")[0]

    config.option.loadscopereorder = False  # the order is `_place`'s
    return ByModule(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begins with the longest layers where tests run side by side."""
    if hasattr(config, "workerinput"):
        items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    """Puts layers whose modules take long before those of many short ones, which keep all processes busy to the end."""
    folder = item.path.relative_to(ROOT / "tests").parts[0]
    return LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before the test's time-out begins
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Lets a test that is marked `alone` wait until no other runs, and others until it has ended."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    alone = item.get_closest_marker("alone") is not None
    # who wants to be alone holds the turn while waiting, so that others cannot pass by for ever
    with _locked(ROOT / "tests", fcntl.LOCK_EX) as turn, _locked(ROOT, fcntl.LOCK_EX if alone else fcntl.LOCK_SH):
        fcntl.flock(turn, fcntl.LOCK_UN)
        return (yield)


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[int]:
    """Locks a folder for the processes that ask this, leaving no file behind."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield descriptor
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
