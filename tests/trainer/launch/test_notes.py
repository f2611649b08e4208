"""Notes for ranks that torchrun starts again: left in its agents' store, for other processes of the same launch."""

import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest
import torch.distributed as dist

from shardrec.trainer.launch.notes import has_note, leave_note, take_note_back
from tests.processes import forkserver


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A store as torchrun's agents share one, and the variables by which their ranks find it."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")  # as of an agent whose own ranks had not failed
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(server.port))
    yield


def leaves(answer: Connection, port: str, name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }.items():
            patch.setenv(key, value)
        leave_note(name)
        answer.send(has_note(name))


def test_a_note_is_for_those_who_come_after(agents: None) -> None:
    assert not has_note("began")
    receive, send = multiprocessing.Pipe(duplex=False)
    earlier = forkserver().Process(target=leaves, args=(send, os.environ["MASTER_PORT"], "began"))
    earlier.start()
    assert receive.recv() is False, "it would go on with what itself has begun"
    earlier.join()
    assert has_note("began") and not has_note("ended")
    take_note_back("began")
    assert not has_note("began")


def test_without_a_store_the_agents_count_is_gone_by(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_note("began")
    assert not has_note("began")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert has_note("began")
