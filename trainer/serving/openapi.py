"""What OpenAPI says of a service, made of the columns of the bundle that it serves."""

from typing import Any

from shardrec.trainer.serving.opened import OpenedBundle
from shardrec.trainer.serving.settings import Settings
from shardrec.trainer.serving.wire.bodies import ARROW, JSON

Schema = dict[str, Any]
_TYPES = {"string": "string", "large_string": "string", "bool": "boolean", "boolean": "boolean"}
_NUMBERS = ("float", "double", "halffloat")
_REFUSALS = {
    400: "The body is not what the endpoint reads",
    413: "The body is too large, or has too many rows",
    415: "The content type is neither of the two",
    422: "A row cannot be scored: `row` and `field` say which",
    503: "Too many requests, or not in time; retry after a second",
}


def openapi(opened: OpenedBundle, settings: Settings) -> Schema:
    """Returns the description of the endpoints, in OpenAPI 3.1."""
    row = _row(opened, list(opened.columns))
    rows = {"type": "array", "items": _ref("Row"), "minItems": 1, "maxItems": settings.max_rows}
    n = {"type": "integer", "minimum": 1}
    numbers = {"type": "array", "items": {"type": "number", "minimum": 0}}
    lists = {"items": _array(_array({})), "scores": _array(_numbers())}
    paths = {
        "/v1/score": _post("Scores rows", {"rows": rows}, ["rows"], {"scores": _numbers()}, arrow=True),
        "/v1/rank": _post(
            "Ranks candidates of one context",
            {"context": _ref("Context"), "candidates": {**rows, "items": _ref("Candidate")}, "n": n}
            | {"bids": numbers, "reserve": {"type": "number", "minimum": 0}},
            ["context", "candidates"],
            {"candidates": _array({"type": "integer"}), "scores": _numbers(), "ecpm": _numbers()},
        ),
    }
    if opened.bundle.retrieves:
        users = {"rows": {**rows, "items": _ref("User")}, "n": n, "seen": _array(_array({}))}
        paths["/v1/top_n"] = _post("Retrieves items for users", users, ["rows"], lists, arrow=True)
        paths["/v1/similar"] = _post("Retrieves items like items", {"ids": _array({}), "n": n}, ["ids"], lists)
    for path, summary in (
        ("/v1/model", "What is served"),
        ("/health", "Whether the process lives"),
        ("/ready", "Whether requests are to be sent here"),
    ):
        paths[path] = {"get": {"summary": summary, "responses": {"200": _answer({"type": "object"})}}}
    paths["/metrics"] = {"get": {"summary": "Figures for Prometheus", "responses": {"200": {"description": "Text"}}}}
    schemas = {
        "Row": row,
        "Context": _row(opened, list(opened.bundle.context_columns)),
        "Candidate": _row(opened, list(opened.bundle.item_columns)),
        **({"User": _row(opened, opened.bundle.user_columns)} if opened.bundle.retrieves else {}),
        "Error": _object(
            {"error": {"type": "string"}, "row": n | {"minimum": 0}, "field": {"type": "string"}}, ["error"]
        ),
    }
    info = {"title": f"shardrec: {opened.name}", "version": "1"}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


def _row(opened: OpenedBundle, names: list[str]) -> Schema:
    kinds = {name: opened.columns[name] for name in names}
    needed = [name for name, kind in kinds.items() if not kind.endswith("?")]
    return _object({name: _value(kind) for name, kind in kinds.items()}, needed)


def _value(kind: str) -> Schema:
    """Returns the JSON form of an Arrow type; one that may be missing may be null."""
    if kind.endswith("?"):
        inside = _value(kind[:-1])
        return inside | {"type": [inside["type"], "null"]} if isinstance(inside.get("type"), str) else inside
    if kind.startswith(("list", "large_list")):
        inner = kind[kind.index("<") + 1 : -1].removeprefix("item: ").removeprefix("element: ")
        return _array(_value(inner))
    if kind in _TYPES:
        return {"type": _TYPES[kind]}
    if kind in _NUMBERS:
        return {"type": "number"}
    return {"type": "integer"} if kind.startswith(("int", "uint")) else {}


def _post(summary: str, takes: Schema, needed: list[str], gives: Schema, arrow: bool = False) -> Schema:
    content: Schema = {JSON: {"schema": _object(takes, needed)}}
    if arrow:
        content[ARROW] = {"schema": {"type": "string", "format": "binary"}}
    refusals = {str(status): _answer(_ref("Error"), line) for status, line in _REFUSALS.items()}
    responses = {"200": _answer(_object(gives, [name for name in gives if name != "ecpm"])), **refusals}
    return {"post": {"summary": summary, "requestBody": {"required": True, "content": content}, "responses": responses}}


def _answer(schema: Schema, line: str = "The answer") -> Schema:
    return {"description": line, "content": {JSON: {"schema": schema}}}


def _object(properties: Schema, needed: list[str]) -> Schema:
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _numbers() -> Schema:
    """Returns the form of a list of numbers."""
    return _array({"type": "number"})


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
