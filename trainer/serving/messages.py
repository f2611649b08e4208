"""Messages go between the supervisor and a worker as lines of JSON over a pair of sockets."""

import asyncio
import json
import socket
from typing import Any, Self

LONGEST = 1 << 20
"""Bytes of one message, at most; paths and error lines are far shorter."""

Message = dict[str, Any]
"""A message says under `do` what is asked or told; the other keys depend on it."""


class Channel:
    """A channel is one end of the pair. Messages arrive whole and in order; None says that the other side is gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        """Returns the channel over one end of `socket.socketpair()`, which it owns from then on."""
        end.setblocking(False)
        return cls(*await asyncio.open_connection(sock=end, limit=LONGEST))

    def send(self, do: str, **facts: Any) -> None:
        """Sends a message; to a side that is gone it is lost, which `receive` tells."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps({"do": do, **facts}).encode() + b"\n")

    async def receive(self) -> Message | None:
        """Returns the next message."""
        try:
            line = await self._reader.readline()
        except (ConnectionError, ValueError):  # ValueError: longer than any message of ours
            return None
        return json.loads(line) if line.endswith(b"\n") else None

    def close(self) -> None:
        """Closes this end."""
        self._writer.close()
