"""A document of JSON with one thing in it damaged by hand: a member that is gone, or a value of another type."""

import copy
from collections.abc import Iterator
from typing import Any

OTHERS: tuple[Any, ...] = (None, -1, "text", [])


def damaged(document: Any) -> Iterator[tuple[str, Any]]:
    """What was done, and the document: each member removed, and each value replaced by each of other types."""
    for place in _places(document):
        for other in (_GONE, *OTHERS):
            changed = copy.deepcopy(document)
            holder = changed
            for key in place[:-1]:
                holder = holder[key]
            if other is _GONE:
                del holder[place[-1]]
            elif type(holder[place[-1]]) is type(other):
                continue
            else:
                holder[place[-1]] = copy.deepcopy(other)
            yield f"{'.'.join(map(str, place))} {'gone' if other is _GONE else repr(other)}", changed


_GONE = object()


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values below the document itself; of plain values in a list those of the first two."""
    if isinstance(value, dict):
        inside = list(value.items())
    else:
        inside = list(enumerate(value)) if isinstance(value, list) else []
        inside = inside if any(isinstance(member, dict | list) for _, member in inside) else inside[:2]
    for key, member in inside:
        yield (*at, key)
        yield from _places(member, (*at, key))
