"""Ranks meet whose agents have started them again, whatever those that ended have left, and in whichever order."""

import threading
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch.distributed as dist

from shardrec.trainer.launch.last_words import is_of_waiting
from shardrec.trainer.launch.meeting import met

SIZE = 3


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a store as torchrun's agents have one."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    yield server.port


def meetings(port: int, delays: list[float], timeout: float = 20.0) -> list[str | Exception]:
    """By rank, what all find that come to its meeting, each after a delay; or what kept it from one."""
    found: dict[int, str | Exception] = {}

    def come(rank: int, delay: float) -> None:
        time.sleep(delay)
        store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=20))
        try:
            part = met(store, rank, SIZE, timeout)
            found[rank] = part.compare_set("who was first", "", uuid.uuid4().hex).decode()
        except dist.DistStoreError as error:
            found[rank] = error

    threads = [threading.Thread(target=come, args=of_one) for of_one in enumerate(delays)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(len(delays))]


@pytest.mark.parametrize("delays", [[0, 0.2, 0.4], [0.4, 0.2, 0], [0.2, 0, 0.4]])
def test_all_come_to_one_meeting_each_time(port: int, delays: list[float]) -> None:
    first, again = meetings(port, [0, 0, 0]), meetings(port, delays)
    assert len({*first}) == len({*again}) == 1
    assert first[0] != again[0], "what was left under the first would be taken for the second's"


def test_who_waits_for_one_that_has_ended_waits_as_long_as_was_said(port: int) -> None:
    meetings(port, [0, 0, 0])
    for error in meetings(port, [0, 0], timeout=0.3):  # the third left its word, and does not come
        assert isinstance(error, dist.DistStoreError) and is_of_waiting(error)
