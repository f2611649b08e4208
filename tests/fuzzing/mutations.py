"""Mutations change one thing in a document or in a file's bytes, as damage, forgery and mistakes of writing do."""

import random
from typing import Any

NUMBERS = (0, -1, 1, 2, 7, 2**31, 2**40, 2**62, 2**63, -(2**70), 10**400, 0.5, 1e308, float("nan"), float("inf"))
TEXTS = ("", "x", "../x", "/etc/passwd", "a/../../b", "\x00", "é" * 300, "F32", "I64", "weight", "nan", "1" * 6000)
OTHERS: tuple[Any, ...] = (None, True, [], {}, [[]], {"": {}}, [1, "a", None], {"a": [{}]})


def mutated(document: Any, draw: random.Random) -> Any:
    """Returns a document of mappings, lists, texts and numbers with one thing in it changed, at any depth."""
    places = list(_places(document))
    path = draw.choice(places)
    return _replaced(document, path, lambda value: _changed(value, draw))


def flipped(data: bytes, draw: random.Random) -> bytes:
    """Returns bytes of which a few are others, or which are cut short, or have some twice."""
    if not data:
        return b"\xff"
    at = draw.randrange(len(data))
    match draw.randrange(4):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + data[at : at + draw.randrange(1, 64)] * 2 + data[at:]
        case _:
            changed = bytearray(data)
            for _ in range(draw.choice((1, 1, 1, 8))):
                changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            return bytes(changed)


def _places(document: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield from _places(value, (*path, key))


def _replaced(document: Any, path: tuple[Any, ...], change: Any) -> Any:
    if not path:
        return change(document)
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = _replaced(copy[path[0]], path[1:], change)
    return copy


def _changed(value: Any, draw: random.Random) -> Any:
    """Returns another value in one's place: one like it, or one of another kind."""
    if isinstance(value, dict) and value and draw.random() < 0.6:
        key = draw.choice(list(value))
        return {k: v for k, v in value.items() if k != key} | (
            {draw.choice(TEXTS): value[key]} if draw.random() < 0.5 else {}
        )
    if isinstance(value, list) and value and draw.random() < 0.6:
        at = draw.randrange(len(value))
        return value[:at] + (value[at : at + 1] * 2 if draw.random() < 0.5 else []) + value[at + 1 :]
    if isinstance(value, int) and not isinstance(value, bool) and draw.random() < 0.5:
        return draw.choice((value + 1, value - 1, -value, value * 2, value * 2**20, value ^ 1))
    return draw.choice((draw.choice(NUMBERS), draw.choice(TEXTS), draw.choice(OTHERS)))
