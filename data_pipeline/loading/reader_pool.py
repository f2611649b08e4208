"""A pool of reader processes gives a rank the rows that a reader in its own process would, in the same order."""

import os
import socket
import subprocess
import sys
import weakref
from dataclasses import replace

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.loading.block_channel import Channel
from shardrec.data_pipeline.loading.reader_process import Part, Reading
from shardrec.data_pipeline.reading.blocks import Block
from shardrec.data_pipeline.reading.gaps import Gap

GONE = (EOFError, BrokenPipeError, ConnectionResetError)
SECONDS_TO_END = 5.0
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}
_START = "import sys; sys.path[:] = {path!r}; from shardrec.data_pipeline.loading.reader_process import main; main()"


class ReaderPool:
    """A pool has each reader read shares that follow each other: of the row groups that they have in common, few are.

    Readers start with the first epoch, and stay for the following ones. They end with the pool, or with its process.
    """

    def __init__(self, reading: Reading, readers: int) -> None:
        self._reading, self._readers = reading, readers
        self._running: list[_Reader] = []
        self._is_reading = False
        self._finalizer = weakref.finalize(self, _end, self._running)
        self.rows_decoded = 0
        self.gaps: list[Gap] = []

    def start(self, epoch: int, step: int) -> None:
        """Has all readers read an epoch from a step on."""
        if self._is_reading:
            self.close()
        if not self._running:
            self._running += [_Reader() for _ in range(self._readers)]  # all import before the first is waited for
            shares, n = self._reading.shares, self._readers
            for i, running in enumerate(self._running):
                its = shares[len(shares) * i // n : len(shares) * (i + 1) // n]
                running.send(replace(self._reading, shares=its, memory=self._reading.memory // n))
        for running in self._running:
            running.send((epoch, step))
        self._is_reading = True

    def take(self, step: int) -> list[Block]:
        """Returns this rank's rows of global batch `step`; steps are taken in order.

        Raises UserError, the one that a reader has met, or one that names a reader that is gone.
        """
        parts = [running.part(step) for running in self._running]
        self.rows_decoded += sum(part.decoded for part in parts)
        self.gaps += [gap for part in parts for gap in part.gaps]
        if step == self._reading.order.steps_per_epoch - 1:
            self._is_reading = False
        return [part.block for part in parts if part.block is not None]

    def close(self) -> None:
        """Ends the readers; `start` makes new ones."""
        _end(self._running)
        self._is_reading = False


class _Reader:
    """A reader is one process, and the channel to it."""

    def __init__(self) -> None:
        ours, its = socket.socketpair()
        self.channel = Channel(ours)
        with its:
            command = [sys.executable, "-c", _START.format(path=sys.path), str(its.fileno())]
            self.process = subprocess.Popen(
                command, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, env=os.environ | _ONE_THREAD
            )

    def part(self, step: int) -> Part:
        try:
            found = self.channel.receive()
        except GONE:
            raise self._is_gone(f"before step {step + 1} of its epoch") from None
        if isinstance(found, UserError):
            raise found
        assert isinstance(found, Part)
        return found

    def send(self, value: object) -> None:
        try:
            self.channel.send(value)
        except GONE:
            raise self._is_gone("at its start") from None

    def _is_gone(self, when: str) -> UserError:
        try:
            status = self.process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            status = None
        how = "" if status is None else f" (by signal {-status})" if status < 0 else f" (with exit status {status})"
        return UserError(
            f"data.readers: reader process {self.process.pid} ended {when}{how}; where the system took its memory, "
            "lower data.readers or data.memory"
        )


def _end(running: list[_Reader]) -> None:
    """Ends reader processes: each finds its channel closed, or is told so."""
    for reader in running:
        reader.channel.close()
        reader.process.terminate()
    for reader in running:
        try:
            reader.process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            reader.process.kill()
            reader.process.wait()
    running.clear()
