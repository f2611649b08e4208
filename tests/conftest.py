"""Fixtures that all layers share, and how tests run side by side: the rules are in `tests/__init__.py`."""

import fcntl
import gc
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from shardrec.trainer.cli import THREADS_WAIT
from tests import ROOT
from tests.object_store import ObjectStore, object_store
from tests.processes import forkserver

# Tests run side by side, one a core: more threads would only wait for each other. Read when torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(*THREADS_WAIT)  # where a test asks for more, as the command has it

# What a case takes is no property of the code: machines are shared.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# Where commands note which run folders this user trained: not in the home of who runs the tests.
_STATE = tempfile.TemporaryDirectory(prefix="shardrec-tests-state-")
os.environ["XDG_STATE_HOME"] = _STATE.name


MANY_MODULES = 50
"""As many imported modules are worth a collection, after which they are looked at no more."""

LONGEST_FIRST = (
    "trainer/launch", "emulated_cuda", "sharding", "docs", "trainer", "fuzzing", "faults", "models", "data_pipeline",
)  # fmt: skip
"""Folders of tests that run side by side, in the order in which they begin."""

IN_ONE_PROCESS = ("tests/sharding/", "tests/trainer/launch/")
"""Folders whose modules share processes, or each start a Ray, of which one at a time is enough for a machine."""


def pytest_configure(config: pytest.Config) -> None:
    """Hides GPUs from this process and from all that it starts, unless the tests that need one are asked for.

    So a test of the CPU is one on every machine, whatever it says of `launch.device`.
    """
    gc.disable()  # until all is collected, of which nothing is garbage
    if not _asks_for_gpus(config):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when torch first looks for GPUs, which no conftest does


def _asks_for_gpus(config: pytest.Config) -> bool:
    """Says whether this is `pytest -m gpu`."""
    return bool(config.option.markexpr.strip() == "gpu")


@pytest.fixture(scope="module", autouse=True)
def _no_process_group_for_the_next() -> Iterator[None]:
    """Ends the process group that a module's sessions made, where its tests do not: the next one makes its own."""
    yield
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


@pytest.fixture(scope="module", autouse=True)
def _imported_for_good() -> Iterator[None]:
    """Leaves what a module's tests imported out of all later collections, as `pytest_collection_finish` does."""
    before = len(sys.modules)
    yield
    if len(sys.modules) > before + MANY_MODULES:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _forked_where_spawned() -> Iterator[None]:
    """Forks what a command in this process would spawn: a spawned process imports all again, which takes seconds.

    What a command in a process of its own spawns is spawned.
    """
    get_context: Any = multiprocessing.get_context
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            multiprocessing,
            "get_context",
            lambda method=None: forkserver() if method == "spawn" else get_context(method),
        )
        yield


@pytest.fixture(scope="session")
def store_server() -> Iterator[ObjectStore]:
    """One object store for all tests of this process."""
    with object_store() as store:
        yield store


@pytest.fixture
def store(store_server: ObjectStore, tmp_path: Path) -> Iterator[ObjectStore]:
    """The object store as this process sees it, with mirrors of the test's own, and pauses that take no time."""
    with store_server.seen(tmp_path / "mirrors"):
        yield store_server


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real public data sets beside the project; their licences forbid a copy inside it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture(params=["emulated", pytest.param("real", marks=pytest.mark.gpu)])
def gpu(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test on the emulated GPU, and under `pytest -m gpu` on a real one; which of the two it is."""
    if request.param == "real":
        yield "real"
        return
    from tests.emulated_cuda.emulated import emulated_cuda

    with emulated_cuda():
        yield "emulated"


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's, which asks for it where `-n` is given
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Gives each process one module after another; a folder of `IN_ONE_PROCESS` counts as one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByModule(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder = next((folder for folder in IN_ONE_PROCESS if nodeid.startswith(folder)), None)
            return folder or nodeid.partition("::")[0]

    config.option.loadscopereorder = False  # the order is `_place`'s
    return ByModule(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` where there is none for them; begins with the longest layers of those side by side."""
    if not _asks_for_gpus(config):
        _skip_marked(items, "needs a GPU: make gpu-check")
    elif not _finds_gpus():
        _skip_marked(items, "needs a GPU: torch finds none here")
    if hasattr(config, "workerinput"):
        items.sort(key=_place)


def pytest_collection_finish() -> None:
    """Leaves what modules made out of all collections of garbage, which would look through it again and again.

    Every run of the product ends with a collection; with torch and Ray loaded it takes longer than a small run does.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


def _finds_gpus() -> bool:
    import torch

    return torch.cuda.is_available()


def _skip_marked(items: list[pytest.Item], reason: str) -> None:
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


def _place(item: pytest.Item) -> int:
    """Puts layers whose modules take long before those of many short ones, which keep all processes busy to the end."""
    name = item.path.relative_to(ROOT / "tests").as_posix()
    found = (place for place, folder in enumerate(LONGEST_FIRST) if name.startswith(f"{folder}/"))
    return next(found, len(LONGEST_FIRST))


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
