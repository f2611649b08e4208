"""Bodies of requests: read whole within limits of size and time, as JSON or as a stream of Arrow."""

import asyncio
import time
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request

from shardrec.trainer.serving.wire.refusals import Refusal, malformed

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"


async def read_body(request: Request, largest: int, deadline: float) -> bytes:
    """Returns the body. Raises Refusal for one of more than `largest` bytes, as soon as that is known, or too slow."""
    declared = request.headers.get("content-length")
    if declared is not None and int(declared) > largest:  # the server has refused what is no number
        raise _too_large(declared, largest)
    chunks, size = [], 0
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            async for chunk in request.stream():
                size += len(chunk)
                if size > largest:
                    raise _too_large("more", largest)
                chunks.append(chunk)
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive in time; {size:,} bytes of it did") from None
    except ClientDisconnect:
        raise malformed("the body ended early") from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(found: str, largest: int) -> Refusal:
    return Refusal(413, f"a body of {found} bytes, where {largest:,} are the most; send fewer rows at once")


def form_of(request: Request) -> str:
    """Returns which of the two forms the body has. Raises Refusal where it is neither, or is compressed."""
    if (encoding := request.headers.get("content-encoding", "identity").lower()) != "identity":
        raise Refusal(415, f"content encoding {encoding[:80]!r}; send the body as it is")
    declared = request.headers.get("content-type", "")
    form = declared.partition(";")[0].strip().lower()
    if form not in (JSON, ARROW):
        raise Refusal(415, f"content type {declared[:80]!r}, expected {JSON} or {ARROW}")
    return form


def read_json(body: bytes, keys: dict[str, bool]) -> dict[str, Any]:
    """Returns the object that a body holds.

    keys: what it may hold, and whether it has to. Raises Refusal for what is no JSON, no object, or holds other keys.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise malformed(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    if not isinstance(content, dict):
        raise malformed(f"the body is {kind(content)}, expected an object with {' and '.join(keys)}")
    for key in content:
        if key not in keys:
            raise malformed(f"unknown key {key[:80]!r}, expected {', '.join(keys)}", field=key[:80])
    for key, needed in keys.items():
        if needed and key not in content:
            raise malformed(f"{key!r} is missing", field=key)
    return content


def kind(value: Any) -> str:
    """Returns what JSON calls a value."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else "true or false"
    names = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def whole_number(content: dict[str, Any], key: str, default: int, most: int) -> int:
    """Returns a number of 1 to `most` that a body may hold under `key`. Raises Refusal for anything else."""
    value = content.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise malformed(f"{key} is {str(value)[:40]}, expected a whole number of 1 to {most:,}", field=key)
    return value


def list_of(
    content: dict[str, Any], key: str, most: int, what: type, named: str, plural: str | None = None
) -> list[Any]:
    """Returns the list under `key`. Raises Refusal for one that is empty, too long, or of other things than `what`."""
    values = content[key]
    if not isinstance(values, list):
        raise malformed(f"{key} is {kind(values)}, expected a list of {plural or f'{named}s'}", field=key)
    if not values:
        raise malformed(f"{key} is empty, expected at least one {named}", field=key)
    if len(values) > most:
        raise Refusal(413, f"{len(values):,} {key}, where {most:,} are the most of one request", field=key)
    for place, value in enumerate(values):
        if not isinstance(value, what):
            raise malformed(f"{named} {place} is {kind(value)}, expected {kind(what())}", row=place, field=key)
    return values
