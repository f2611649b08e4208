"""Pages in a real browser, where Chromium is installed: nothing is loaded, logged or wider than the window."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import shardrec as package

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0")
SECONDS = 60

CUT_OFF = """
[...document.querySelectorAll('svg text')].filter(text => {
  const inner = text.getBoundingClientRect(), outer = text.ownerSVGElement.getBoundingClientRect();
  return inner.width > 0 && (inner.left < outer.left - 1 || inner.right > outer.right + 1);
}).map(text => text.textContent)
"""
MEASURED = f"""JSON.stringify({{
  width: document.documentElement.scrollWidth, window: innerWidth, cut: {CUT_OFF},
  ground: getComputedStyle(document.body).backgroundColor,
  anchors: [...document.querySelectorAll('nav a')].every(a => document.querySelector(a.getAttribute('href')))
}})"""


@contextmanager
def browser(profile: Path) -> Iterator[str]:
    """Runs Chromium without a window; yields the address that it is spoken to at."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    environment = os.environ | {"HOME": str(profile)}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )  # fmt: skip
    assert process.stderr is not None
    try:
        address = next((match[1] for line in process.stderr if (match := re.search(r"ws://([^/ ]+)/", line))), None)
        if address is None:
            pytest.skip("Chromium does not start here")
        yield address
    finally:
        process.terminate()
        process.wait(SECONDS)
        process.stderr.close()


class Tab:
    """A tab is spoken to by Chromium's DevTools protocol."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._count = socket, 0
        self.events: list[dict[str, Any]] = []

    async def call(self, method: str, **parameters: Any) -> Any:
        """Calls a method and returns its result; events that come meanwhile are kept."""
        self._count += 1
        await self._socket.send_json({"id": self._count, "method": method, "params": parameters})
        while (message := await self._socket.receive_json()).get("id") != self._count:
            self.events.append(message)
        return message["result"]

    async def show(self, page: Path, width: int, scheme: str) -> dict[str, Any]:
        """Opens a page in a window of a width under a colour scheme, unfolds all, and measures it."""
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        self.events.clear()
        await self.call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            await self.call("Runtime.evaluate", expression="1")
        unfold = "document.querySelectorAll('details').forEach(of => of.open = true)"
        await self.call("Runtime.evaluate", expression=unfold)
        found = await self.call("Runtime.evaluate", expression=MEASURED, returnByValue=True)
        measured: dict[str, Any] = json.loads(found["result"]["value"])
        return measured


async def shown(address: str, pages: list[Path]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Returns what was measured of each page, width and scheme, and what happened meanwhile."""
    import aiohttp

    results = []
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{address}/json") as answer:
            targets = await answer.json()
        url = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
        async with session.ws_connect(url, max_msg_size=0) as socket:
            tab = Tab(socket)
            for domain in ("Page", "Runtime", "Network", "Log"):
                await tab.call(f"{domain}.enable")
            for page in pages:
                for width, scheme in ((400, "light"), (400, "dark"), (1400, "light")):
                    measured = await tab.show(page, width, scheme)
                    results.append((measured | {"asked": width, "scheme": scheme}, list(tab.events)))
    return results


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here, by which pages would be looked at")
def test_pages_fit_their_window_and_need_no_network(finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="no aiohttp here, by which Chromium is spoken to")
    other = Path(shutil.copytree(finished, tmp_path / "a run of a rather long name, without any place to break it at"))
    both = package.report([finished, other], tmp_path / "both.html")
    sliced = package.report(finished, tmp_path / "sliced.html", slices=["user", "price"])
    with browser(tmp_path / "profile") as address:
        results = asyncio.run(asyncio.wait_for(shown(address, [both, sliced]), SECONDS))
    assert len(results) == 6
    for measured, events in results:
        assert measured["window"] == measured["asked"] and measured["width"] <= measured["asked"], measured
        assert measured["cut"] == [] and measured["anchors"], measured
        loaded = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        assert len(loaded) == 1 and loaded[0].startswith("file://"), loaded
        wrong = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        assert not [event for event in events if event["method"] in wrong]
    grounds = {measured["scheme"]: measured["ground"] for measured, _ in results}
    assert grounds == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 22, 27)"}
