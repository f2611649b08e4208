"""What an iterator's background thread makes ends with the generator, whoever drops that."""

import threading
from collections.abc import Iterator

import pytest

from shardrec.data_pipeline.loading.prefetch import prefetched


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "shardrec-prefetch"]


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_generator_that_its_own_thread_drops_ends() -> None:
    """As the garbage collector may, which runs in any thread."""
    held, handed_over = [], threading.Event()

    def made() -> Iterator[int]:
        yield 1
        handed_over.wait(10)
        held.clear()  # the last that holds it
        yield 2

    before = {*readers()}
    held.append(prefetched(made(), depth=2))
    assert next(held[0]) == 1
    (thread,) = {*readers()} - before
    handed_over.set()
    thread.join(10)
    assert not held and not thread.is_alive()
