"""In which settings two runs differ: what is there is only gone on with, or compared, as what it was made for."""

from typing import Any, NamedTuple

from shardrec.trainer.config.sections import RunConfig

FREE = (
    "run",
    "import_from",
    "trainer.tensorboard",
    "trainer.log_every_steps",
    "launch.address",
    "launch.timeout",
    "launch.retries",
)
"""Where a run lies, where its code is found and how it is watched: the keys that may always differ."""


class Difference(NamedTuple):
    """A setting by its path in the run file, and its two values."""

    key: str
    before: Any
    now: Any


def first_difference(before: RunConfig, now: RunConfig, free: tuple[str, ...] = ()) -> Difference | None:
    """The first setting in which two runs differ, beside those of `FREE` and the keys or sections `free`."""
    old, new = (_flat(config.model_dump(mode="json", by_alias=True)) for config in (before, now))
    may_differ = (*FREE, *free)
    for key in {**old, **new}:
        if old.get(key) != new.get(key) and not any(f"{key}.".startswith(f"{part}.") for part in may_differ):
            return Difference(key, old.get(key), new.get(key))
    return None


def _flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in document.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
