"""A bundle with a catalogue answers with lists of items, as its loader does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardrec.trainer.export.export import export_bundle
from shardrec.trainer.export.loader import Bundle
from shardrec.trainer.serving.application import application
from shardrec.trainer.serving.batcher import Batcher
from shardrec.trainer.serving.measures import Measures
from shardrec.trainer.serving.opened import OpenedBundle
from shardrec.trainer.serving.service import Service
from shardrec.trainer.serving.settings import Settings
from shardrec.trainer.serving.wire.arrow_bodies import write_table
from shardrec.trainer.serving.wire.bodies import ARROW
from tests.trainer.catalogue.small_catalogue import run_file, write_shop
from tests.trainer.recorded import train


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop") / "data")


@pytest.fixture(scope="module")
def opened(shop: Path) -> OpenedBundle:
    path = run_file(shop.with_name("run.yaml"), shop)
    train(path)
    export_bundle(path.with_suffix(""), shop.with_name("bundle"), checked_rows=0)
    return OpenedBundle(str(shop.with_name("bundle")), 1)


@pytest.fixture(scope="module")
def bundle(opened: OpenedBundle) -> Bundle:
    return opened.bundle


@pytest.fixture(scope="module")
def measures() -> Measures:
    return Measures()


@asynccontextmanager
async def service_of(opened: OpenedBundle, measures: Measures, **settings: Any) -> AsyncIterator[Service]:
    """A service in this process."""
    batcher = Batcher(asyncio.get_running_loop(), 100, 0.0, measures.batch)
    yield Service(Settings(opened.path, **settings), opened, batcher, measures)
    await asyncio.to_thread(batcher.close)


@asynccontextmanager
async def client_of(opened: OpenedBundle, measures: Measures, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of one."""
    async with service_of(opened, measures, **settings) as service:
        transport = httpx.ASGITransport(application(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            yield client


@pytest.fixture(scope="module")
def ask(opened: OpenedBundle, measures: Measures) -> Callable[..., httpx.Response]:
    async def answer(path: str, **body: Any) -> httpx.Response:
        async with client_of(opened, measures) as client:
            return await client.post(path, **body)

    return lambda path, **body: asyncio.run(answer(path, **body))


@pytest.fixture(scope="module")
def users(shop: Path, bundle: Bundle) -> pa.Table:
    rows = pq.read_table(shop / "test").slice(0, 4)
    return rows.select(bundle.user_columns)


def test_top_n_is_the_loaders(ask: Callable[..., httpx.Response], bundle: Bundle, users: pa.Table) -> None:
    items, scores = bundle.top_n(users, 3)
    answer = ask("/v1/top_n", json={"rows": users.to_pylist(), "n": 3}).json()
    assert answer["items"] == items
    np.testing.assert_allclose(answer["scores"], scores, rtol=1e-5)
    stream = {"content": write_table(users), "headers": {"content-type": ARROW}}
    table = pa.ipc.open_stream(ask("/v1/top_n?n=3", **stream).content).read_all()
    assert table["items"].to_pylist() == items

    seen = [row[:1] for row in items]
    answer = ask("/v1/top_n", json={"rows": users.to_pylist(), "n": 2, "seen": seen}).json()
    assert answer["items"] == [row[1:] for row in items]


def test_a_list_is_as_long_as_there_are_items(
    ask: Callable[..., httpx.Response], bundle: Bundle, users: pa.Table
) -> None:
    items, _ = bundle.top_n(users, 900)
    answer = ask("/v1/top_n", json={"rows": users.to_pylist(), "n": 900}).json()
    assert [len(row) for row in answer["scores"]] == [len(row) for row in items]
    assert None not in answer["scores"][0]


def test_items_like_an_item(ask: Callable[..., httpx.Response], bundle: Bundle, users: pa.Table) -> None:
    (ids,), _ = bundle.top_n(users.slice(0, 1), 2)
    answer = ask("/v1/similar", json={"ids": ids, "n": 3}).json()
    assert answer["items"] == bundle.similar(ids, 3)[0]


@pytest.mark.parametrize(
    ("path", "body", "status", "where"),
    [
        ("similar", {"ids": [10**12]}, 422, {"row": 0, "field": "ids"}),
        ("similar?n=3", {"ids": [1]}, 400, {"field": "n"}),
        ("similar", {"ids": [[1]]}, 400, {"row": 0, "field": "ids"}),
        ("similar", {"ids": [1.5]}, 400, {"row": 0, "field": "ids"}),
        ("similar", {"ids": []}, 400, {"field": "ids"}),
        ("top_n", {"rows": [{}], "n": 10**6}, 400, {"field": "n"}),
        ("top_n", {"rows": [{}, {}], "seen": [[]]}, 400, {"field": "seen"}),
        ("top_n", {"rows": [{}], "seen": [[{}]]}, 400, {"row": 0, "field": "seen"}),
        ("top_n", {"rows": [{}] * 1001}, 413, {"field": "rows"}),
    ],
)
def test_wrong_requests(
    ask: Callable[..., httpx.Response], path: str, body: dict[str, Any], status: int, where: dict[str, Any]
) -> None:
    answer = ask(f"/v1/{path}", json=body)
    assert answer.status_code == status, answer.text
    assert where.items() <= answer.json().items()


def test_more_requests_than_may_be_in_hand_are_told_to_come_again(opened: OpenedBundle, measures: Measures) -> None:
    async def answers() -> list[httpx.Response]:
        async with client_of(opened, measures, max_concurrency=2) as client:
            return await asyncio.gather(*(client.post("/v1/score", json={"rows": [{}]}) for _ in range(5)))

    found = asyncio.run(answers())
    assert sorted(answer.status_code for answer in found) == [422, 422, 503, 503, 503]
    assert {answer.headers.get("retry-after") for answer in found} == {None, "1"}


def test_a_body_that_does_not_arrive_is_given_up(opened: OpenedBundle, measures: Measures) -> None:
    async def answer() -> httpx.Response:
        messages = [{"type": "http.request", "body": b"{", "more_body": True}]
        sent: list[Any] = []

        async def receive() -> Any:
            return messages.pop() if messages else await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/score", "headers": headers, "query_string": b""}
        async with service_of(opened, measures, timeout=0.05) as service:
            await application(service)(scope, receive, send)
        return httpx.Response(sent[0]["status"], content=sent[1]["body"])

    found = asyncio.run(answer())
    assert found.status_code == 408
    assert "1 bytes" in found.json()["error"]
