"""Says in which settings two runs differ: a run is only gone on with, or compared, under those it was made with."""

from typing import Any, NamedTuple

from shardrec.trainer.config.sections import RunConfig

FREE = (
    "run",
    "import_from",
    "trainer.tensorboard",
    "trainer.tracking",
    "trainer.log_every_steps",
    "trainer.pipeline",
    "launch.address",
    "launch.timeout",
    "launch.retries",
    "launch.resources",
)
"""Where a run lies, where its code is found and how it is watched: the keys that may always differ."""

SETTLED = {"trainer.precision": "auto"}
"""What stands for any value: a run replaces it by what it came to, in its own file."""


class Difference(NamedTuple):
    """A difference is a setting, by its path in the run file, and its two values."""

    key: str
    before: Any
    now: Any


def first_difference(before: RunConfig, now: RunConfig, free: tuple[str, ...] = ()) -> Difference | None:
    """Returns the first setting in which two runs differ, `FREE` and the keys or sections `free` aside; else None."""
    old, new = (flat(config.model_dump(mode="json", by_alias=True)) for config in (before, now))
    may_differ = (*FREE, *free)
    for key in {**old, **new}:
        values = old.get(key), new.get(key)
        settled = key in SETTLED and SETTLED[key] in values
        if values[0] != values[1] and not settled and not any(f"{key}.".startswith(f"{p}.") for p in may_differ):
            return Difference(key, *values)
    return None


def flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested mappings by their paths: `trainer.seed`."""
    values: dict[str, Any] = {}
    for key, value in document.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return values
