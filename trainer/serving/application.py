"""The endpoints: what each takes, and what it asks the bundle."""

import hmac
import os
from typing import Any

import numpy as np
import pyarrow as pa
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shardrec.trainer.export.loader import RowError
from shardrec.trainer.serving.measures import exposition
from shardrec.trainer.serving.openapi import openapi
from shardrec.trainer.serving.opened import unknown_column
from shardrec.trainer.serving.service import Asked, Service
from shardrec.trainer.serving.wire.answers import answer, json_answer, refused
from shardrec.trainer.serving.wire.arrow_bodies import read_table
from shardrec.trainer.serving.wire.bodies import ARROW, JSON, form_of, kind, list_of, read_json, whole_number
from shardrec.trainer.serving.wire.refusals import Refusal, malformed, wrong

TOKEN = "SHARDREC_ADMIN_TOKEN"
"""The variable that holds what `/admin/reload` asks for; without it there is no such endpoint."""

DEFAULT_N, MOST_N = 10, 1000

MOST_LISTS = 1000
"""Users or items of a request for lists, at most: a list is worked out from the whole catalogue."""

LONGEST_PATH = 4095
"""Characters of a path, at most, as Linux has it."""

MILLE = 1000
"""Impressions that an eCPM is the price of: 1000 x score x bid."""


async def score(service: Service, asked: Asked) -> Response:
    """Answers with the prediction of each row."""
    _check_parameters(asked)
    form = form_of(asked.request)
    content = read_json(asked.body, {"rows": True}) if form == JSON else {}
    rows = _rows(asked, form, content, service.settings.max_rows)
    opened = asked.opened
    if isinstance(rows, list):
        scores = await service.batcher.score(opened.score, rows, asked.deadline)
    else:
        scores = await service.batcher.call(lambda: opened.score(rows), asked.deadline)
    return answer(form, {"scores": scores})


async def rank(service: Service, asked: Asked) -> Response:
    """Answers with the best candidates of a context, by their places: by score, or by eCPM where they have bids."""
    content = read_json(
        _only_json(asked), {"context": True, "candidates": True, "bids": False, "reserve": False, "n": False}
    )
    candidates = list_of(content, "candidates", service.settings.max_rows, dict, "candidate")
    asked.rows = len(candidates)
    context = content["context"]
    if not isinstance(context, dict):
        raise malformed(f"context is {kind(context)}, expected an object", field="context")
    asked.opened.check_names([context])
    asked.opened.check_names(candidates)
    n = whole_number(content, "n", len(candidates), service.settings.max_rows)
    bids = _numbers(content["bids"], "bids", len(candidates)) if content.get("bids") is not None else None
    reserve = content.get("reserve")
    if reserve is not None and bids is None:
        raise malformed("reserve is a least eCPM, which needs bids", field="reserve")
    bundle = asked.opened.bundle
    scores = await service.batcher.call(lambda: bundle.score_candidates(context, candidates), asked.deadline)
    if bids is None:
        order = np.argsort(-scores, kind="stable")[:n]
        return json_answer({"candidates": order, "scores": scores[order]})
    ecpm = MILLE * scores.astype(np.float64) * bids
    order = np.lexsort((-scores, -ecpm))
    if reserve is not None:
        order = order[ecpm[order] >= _numbers([reserve], "reserve", 1)[0]]
    order = order[:n]
    return json_answer({"candidates": order, "scores": scores[order], "ecpm": ecpm[order]})


async def top_n(service: Service, asked: Asked) -> Response:
    """Answers with the best items of the catalogue for each user."""
    form = form_of(asked.request)
    _check_parameters(asked, *(["n"] if form == ARROW else []))
    content = read_json(asked.body, {"rows": True, "n": False, "seen": False}) if form == JSON else _query(asked)
    bundle = asked.opened.retrieval()
    rows = _rows(asked, form, content, min(service.settings.max_rows, MOST_LISTS))
    n = whole_number(content, "n", DEFAULT_N, MOST_N)
    seen = content.get("seen")
    if seen is not None:
        list_of(content, "seen", asked.rows, list, "list of ids", "lists of ids")
        if len(seen) != asked.rows:
            raise malformed(f"seen has {len(seen)} lists, expected one for each of {asked.rows} rows", field="seen")
        for place, ids_of_row in enumerate(seen):
            _check_ids(ids_of_row, "seen", place)
    items, scores = await service.batcher.call(lambda: bundle.top_n(rows, n, seen=seen), asked.deadline)
    return _lists(form, items, scores)


async def similar(service: Service, asked: Asked) -> Response:
    """Answers with the items that are most like given ones."""
    content = read_json(_only_json(asked), {"ids": True, "n": False})
    bundle = asked.opened.retrieval()
    ids = content["ids"]
    if not isinstance(ids, list) or not 1 <= len(ids) <= MOST_LISTS:
        raise malformed(f"ids is {kind(ids)}, expected a list of 1 to {MOST_LISTS:,} ids", field="ids")
    _check_ids(ids, "ids")
    asked.rows = len(ids)
    n = whole_number(content, "n", DEFAULT_N, MOST_N)
    try:
        items, scores = await service.batcher.call(lambda: bundle.similar(ids, n), asked.deadline)
    except RowError as error:
        raise wrong(str(error), row=error.row, field="ids") from None
    return _lists(JSON, items, scores)


def _rows(asked: Asked, form: str, content: dict[str, Any], most: int) -> Any:
    """Returns the rows of a request: a list of objects, or a table. Raises Refusal for columns that are not known."""
    if form == JSON:
        rows = list_of(content, "rows", most, dict, "row")
        asked.opened.check_names(rows)
        asked.rows = len(rows)
        return rows
    table = read_table(asked.body, most)
    for name in table.column_names:
        if name not in asked.opened.known:
            raise unknown_column(name, sorted(asked.opened.known), None)
    asked.rows = table.num_rows
    return table


def _check_parameters(asked: Asked, *known: str) -> None:
    """Refuses what the URL asks for beside what is known there."""
    for name in asked.request.query_params:
        if name not in known:
            expected = f"expected {', '.join(known)}" if known else "what is asked for is in the body"
            raise malformed(f"unknown parameter {name[:80]!r} in the URL; {expected}", field=name[:80])


def _query(asked: Asked) -> dict[str, Any]:
    """Returns what an Arrow body cannot say: `n`, from the URL."""
    n = asked.request.query_params.get("n")
    if n is None:
        return {}
    return {"n": int(n) if n.isascii() and n.isdigit() and len(n) < 10 else n}


def _only_json(asked: Asked) -> bytes:
    _check_parameters(asked)
    if form_of(asked.request) == ARROW:
        raise Refusal(415, f"{asked.request.url.path} takes {JSON} alone")
    return asked.body


def _check_ids(ids: list[Any], key: str, row: int | None = None) -> None:
    """Refuses what is neither text nor a whole number, of which ids are."""
    for place, value in enumerate(ids):
        if not isinstance(value, str | int):
            line = f"an id in {key} is {kind(value)}, expected text or a whole number"
            raise malformed(line, row=place if row is None else row, field=key)


def _numbers(values: Any, key: str, count: int) -> np.ndarray:
    """Returns a body's numbers, none of them negative: [count] float64."""
    if not isinstance(values, list) or len(values) != count:
        found = f"a list of {len(values)}" if isinstance(values, list) else kind(values)
        raise malformed(f"{key} is {found}, expected a list of {count}: one for each candidate", field=key)
    for place, value in enumerate(values):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= 1e300:
            found = str(value)[:40] if is_number else kind(value)
            raise wrong(f"{key} {place} is {found}, expected a number of at least 0", row=place, field=key)
    return np.array(values, np.float64)


def _lists(form: str, items: list[list[Any]], scores: np.ndarray) -> Response:
    """Returns lists of items with their scores, each as long as there are items for it."""
    kept = [row[: len(ids)] for row, ids in zip(scores, items, strict=True)]
    if form == JSON:
        return answer(form, {"items": items, "scores": kept})
    return answer(form, {"items": pa.array(items), "scores": pa.array(kept)})


async def _reload(service: Service, asked: Asked) -> Response:
    """Asks for another bundle, on behalf of who knows the token."""
    given = asked.request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    if not hmac.compare_digest(given.encode(), os.environ[TOKEN].encode()):
        raise Refusal(401, f"expected the header `Authorization: Bearer`, with the token of {TOKEN}")
    _check_parameters(asked)
    content = read_json(asked.body or b"{}", {"bundle": False, "allow_changes": False})
    path = content.get("bundle", service.settings.bundle)
    if not isinstance(path, str) or not 1 <= len(path) <= LONGEST_PATH or "\0" in path:
        raise malformed("bundle is no path", field="bundle")
    allowed = content.get("allow_changes", service.settings.allow_changes)
    if not isinstance(allowed, bool):
        raise malformed(f"allow_changes is {kind(allowed)}, expected true or false", field="allow_changes")
    assert service.reload is not None
    outcome = await service.reload(path, allowed)
    if not outcome["ok"]:
        raise Refusal(409, outcome["line"])
    return json_answer({"bundle": outcome["line"]})


def application(service: Service) -> Starlette:
    """Returns the service as an ASGI application."""

    async def model(request: Request) -> Response:
        return json_answer(service.opened.facts)

    async def health(request: Request) -> Response:
        return json_answer({"status": "ok"})

    async def ready(request: Request) -> Response:
        return json_answer({"status": "ending" if service.draining else "ready"}, 503 if service.draining else 200)

    async def metrics(request: Request) -> Response:
        return Response(exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def description(request: Request) -> Response:
        return json_answer(openapi(service.opened, service.settings))

    async def other(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path[:80]
        line = {404: f"there is no {path}", 405: f"{path} does not take {request.method}"}.get(error.status_code)
        response = refused(Refusal(error.status_code, line or error.detail))
        response.headers.update(error.headers or {})
        return response

    computing = {"score": score, "rank": rank, "top_n": top_n, "similar": similar}
    routes = [Route(f"/v1/{n}", service.endpoint(n, a), methods=["POST"]) for n, a in computing.items()]
    if os.environ.get(TOKEN):
        routes.append(Route("/admin/reload", service.endpoint("reload", _reload), methods=["POST"]))
    told = {"/v1/model": model, "/health": health, "/ready": ready, "/metrics": metrics, "/openapi.json": description}
    routes += [Route(path, function, methods=["GET"]) for path, function in told.items()]
    served = Starlette(routes=routes, exception_handlers={HTTPException: other})
    served.router.redirect_slashes = False  # /v1/score/ is no endpoint, and no client would follow with its body
    return served
