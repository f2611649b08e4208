"""A running service answers as its bundle scores, tells what is wrong with a request, and goes on."""

import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.export.loader import Bundle
from shardrec.trainer.serving.opened import OpenedBundle
from shardrec.trainer.serving.wire.arrow_bodies import write_table
from shardrec.trainer.serving.wire.bodies import ARROW
from tests import ROOT
from tests.trainer.serving.bundles import ROWS, broken, calibrated, changed, deepfm_bundle, endless
from tests.trainer.serving.clients import Clients
from tests.trainer.serving.running import Running

OPTIONS = ("--workers", "2", "--threads", "1", "--access-log", "--max-rows", "50", "--max-body", "20kB")
TOKEN = "abc"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deepfm_bundle(tmp_path_factory.mktemp("serving"))


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return Bundle(folder)


@pytest.fixture(scope="module")
def current(folder: Path) -> Path:
    """A link to the bundle that is served."""
    link = folder.with_name("current")
    link.symlink_to(folder)
    return link


@pytest.fixture(scope="module")
def service(current: Path) -> Iterator[Running]:
    """What all tests here ask; the last one ends it."""
    with Running(current, *OPTIONS, SHARDREC_ADMIN_TOKEN=TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: Running) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


def arrow(table: pa.Table) -> dict[str, Any]:
    return {"content": write_table(table), "headers": {"content-type": ARROW}}


def test_json_and_arrow_score_as_the_loader_does(client: httpx.Client, bundle: Bundle) -> None:
    answer = client.post("/v1/score", json={"rows": ROWS})
    assert answer.status_code == 200
    np.testing.assert_array_equal(np.float32(answer.json()["scores"]), bundle.score(ROWS))
    answer = client.post("/v1/score", **arrow(pa.Table.from_pylist(ROWS)))
    assert answer.headers["content-type"] == ARROW
    np.testing.assert_array_equal(pa.ipc.open_stream(answer.content).read_all()["scores"], bundle.score(ROWS))


def test_candidates_are_ranked(client: httpx.Client, bundle: Bundle) -> None:
    context = {name: value for name, value in ROWS[0].items() if name not in ("item", "price")}
    candidates = [{"item": row["item"], "price": row["price"]} for row in ROWS]
    scores = bundle.score([context | candidate for candidate in candidates])
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    answer = client.post("/v1/rank", json={"context": context, "candidates": candidates, "n": 5}).json()
    assert answer["candidates"] == order[:5]
    np.testing.assert_allclose(answer["scores"], scores[order[:5]], rtol=1e-5)

    bids = [1.0 + i % 3 for i in range(len(candidates))]
    ecpm = [1000 * float(score) * bid for score, bid in zip(scores, bids, strict=True)]
    reserve = sorted(ecpm)[20] + 1e-3
    asked = {"context": context, "candidates": candidates, "bids": bids, "reserve": reserve}
    answer = client.post("/v1/rank", json=asked).json()
    assert answer["candidates"] == [i for i in sorted(range(40), key=lambda i: -ecpm[i]) if ecpm[i] >= reserve]
    np.testing.assert_allclose(answer["ecpm"], sorted((e for e in ecpm if e >= reserve), reverse=True), rtol=1e-5)


def rows_with(**changed: Any) -> bytes:
    """Three rows, whose last one differs."""
    return json.dumps({"rows": [*ROWS[:2], ROWS[2] | changed]}).encode()


WRONG: dict[str, tuple[str, bytes, int, dict[str, Any]]] = {
    "no JSON": ("score", b'{"rows": [', 400, {}),
    "NaN": ("score", b'{"rows": [{"price": NaN}]}', 400, {}),
    "no UTF-8": ("score", b'{"rows": [{"\xff": 1}]}', 400, {}),
    "deep": ("score", b"[" * 9000, 400, {}),
    "no object": ("score", b"[1]", 400, {}),
    "no rows": ("score", b"{}", 400, {"field": "rows"}),
    "empty rows": ("score", b'{"rows": []}', 400, {"field": "rows"}),
    "other key": ("score", b'{"rows": [], "row": 1}', 400, {"field": "row"}),
    "a row that is none": ("score", b'{"rows": [{}, 3]}', 400, {"row": 1}),
    "unknown column": ("score", rows_with(itm=1), 422, {"row": 2, "field": "itm"}),
    "a string for an id": ("score", rows_with(item="i7"), 422, {"row": 2, "field": "item"}),
    "null for an id": ("score", rows_with(item=None), 422, {"row": 2, "field": "item"}),
    "a list for an id": ("score", rows_with(item=[3]), 422, {"row": 2, "field": "item"}),
    "a fraction for an id": ("score", rows_with(item=1.5), 422, {"row": 2, "field": "item"}),
    "a fraction in a list": ("score", rows_with(shelves=[1, 2.5]), 422, {"row": 2, "field": "shelves"}),
    "a number past float32": ("score", rows_with(price=1e300), 422, {"row": 2, "field": "price"}),
    "an object for an id": ("score", rows_with(item={"a": 1}), 422, {"row": 2, "field": "item"}),
    "an id that is out of range": ("score", rows_with(item=10**6), 422, {"row": 2, "field": "item"}),
    "an id of 80 bits": ("score", rows_with(item=2**80), 422, {"row": 2, "field": "item"}),
    "an id for a list": ("score", rows_with(shelves=3), 422, {"row": 2, "field": "shelves"}),
    "text for a number": ("score", rows_with(price="cheap"), 422, {"row": 2, "field": "price"}),
    "too many rows": ("score", json.dumps({"rows": [{}] * 51}).encode(), 413, {"field": "rows"}),
    "no context": ("rank", b'{"candidates": [{}]}', 400, {"field": "context"}),
    "a bid that is none": ("rank", b'{"context": {}, "candidates": [{}], "bids": ["a"]}', 422, {"field": "bids"}),
    "a parameter of the URL": ("score?rows=3", b"{}", 400, {"field": "rows"}),
    "bids of another length": ("rank", b'{"context": {}, "candidates": [{}], "bids": []}', 400, {"field": "bids"}),
    "a bid that is negative": ("rank", b'{"context": {}, "candidates": [{}], "bids": [-1]}', 422, {"field": "bids"}),
    "a reserve without bids": ("rank", b'{"context": {}, "candidates": [{}], "reserve": 1}', 400, {"field": "reserve"}),
    "n of nothing": ("rank", b'{"context": {}, "candidates": [{}], "n": 0}', 400, {"field": "n"}),
    "no catalogue": ("top_n", json.dumps({"rows": ROWS[:1]}).encode(), 501, {}),
    "no catalogue of items": ("similar", b'{"ids": [1]}', 501, {}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_told_what_is_wrong(client: httpx.Client, name: str) -> None:
    endpoint, body, status, where = WRONG[name]
    answer = client.post(f"/v1/{endpoint}", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert told["error"] and "\n" not in told["error"] and "Traceback" not in told["error"]
    assert where.items() <= told.items()


@pytest.mark.parametrize("column", ["price", "item"])
def test_wrong_rows_of_arrow_name_row_and_field(client: httpx.Client, column: str) -> None:
    rows = pa.Table.from_pylist(ROWS)
    wrong = pa.array([1.0, float("inf"), *range(38)] if column == "price" else [1, 10**9, *range(38)])
    answer = client.post("/v1/score", **arrow(rows.set_column(rows.column_names.index(column), column, wrong)))
    assert (answer.status_code, answer.json()["field"]) == (422, column)
    assert answer.json()["row"] == 1
    answer = client.post("/v1/score", **arrow(rows.rename_columns({column: f"{column}s"})))
    assert (answer.status_code, answer.json()["field"]) == (422, f"{column}s")


def test_bodies_are_refused_by_size_type_and_place(client: httpx.Client) -> None:
    rows = {"content-type": "application/json"}
    assert client.post("/v1/score", content=b" " * 20_001, headers=rows).status_code == 413
    chunks = (b" " * 1000 for _ in range(50))  # sent without a length
    assert client.post("/v1/score", content=chunks, headers=rows).status_code == 413
    assert client.post("/v1/score", content=b"{}", headers={"content-type": "text/csv"}).status_code == 415
    assert client.post("/v1/score", content=b"{}").status_code == 415
    assert client.post("/v1/rank", content=b"", headers={"content-type": ARROW}).status_code == 415
    assert client.post("/v1/score", content=b"{}", headers=rows | {"content-encoding": "gzip"}).status_code == 415
    for answer, status in (
        (client.post("/v1/score/", json={}), 404),  # no redirect, which clients would follow without the body
        (client.get("/v1/score"), 405),
        (client.post("/v2/score"), 404),
        (client.get("/admin"), 404),
    ):
        assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert client.post("/admin/reload", json={}, headers={"authorization": "Bearer abd"}).status_code == 401
    token = {"authorization": f"Bearer {TOKEN}"}
    assert client.post("/admin/reload", json={"bundle": "x" * 4096}, headers=token).status_code == 400


def test_a_head_without_end_is_given_up(service: Running) -> None:
    """Headers are kept until all of them are there, which is no reason to keep any number of them."""
    sent = 0
    address = urlsplit(service.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nx: ")
        with contextlib.suppress(ConnectionError):
            while sent < 64 << 20:
                sent += connection.send(b"a" * 4096)
    assert sent < 64 << 20
    assert httpx.get(f"{service.url}/health").status_code == 200


def test_good_and_bad_requests_at_once_get_each_their_own_answer(service: Running, bundle: Bundle) -> None:
    """Which is also what batches of several requests have to give."""
    expected = bundle.score(ROWS)

    def ask(first: int) -> None:
        with service.client() as client:
            for place in range(first, first + 40):
                row = ROWS[place % 40]
                if place % 5 == 0:
                    answer = client.post("/v1/score", json={"rows": [row, row | {"item": -1}]})
                    assert (answer.status_code, answer.json()["row"]) == (422, 1)
                else:
                    answer = client.post("/v1/score", json={"rows": [row]})
                    np.testing.assert_allclose(answer.json()["scores"], expected[place % 40], rtol=1e-5)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(8)))
    figures = metrics(service)
    assert figures["shardrec_batch_requests_sum"] > figures["shardrec_batch_requests_count"]  # some were together


def metrics(service: Running) -> dict[str, float]:
    """Figures by name and labels."""
    text = httpx.get(f"{service.url}/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {s.name + "".join(f" {k}={v}" for k, v in sorted(s.labels.items())): s.value for s in samples}


def test_requests_are_counted_and_logged(client: httpx.Client, service: Running) -> None:
    wanted = {
        "shardrec_requests_total endpoint=score status=200": 2,
        "shardrec_requests_total endpoint=score status=400": 1,
        "shardrec_rows_total endpoint=score": 6,
        "shardrec_request_seconds_count endpoint=score": 3,
    }
    before = metrics(service)
    for rows in (ROWS[:2], ROWS[:4], []):
        client.post("/v1/score", json={"rows": rows})
    after = metrics(service)
    assert {name: after[name] - before.get(name, 0) for name in wanted} == wanted
    assert after["shardrec_requests_in_hand"] == 0
    assert after["shardrec_bundle_workers bundle=deepfm"] == 2
    lines = [json.loads(line) for line in service.access[-3:]]
    assert [(line["path"], line["status"], line["rows"]) for line in lines] == [
        ("/v1/score", 200, 2),
        ("/v1/score", 200, 4),
        ("/v1/score", 400, 0),
    ]


def test_a_service_says_what_it_is(client: httpx.Client, bundle: Bundle) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}
    model = client.get("/v1/model").json()
    assert (model["columns"], model["run"]["model"], model["retrieves"]) == (bundle.columns, "deepfm", False)


def test_openapi_describes_the_columns(client: httpx.Client, bundle: Bundle) -> None:
    told = client.get("/openapi.json").json()
    row = told["components"]["schemas"]["Row"]
    assert set(row["properties"]) == set(bundle.columns)
    assert set(row["required"]) == {name for name, kind in bundle.columns.items() if not kind.endswith("?")}
    assert row["properties"]["item"] == {"type": "integer"}
    assert row["properties"]["shelves"]["items"] == {"type": "integer"}
    assert set(told["paths"]) >= {"/v1/score", "/v1/rank", "/health"}
    gives = told["paths"]["/v1/rank"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert gives["required"] == ["candidates", "scores"]
    for name in re.findall(r"#/components/schemas/(\w+)", json.dumps(told)):
        assert name in told["components"]["schemas"]
    for path, methods in told["paths"].items():
        for method in methods:
            answer = client.request(method, path)
            assert answer.status_code not in (404, 405, 500)


def test_the_recipe_scores_as_the_loader_does(folder: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each worker of docs/batch-scoring.md does with a batch; Ray itself is not started."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("batch_score", ROOT / "docs/recipes/batch_score.py")
    assert spec is not None and spec.loader is not None
    recipe: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    rows = pa.Table.from_pylist(ROWS)
    scored = recipe.Scorer(str(folder), 1)(rows)
    assert scored.drop_columns("score").equals(rows)
    np.testing.assert_array_equal(scored["score"], bundle.score(ROWS))


def test_a_worker_that_dies_is_replaced(service: Running, client: httpx.Client, bundle: Bundle) -> None:
    client.close()  # no connection of ours is open to the one that dies
    dead = service.workers[0]
    os.kill(dead, signal.SIGKILL)
    service.wait_for("a worker ended (by SIGKILL)")
    while metrics(service).get("shardrec_bundle_workers bundle=deepfm") != 2:
        time.sleep(0.2)
    assert dead not in service.workers
    assert len(service.workers) == 2
    answer = httpx.post(f"{service.url}/v1/score", json={"rows": ROWS})
    np.testing.assert_allclose(answer.json()["scores"], bundle.score(ROWS), rtol=1e-5)


def test_a_bundle_that_clients_could_not_go_on_with_is_refused_unless_allowed(service: Running, folder: Path) -> None:
    other, token = changed(folder, "changed"), {"authorization": f"Bearer {TOKEN}"}
    with service.client() as client:
        answer = client.post("/admin/reload", json={"bundle": str(other)}, headers=token)
        assert answer.status_code == 409
        assert answer.json()["error"] == (
            f"{other}: clients rely on what deepfm reads and predicts: column 'kind' is int64?, was int64; column "
            "'price' is gone; column 'cost' (float) is new; task: Regression, was BinaryClassification; allow it by "
            "--allow-changes, or serve it apart"
        )
        assert client.post("/v1/score", json={"rows": ROWS[:1]}).status_code == 200
        for path, status in ((other, 422), (folder, 200)):
            asked = {"bundle": str(path), "allow_changes": True}
            assert client.post("/admin/reload", json=asked, headers=token).status_code == 200
            assert client.post("/v1/score", json={"rows": ROWS[:1]}).status_code == status


def test_another_bundle_is_taken_up_and_the_service_ends_without_a_dropped_request(
    service: Running, current: Path, folder: Path
) -> None:
    other, cut = calibrated(folder, "calibrated"), broken(folder, "cut")
    before, after = (Bundle(path).score(ROWS[:3]) for path in (folder, other))
    clients = Clients(service.url, 4)
    clients.wait_for(3)
    headers = {"authorization": f"Bearer {TOKEN}"}
    for path in (cut, folder.with_name("nowhere")):
        answer = httpx.post(f"{service.url}/admin/reload", json={"bundle": str(path)}, headers=headers, timeout=60)
        assert answer.status_code == 409 and path.name in answer.json()["error"]
    clients.wait_for(3)
    assert all(np.allclose(scores, before, rtol=1e-5) for scores in clients.answers)

    current.with_name("next").symlink_to(other)
    current.with_name("next").rename(current)
    said = len(service.said)
    os.kill(service.process.pid, signal.SIGHUP)
    service.wait_for("reloaded", said)
    clients.wait_for(2)  # the first of each may have been asked for before
    first = len(clients.answers)
    clients.wait_for(10)
    assert all(np.allclose(scores, after, rtol=1e-5) for scores in clients.answers[first:])

    slow = endless(folder, "slow")
    current.with_name("next").symlink_to(slow)
    current.with_name("next").rename(current)
    os.kill(service.process.pid, signal.SIGHUP)
    with open(slow / "calibration.json", "wb"):  # by now a worker has begun to open it
        assert service.end() == 0
    clients.end()
    assert clients.dropped == []
    assert service.said[-1].endswith("ended; every request in hand was answered")
    assert not any("was killed" in line for line in service.said)


def test_a_service_ends_while_it_opens_its_bundle(folder: Path) -> None:
    slow = endless(folder, "slower")
    command = [sys.executable, "-m", "shardrec", "serve", str(slow), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    with process, open(slow / "calibration.json", "wb"):
        process.terminate()
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "shardrec serve: ended before it served\n")


def test_a_bundle_that_cannot_score_is_one_line(folder: Path, tmp_path: Path) -> None:
    for path, said in ((broken(folder, "unsound"), "does not score"), (tmp_path, "there is no bundle.json")):
        with pytest.raises(UserError, match=said) as error:
            OpenedBundle(str(path), 1)
        assert "\n" not in str(error.value)
