"""In which settings two runs differ: what is there is only gone on with, or compared, as what it was made for."""

from typing import Any, NamedTuple

from trainer.config import RunConfig

FREE = ("run", "import_from")
"""Where a run lies and where its code is found: the keys that may always differ."""


class Difference(NamedTuple):
    """A setting by its path in the run file, and its two values."""

    key: str
    before: Any
    now: Any


def first_difference(before: RunConfig, now: RunConfig, free: tuple[str, ...] = ()) -> Difference | None:
    """The first setting in which two runs differ, beside those of `FREE` and the sections `free`."""
    old, new = (
        _flat({k: v for k, v in c.model_dump(mode="json", by_alias=True).items() if k not in (*FREE, *free)})
        for c in (before, now)
    )
    for key in {**old, **new}:
        if old.get(key) != new.get(key):
            return Difference(key, old.get(key), new.get(key))
    return None


def _flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in document.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
