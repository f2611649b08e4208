"""The schema of a simulation's log: transitions in the schema language, as `World` names what it tells of them."""

from typing import Any

from shardrec.data_pipeline.features.schema import Schema
from shardrec.trainer.simulation.settings import SimulationSettings

HOURS = 24
STATE_IDS = ("user", "segment", "hour")
ACTION_IDS = ("news", "topic", "publisher")
ACTION_NUMBERS = {"age": "item", "topic_clicks": "user_item", "topic_exposure": "user_item"}
"""Numbers of a candidate -> what they describe."""


def state_numbers(settings: SimulationSettings) -> tuple[str, ...]:
    """Returns the numbers that are known of a user."""
    of_topics = (f"clicks_topic_{k}" for k in range(settings.news.topics))
    return ("activeness_before", "days_away", "clicks", *of_topics)


def log_schema(settings: SimulationSettings) -> Schema:
    """Returns the schema of the log: now, next, candidate and next_candidate, labels, propensity, time."""
    sizes = {
        "user": settings.users,
        "segment": settings.tastes.groups,
        "hour": HOURS,
        "news": settings.news.count(settings.days),
        "topic": settings.news.topics,
        "publisher": settings.news.publishers,
    }
    ids: dict[str, Any] = {
        name: {"table": name, "ids": {"kind": "identity", "num_ids": n}} for name, n in sizes.items()
    }
    numbers = state_numbers(settings)
    features: list[dict[str, Any]] = []
    for name in STATE_IDS:
        features.append({"kind": "id", "name": name, "role": "context" if name == "hour" else "user", **ids[name]})
    features += [{"kind": "dense", "name": name, "role": "user"} for name in numbers]
    features += [{"kind": "id", "name": name, "role": "item", **ids[name]} for name in ACTION_IDS]
    features += [{"kind": "dense", "name": name} for name in ACTION_NUMBERS]
    labels = [{"name": name} for name in ("click", "activeness", "terminal")]
    return Schema.model_validate(
        {"features": features, "labels": labels, "group": "user", "keys": ["requested", "position"]}
    )
