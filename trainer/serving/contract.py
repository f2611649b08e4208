"""A contract is what clients of a service rely on: the columns that they send, and what the answers are about."""

from collections.abc import Iterator, Mapping
from typing import Any

from shardrec.trainer.export.loader import Bundle

NAMED = 4
"""Changes that a line names, at most."""


def changes(served: Bundle, other: Bundle) -> str:
    """Returns how another bundle breaks the contract of the one that is served, in a line; nothing where it does not.

    A number's width is no part of it, nor is that a bundle makes lists of items where the one before made none.
    """
    found = [*_of_columns(served.columns, other.columns), *_of_outputs(served, other)]
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return "; ".join(found[:NAMED]) + more


def _of_columns(served: Mapping[str, str], other: Mapping[str, str]) -> Iterator[str]:
    for name in [*served, *(name for name in other if name not in served)]:
        before, after = served.get(name), other.get(name)
        if after is None:
            yield f"column {name!r} is gone"
        elif before is None:
            yield f"column {name!r} ({after}) is new"
        elif before.replace("float", "double") != after.replace("float", "double"):
            yield f"column {name!r} is {after}, was {before}"


def _of_outputs(served: Bundle, other: Bundle) -> Iterator[str]:
    before, after = _predicted(served.manifest), _predicted(other.manifest)
    for name in before:
        if before[name] != after[name]:
            yield f"{name}: {after[name]}, was {before[name]}"
    if served.retrieves and not other.retrieves:
        yield "it makes no lists of items"
    elif served.retrieves and (was := served.manifest["catalogue"]["item"]) != other.manifest["catalogue"]["item"]:
        yield f"lists are of {other.manifest['catalogue']['item']!r}, were of {was!r}"


def _predicted(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what predictions are, by what it is called in a line."""
    tower = manifest["programs"]["tower"]
    shape = " x ".join(map(str, tower["shape"])) or "one"
    numbers = "one for each id of its list" if tower["lists"] else shape
    return {**manifest["predicts"], "numbers for a row": numbers}
