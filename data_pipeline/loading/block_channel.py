"""A channel carries Python values between two processes; arrays travel as they lie in memory."""

import pickle
import socket
import struct
from typing import Any

_COUNT = struct.Struct("<q")
BUFFER_BYTES = 1 << 20
"""What the kernel keeps of a channel, so that neither side waits for the other with each message."""


class Channel:
    """A channel is one end of a pair of sockets; either process may be gone at any time.

    `send` then raises BrokenPipeError or ConnectionResetError, and `receive` EOFError.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)

    def send(self, value: Any) -> None:
        """Sends a value that can be pickled; contiguous arrays and Arrow's buffers go beside it."""
        beside: list[memoryview] = []
        head = pickle.dumps(value, protocol=5, buffer_callback=lambda buffer: beside.append(buffer.raw()))
        sizes = [len(head), *(buffer.nbytes for buffer in beside)]
        self._end.sendall(_COUNT.pack(len(sizes)) + struct.pack(f"<{len(sizes)}q", *sizes) + head)
        for buffer in beside:
            self._end.sendall(buffer)

    def receive(self) -> Any:
        """Returns the next value, whose arrays are this process's own and can be written to."""
        (count,) = _COUNT.unpack(self._exactly(_COUNT.size))
        sizes = struct.unpack(f"<{count}q", self._exactly(8 * count))
        head, *beside = [self._exactly(size) for size in sizes]
        return pickle.loads(head, buffers=beside)

    def close(self) -> None:
        """Closes this end; the other process finds out with its next message."""
        self._end.close()

    def _exactly(self, size: int) -> bytearray:
        buffer = bytearray(size)
        rest = memoryview(buffer)
        while len(rest):
            got = self._end.recv_into(rest)
            if not got:
                raise EOFError
            rest = rest[got:]
        return buffer
