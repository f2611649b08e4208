"""An override, `--set a.b=c`, is written into the document of a run file before that is checked."""

import re
from collections.abc import Mapping
from typing import Any

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.declared.documents import parse_document
from shardrec.data_pipeline.errors import UserError, in_quotes

OF_THE_WHOLE = ("run", "stages", "variants", "import_from")  # keys that stages have no own

MOST_PARTS = 20
"""Parts of a key that an override writes to, at most."""


def apply_override(declared: dict[str, Any], override: str) -> None:
    """Writes `a.b=c` into the document and into each of its stages; `stages.NAME.a.b=c` into one stage.

    A `.` inside a quoted part (`tables."x.y".dtype`) does not split. Raises UserError for what has no such form.
    """
    target, equals, text = override.partition("=")
    parts = [part.strip('"') for part in re.findall(r'"[^"]*"|[^.]+', target.strip())]
    what = f"--set {_shown(override)}"
    if not equals or not parts or len(parts) > MOST_PARTS:
        raise UserError(f"{what}: expected a.b=value")
    value = parse_document(text, what, exponents=True)
    listed = declared.get("stages")
    stages = {str(s.get("name")): s for s in listed if isinstance(s, dict)} if isinstance(listed, list) else {}
    if stages and parts[0] == "stages" and len(parts) > 2:
        if parts[1] not in stages:
            raise UserError(f"{what}: " + unknown("stage", parts[1], list(stages)))
        return _write(stages[parts[1]], parts[2:], value)
    _write(declared, parts, value)
    if parts[0] not in OF_THE_WHOLE:
        for stage in stages.values():
            _write(stage, parts, value)


def _shown(text: str) -> str:
    return text if len(text) <= 80 and text.isprintable() else in_quotes(text)


def _write(document: dict[str, Any], path: list[str], value: Any) -> None:
    node = document
    for part in path[:-1]:
        child = node.get(part)
        if part == "model" and isinstance(child, str):
            child = {"name": child}
        node[part] = child = child if isinstance(child, dict) else {}
        node = child
    node[path[-1]] = value


def laid_over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lays `over` over `base`: mappings are merged key by key, anything else is replaced.

    A mapping whose `name` is another one replaces all of it: a model or an optimizer does not take over the settings
    of a different one.
    """
    result = dict(base)
    for key, value in over.items():
        before = result.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            other = "name" in before and value.get("name", before["name"]) != before["name"]
            result[key] = dict(value) if other else laid_over(before, value)
        else:
            result[key] = value
    return result
