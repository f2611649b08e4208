"""Settings on a page: where a run's differ from the defaults, and all of them on a click."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from shardrec.data_pipeline.declared.documents import dump_document
from shardrec.trainer.config.differences import flat
from shardrec.trainer.config.model_settings import model_defaults
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.reports.markup import Markup, element, joined
from shardrec.trainer.reports.numbers import DASH
from shardrec.trainer.reports.page import cell, folded, table
from shardrec.trainer.reports.run_facts import RunFacts

PLACES = ("run", "import_from")
LONGEST = 300
"""Characters of a value; the whole configuration has it in full."""


def settings_section(facts: RunFacts) -> Markup:
    """Returns the settings that are not the defaults, with these, and the whole configuration."""
    own, defaults = settings(facts.config), _defaults(facts)
    rows = [
        [element("code", key), cell(shown_value(value), "l wrap"), cell(shown_value(defaults.get(key)), "l wrap")]
        for key, value in own.items()
        if key not in PLACES and value != defaults.get(key)
    ]
    whole = element("pre", dump_document(facts.config.model_dump(mode="json", by_alias=True)), tabindex=0)
    return joined((table(["setting", "this run", "default"], rows, left=(0, 1, 2)), folded("All settings", whole)))


def settings(config: RunConfig) -> dict[str, Any]:
    """Returns a configuration's settings by their path in the run file."""
    return flat(config.model_dump(mode="json", by_alias=True))


def _defaults(facts: RunFacts) -> dict[str, Any]:
    """Returns what holds where a run file says nothing, with the defaults of the model's own settings."""
    bare = RunConfig.model_validate({"run": "run", "data": {}, "model": {"name": facts.model}})
    defaults = settings(bare)
    with suppress(Exception):  # a model of somebody's own, or of another version
        defaults |= flat(model_defaults(facts.model), "model.")
    return defaults


def differing(configs: Sequence[RunConfig]) -> dict[str, list[Any]]:
    """Returns the settings in which runs differ, each with the runs' values in their order."""
    of_runs: list[Mapping[str, Any]] = [settings(config) for config in configs]
    keys = dict.fromkeys(key for of in of_runs for key in of)
    found = {key: [of.get(key) for of in of_runs] for key in keys if key not in PLACES}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def shown_value(value: Any) -> str:
    """Returns a setting's value as run files have it, shortened where it is long; a dash for none."""
    if value is None or value == {} or value == []:
        return DASH
    text = value if isinstance(value, str) else dump_document(value, flow=True, width=10_000)
    text = text.strip().removesuffix("\n...")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
