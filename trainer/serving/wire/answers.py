"""Answers: JSON or Arrow, and one form for all refusals."""

from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from starlette.responses import Response

from shardrec.trainer.serving.wire.arrow_bodies import write_table
from shardrec.trainer.serving.wire.bodies import ARROW, JSON
from shardrec.trainer.serving.wire.refusals import Refusal

RETRY_SECONDS = "1"


def json_answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Returns an answer in JSON; ids that JSON lacks (dates, bytes) are written as text."""
    body = orjson.dumps(content, default=_text, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    return Response(body, status, headers, media_type=JSON)


def refused(refusal: Refusal) -> Response:
    """Returns what the client is told of a refusal."""
    return json_answer(refusal.content(), refusal.status, {"retry-after": RETRY_SECONDS} if refusal.retry else None)


def answer(form: str, columns: dict[str, Any]) -> Response:
    """Returns columns of equal length as the request came: a table in Arrow, or an object of lists in JSON."""
    if form == JSON:
        return json_answer(columns)
    arrays = {name: _array(values) for name, values in columns.items()}
    return Response(write_table(pa.table(arrays)), media_type=ARROW)


def _array(values: Any) -> pa.Array:
    return pa.array(list(values) if isinstance(values, np.ndarray) and values.ndim > 1 else values)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
