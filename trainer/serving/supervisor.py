"""The supervisor holds the port, starts workers, and has all of them open the next bundle before any of them swaps.

It imports neither torch nor the server: it is small, and nothing in a request or a bundle can end it.
"""

import asyncio
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.serving.log import say
from shardrec.trainer.serving.messages import Channel, Message
from shardrec.trainer.serving.settings import Settings, check_folder

T = TypeVar("T")

FIGURES = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that tells workers' prometheus_client the folder in which each of them counts."""

BACKLOG = 2048
"""Connections that wait to be accepted, at most."""

SECONDS_TO_OPEN = 300.0
"""How long a worker has for opening a bundle."""

QUICK_DEATHS, QUICK_SECONDS = 5, 10.0
"""After so many workers that lived for less than so long, one after another, the service gives up."""

SECONDS_TO_END = 5.0
"""How long workers have at the end, beyond the timeout of requests and the drain."""


class Process:
    """One worker's process, and the channel to it."""

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self.process, self.channel = process, channel
        self.began = time.monotonic()
        self.serving = False
        self.said: asyncio.Queue[Message] = asyncio.Queue()

    async def hear(self, kind: str) -> Message | None:
        """Returns the worker's next message of this kind; None where it is gone. One that takes too long is ended."""
        try:
            async with asyncio.timeout(SECONDS_TO_OPEN):
                while True:
                    message = await self.said.get()
                    if message["do"] in (kind, "failed", "gone"):
                        return None if message["do"] == "gone" else message
        except TimeoutError:
            self.process.kill()
            return None


class Supervisor:
    """A supervisor serves until it is told to end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._current = os.path.realpath(settings.bundle)
        self._workers: list[Process] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._swapping = asyncio.Lock()
        self._ended = asyncio.Event()
        self._failure: str | None = None
        self._quick_deaths = 0

    async def run(self) -> None:
        """Serves. Raises UserError where the port or the bundle cannot be had, or workers do not live."""
        loop = asyncio.get_running_loop()
        self._listener = listen(self._settings.host, self._settings.port)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ended.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_current)
        try:
            started = [await self._start() for _ in range(self._settings.workers)]
            opened = await self._unless_ended(self._all_ready(started))
            if opened is not None:
                say(opened[0])
                say(f"listening on {address(self._listener)} with {len(started)} worker(s); Ctrl-C or SIGTERM ends it")
                if self._settings.watch:
                    self._spawn(self._watch())
                await self._ended.wait()
        finally:
            self._ended.set()
            await self._end()
        if self._failure is not None:
            raise UserError(self._failure)
        say("ended before it served" if opened is None else "ended; every request in hand was answered")

    async def _unless_ended(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Returns what comes of `work`; None where the service is to end before that is known."""
        doing, ending = asyncio.create_task(work), asyncio.create_task(self._ended.wait())
        await asyncio.wait((doing, ending), return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if doing.done():
            return doing.result()
        doing.cancel()
        return None

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self) -> Process:
        """Starts one worker, which inherits the port."""
        ours, theirs = socket.socketpair()
        settings = replace(self._settings, bundle=self._current)
        sockets = (self._listener.fileno(), theirs.fileno())
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "shardrec.trainer.serving.worker", settings.to_json(), *map(str, sockets)),
            pass_fds=sockets,
            process_group=0,  # Ctrl-C of a terminal comes here alone
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(settings.threads)},
        )
        theirs.close()
        worker = Process(process, await Channel.over(ours))
        self._workers.append(worker)
        self._spawn(self._listen_to(worker))
        return worker

    async def _all_ready(self, workers: list[Process]) -> list[str]:
        return [await self._ready(worker) for worker in workers]

    async def _ready(self, worker: Process) -> str:
        """Waits until a worker serves, and returns what it opened. Raises UserError where it does not."""
        message = await worker.hear("ready")
        if message is None:
            raise UserError("a worker ended before it served")
        if message["do"] == "failed":
            raise UserError(message["line"])
        worker.serving = True
        return str(message["line"])

    async def _listen_to(self, worker: Process) -> None:
        """Takes a worker's messages until it is gone, and starts another one then."""
        while message := await worker.channel.receive():
            if message["do"] == "reload":
                self._spawn(self._answer_reload(worker, message))
            else:
                worker.said.put_nowait(message)
        worker.said.put_nowait({"do": "gone"})
        status = await worker.process.wait()
        for file in Path(os.environ[FIGURES]).glob(f"gauge_live*_{worker.process.pid}.db"):
            file.unlink()  # of what it counted, what it had in hand is gone with it
        worker.channel.close()
        self._workers.remove(worker)
        if worker.serving and not self._ended.is_set():
            say(f"a worker ended ({_why(status)}); starting another one")
            await self._replace(worker)

    async def _replace(self, gone: Process) -> None:
        quick = time.monotonic() - gone.began < QUICK_SECONDS
        self._quick_deaths = self._quick_deaths + 1 if quick else 0
        try:
            if self._quick_deaths >= QUICK_DEATHS:
                raise UserError(f"{QUICK_DEATHS} workers ended within {QUICK_SECONDS:.0f} s of their start")
            async with self._swapping:  # it opens what the others answer from
                await self._ready(await self._start())
        except UserError as error:
            self._failure = str(error)
            self._ended.set()

    # ------------------------------------------------------------ another bundle

    async def _answer_reload(self, worker: Process, message: Message) -> None:
        ok, line = await self._reload(message["path"], message["allow_changes"])
        worker.channel.send("reloaded", asked=message["asked"], ok=ok, line=line)

    def _reload_current(self) -> None:
        """Begins to reload what the service's own path leads to."""
        self._spawn(self._reload(self._settings.bundle, self._settings.allow_changes))

    async def _reload(self, path: str, allow_changes: bool) -> tuple[bool, str]:
        """Has all workers open what `path` leads to, and swap if all could; else they go on as before."""
        async with self._swapping:
            target = os.path.realpath(path)
            workers = [worker for worker in self._workers if worker.serving]
            for worker in workers:
                worker.channel.send("open", path=target, allow_changes=allow_changes)
            answers = [await worker.hear("opened") for worker in workers]
            refused = [a["line"] for a in answers if a is not None and not a["ok"]]
            if refused:
                for worker in workers:
                    worker.channel.send("forget")
                say(f"reload refused, {self._current} goes on serving: {refused[0]}")
                return False, refused[0]
            self._current = target
            for worker in workers:
                worker.channel.send("swap")
            for worker in workers:
                await worker.hear("swapped")
            lines = [a["line"] for a in answers if a is not None]
            say(f"reloaded: {lines[0] if lines else target}")
            return True, target

    async def _watch(self) -> None:
        """Reloads when the path of the bundle leads elsewhere than before."""
        seen, lost = self._current, ""
        while not self._ended.is_set():
            await asyncio.sleep(self._settings.watch)
            target = os.path.realpath(self._settings.bundle)
            if target == seen:
                lost = ""
            elif os.path.isdir(target):
                seen, lost = target, ""
                await self._reload(self._settings.bundle, self._settings.allow_changes)
            elif target != lost:
                lost = target
                say(f"{self._settings.bundle} leads to {target}, where no bundle is; {self._current} goes on serving")

    # ------------------------------------------------------------ the end

    async def _end(self) -> None:
        """Lets workers answer what they have in hand, and waits for them."""
        self._listener.close()
        processes = [worker.process for worker in self._workers]
        for process in processes:
            if process.returncode is None:
                process.terminate()
        try:
            async with asyncio.timeout(self._settings.timeout + self._settings.drain + SECONDS_TO_END):
                for process in processes:
                    await process.wait()
        except TimeoutError:
            say("a worker did not end in time, and was killed")
            for process in processes:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        for task in list(self._tasks):
            task.cancel()


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens. Raises UserError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot listen on {host}, port {port}: {why}; give others by --host and --port") from None
    listener.setblocking(False)
    return listener


def address(listener: socket.socket) -> str:
    """Returns the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _why(status: int) -> str:
    return f"by {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def serve(settings: Settings) -> None:
    """Serves a bundle until SIGTERM or SIGINT. Raises UserError where it cannot."""
    check_folder(settings.bundle)
    with tempfile.TemporaryDirectory(prefix="shardrec-serve-") as figures:
        os.environ[FIGURES] = figures
        asyncio.run(Supervisor(settings).run())
