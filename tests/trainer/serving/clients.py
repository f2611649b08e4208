"""Clients that ask a service without pause, while its bundles and workers change."""

import http.client
import json
import threading
import time
from urllib.parse import urlsplit

from tests.trainer.serving.bundles import ROWS

BODY = json.dumps({"rows": ROWS[:3]})


class Clients:
    """Clients that ask over open connections until they can no longer connect, and keep every answer."""

    def __init__(self, url: str, count: int) -> None:
        self._address = urlsplit(url)
        self.answers: list[tuple[float, ...]] = []
        self.dropped: list[str] = []
        self._answered = [0] * count
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection(self._address.hostname or "", self._address.port, timeout=30)
        while True:
            try:
                if connection.sock is None:
                    connection.connect()
            except OSError:
                return
            try:
                connection.request("POST", "/v1/score", BODY, {"content-type": "application/json"})
                answer = connection.getresponse()
                content = json.loads(answer.read())
            except (OSError, http.client.HTTPException) as error:
                self.dropped.append(repr(error))
                return
            if answer.status == 200:
                self.answers.append(tuple(content["scores"]))
                self._answered[number] += 1
            else:
                self.dropped.append(content["error"])

    def wait_for(self, count: int) -> None:
        """Waits until each client has so many more answers."""
        wanted = [answered + count for answered in self._answered]
        while any(a < w for a, w in zip(self._answered, wanted, strict=True)) and not self.dropped:
            time.sleep(0.005)

    def end(self) -> None:
        for thread in self._threads:
            thread.join()
