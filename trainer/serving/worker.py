"""A worker is one process that answers: it opens the bundle, listens, and does what the supervisor tells it.

It is started by the supervisor as `python -m shardrec.trainer.serving.worker SETTINGS LISTENER CHANNEL`: settings in
JSON, and the numbers of two sockets that it inherits.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.serving.application import application
from shardrec.trainer.serving.batcher import Batcher
from shardrec.trainer.serving.contract import changes
from shardrec.trainer.serving.log import complain
from shardrec.trainer.serving.measures import Measures
from shardrec.trainer.serving.messages import Channel, Message
from shardrec.trainer.serving.opened import OpenedBundle
from shardrec.trainer.serving.service import Service
from shardrec.trainer.serving.settings import Settings

YEAR_SECONDS = 365 * 86400.0

KEEP_ALIVE_SECONDS = 75
"""How long a connection without requests stays open: longer than the minute after which load balancers close it."""


LARGEST_HEAD = 64 << 10
"""Bytes of a request's line and headers, at most, beyond those that arrived with its first one."""


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which keeps all headers that come, with a limit on their bytes."""

    _head: int | None = None  # bytes since those with which a request began, until its headers are complete

    def data_received(self, data: bytes) -> None:
        """Reads on, unless the request's head is too large: the connection is closed then."""
        if self._head is not None:
            self._head += len(data)
            if self._head > LARGEST_HEAD:
                self.send_400_response(f"A head of {self._head:,} bytes or more, where {LARGEST_HEAD:,} are the most.")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Begins to count."""
        super().on_message_begin()
        self._head = 0

    def on_headers_complete(self) -> None:
        """Ends to count: bodies have limits of their own."""
        self._head = None
        super().on_headers_complete()


class Server(uvicorn.Server):
    """uvicorn's server, which at its end gives open connections time for a last request, and drops none."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service, self._ready = service, ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the worker."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says that requests are accepted once they are."""
        await super().startup(sockets)
        _free()
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts no more connections, answers what comes over open ones as their last, then ends.

        A client that has just sent a request over a connection that seems idle would see it reset, were it closed now.
        """
        loop = asyncio.get_running_loop()
        await self._accept_last(sockets or [])
        self._service.draining = True
        until = loop.time() + self._service.settings.drain
        while self.server_state.connections and loop.time() < until:
            await asyncio.sleep(0.02)
        await super().shutdown(None)

    async def _accept_last(self, listeners: list[socket.socket]) -> None:
        """Stops listening, and takes what has connected but was not accepted yet: the system would reset it."""
        ours = [listener.dup() for listener in listeners]
        for server in self.servers:
            server.close()
        for listener in listeners:
            listener.close()
        connected = [connection for listener in ours for connection in _accepted(listener)]
        loop = asyncio.get_running_loop()
        for connection in connected:
            with contextlib.suppress(OSError):  # it may be gone
                await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        kind: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = kind(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol


def _free() -> None:
    """Gives back what is no longer used, and spares what is from collections during requests."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _accepted(listener: socket.socket) -> Iterator[socket.socket]:
    """Yields what waits to be accepted, and closes the listener."""
    with listener:
        while True:
            try:
                yield listener.accept()[0]
            except OSError:  # nothing waits
                return


class Worker:
    """A worker serves until it is told to stop, or the supervisor is gone."""

    def __init__(self, settings: Settings, listener: socket.socket, channel: Channel) -> None:
        self._settings, self._listener, self._channel = settings, listener, channel
        self._next: OpenedBundle | None = None
        self._reloads: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def run(self) -> None:
        """Opens the bundle, says so, and serves."""
        loop = asyncio.get_running_loop()
        measures = Measures()
        batcher = Batcher(loop, self._settings.max_batch, self._settings.batch_wait, measures.batch)
        try:  # in the thread that will score: torch prepares each thread when it computes first
            opened = await batcher.call(self._opened, time.monotonic() + YEAR_SECONDS)
        except UserError as error:
            self._channel.send("failed", line=str(error))
            await asyncio.sleep(0.1)
            return
        measures.serves(opened.name)
        self._service = Service(self._settings, opened, batcher, measures, reload=self._ask_reload)
        config = uvicorn.Config(
            application(self._service),
            lifespan="off",
            ws="none",
            http=Protocol,
            log_level="error",
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            server_header=False,
            timeout_graceful_shutdown=int(self._settings.timeout) + 1,
        )
        self._server = Server(config, self._service, lambda: self._channel.send("ready", line=_line(opened)))
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        told = asyncio.create_task(self._obey())
        await self._server.serve(sockets=[self._listener])
        batcher.close()
        told.cancel()
        self._channel.close()

    def _opened(self) -> OpenedBundle:
        return OpenedBundle(self._settings.bundle, self._settings.threads)

    def _stop(self) -> None:
        self._server.should_exit = True

    async def _obey(self) -> None:
        while message := await self._channel.receive():
            await self._do(message)
        self._stop()

    async def _do(self, message: Message) -> None:
        do = message["do"]
        if do == "open":
            await self._open(message["path"], message["allow_changes"])
        elif do == "swap" and self._next is not None:
            self._service.swap(self._next)
            self._next = None
            self._channel.send("swapped")
            loop = asyncio.get_running_loop()
            loop.call_later(self._settings.timeout, _free)  # no request has the old bundle in hand by then
        elif do == "forget":
            self._next = None
        elif do == "reloaded":
            self._reloads.pop(message["asked"]).set_result(message)

    async def _open(self, path: str, allow_changes: bool) -> None:
        """Opens another bundle beside the one that answers, in a thread of its own."""
        try:
            opened = await asyncio.to_thread(OpenedBundle, path, self._settings.threads)
            if not allow_changes:
                self._check_contract(opened)
        except UserError as error:
            self._service.measures.reloaded("refused")
            self._channel.send("opened", ok=False, line=str(error))
        except Exception as error:
            complain(f"{path}: internal error", error)
            self._service.measures.reloaded("refused")
            self._channel.send("opened", ok=False, line=f"{path}: internal error; the service's log says which")
        else:
            self._next = opened
            self._service.measures.reloaded("ok")
            self._channel.send("opened", ok=True, line=_line(opened))

    def _check_contract(self, opened: OpenedBundle) -> None:
        """Raises UserError for a bundle that clients of the one that answers could not go on with."""
        served = self._service.opened
        if changed := changes(served.bundle, opened.bundle):
            raise UserError(
                f"{opened.path}: clients rely on what {served.name} reads and predicts: {changed}; allow it by "
                "--allow-changes, or serve it apart"
            )

    async def _ask_reload(self, path: str, allow_changes: bool) -> dict[str, Any]:
        """Asks the supervisor to have all workers open `path`, and returns what came of it."""
        number = len(self._reloads) + 1 + max(self._reloads, default=0)
        self._reloads[number] = asyncio.get_running_loop().create_future()
        future = self._reloads[number]
        self._channel.send("reload", path=path, allow_changes=allow_changes, asked=number)
        return await future


def _line(opened: OpenedBundle) -> str:
    run = opened.bundle.manifest.get("run", {})
    model = f" ({run['model']}, step {run['step']})" if {"model", "step"} <= set(run) else ""
    return f"{opened.path}{model}, opened in {opened.opened_in:.2f} s"


async def _serve(settings: Settings, listener: int, channel: int) -> None:
    end = await Channel.over(socket.socket(fileno=channel))
    await Worker(settings, socket.socket(fileno=listener), end).run()


def main() -> None:
    """Serves with the settings and sockets that the process was started with."""
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="shardrec serve: %(message)s")
    settings = Settings.from_json(sys.argv[1])
    uvloop = uvicorn.Config(app="", loop="auto").get_loop_factory()
    with asyncio.Runner(loop_factory=uvloop) as runner:
        runner.run(_serve(settings, int(sys.argv[2]), int(sys.argv[3])))
        sys.stderr.flush()
        os._exit(0)  # without waiting for torch's threads, or for one that opens another bundle: they hold nothing


if __name__ == "__main__":
    main()
