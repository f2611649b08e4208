"""A service is one worker's state: the bundle that answers, the thread that scores, what is in hand and counted."""

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from shardrec.trainer.export.loader import RowError
from shardrec.trainer.serving.batcher import Batcher
from shardrec.trainer.serving.log import complain, write_line
from shardrec.trainer.serving.measures import Measures
from shardrec.trainer.serving.opened import OpenedBundle
from shardrec.trainer.serving.settings import Settings
from shardrec.trainer.serving.wire.answers import refused
from shardrec.trainer.serving.wire.bodies import read_body
from shardrec.trainer.serving.wire.refusals import Refusal, busy, wrong


@dataclass
class Asked:
    """Asked is one request while it is answered: by which bundle, until when, and how many rows it turned out to have.

    The bundle stays the same to the end, also where another one is swapped in meanwhile.
    """

    request: Request
    opened: OpenedBundle
    deadline: float
    form: str = ""
    body: bytes = b""
    rows: int = 0


Answerer = Callable[["Service", Asked], Awaitable[Response]]


@dataclass
class Service:
    """A service holds what all requests of one worker share."""

    settings: Settings
    opened: OpenedBundle
    batcher: Batcher
    measures: Measures
    draining: bool = False
    in_hand: int = 0
    reload: Callable[[str, bool], Awaitable[dict[str, Any]]] | None = None

    def endpoint(self, name: str, answerer: Answerer) -> Callable[[Request], Awaitable[Response]]:
        """Returns the handler of an endpoint that computes: admitted, read, answered, counted; no error leaves."""

        async def handle(request: Request) -> Response:
            began = time.monotonic()
            asked = Asked(request, self.opened, began + self.settings.timeout)
            response = await self._answered(name, answerer, asked)
            if self.draining:
                response.headers["connection"] = "close"
            seconds = time.monotonic() - began
            self.measures.answered(name, response.status_code, seconds, asked.rows)
            if self.settings.access_log:
                write_line(asked.request, response, seconds, rows=asked.rows, bundle=asked.opened.name)
            return response

        return handle

    async def _answered(self, name: str, answerer: Answerer, asked: Asked) -> Response:
        try:
            with self._admitted():
                asked.body = await read_body(asked.request, self.settings.max_body, asked.deadline)
                return await answerer(self, asked)
        except Refusal as refusal:
            return refused(refusal)
        except RowError as error:
            return refused(wrong(str(error), row=error.row, field=error.feature))
        except Exception as error:  # a bug of ours: the log has it, the client a line
            complain(f"{name}: internal error", error)
            return refused(Refusal(500, "internal error; the service's log says which"))

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self.in_hand >= self.settings.max_concurrency:
            raise busy(f"{self.in_hand} requests are being answered, which are the most")
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        self.in_hand += more
        self.measures.in_hand(self.in_hand)

    def swap(self, opened: OpenedBundle) -> None:
        """Lets another bundle answer all requests that come from now on."""
        before, self.opened = self.opened, opened
        self.measures.serves(opened.name, before.name)
