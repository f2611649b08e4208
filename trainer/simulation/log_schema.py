"""The schema of a simulation's log: transitions in the schema language, as `World` names what it tells of them."""

from typing import Any

from shardrec.data_pipeline.features.schema import Schema
from shardrec.trainer.simulation.settings import SimulationSettings

HOURS = 24
KEYS = ("requested", "position")
STATE_IDS = ("user", "segment", "hour")
ACTION_IDS = ("news", "topic", "publisher")
ACTION_NUMBERS = {"age": "item", "topic_clicks": "user_item", "topic_exposure": "user_item"}
"""Numbers of a candidate -> what they describe."""


def state_numbers(settings: SimulationSettings) -> tuple[str, ...]:
    """Returns the numbers that are known of a user."""
    of_topics = (f"clicks_topic_{k}" for k in range(settings.news.topics))
    return ("activeness_before", "days_away", "clicks", "shown", *of_topics)


def list_name(place: str, of: str) -> str:
    """Returns the column of the candidates' values of a feature; the candidates themselves are called as the place."""
    return f"{place}s" if of == "news" else f"{place}s_{of}"


def log_schema(settings: SimulationSettings) -> Schema:
    """Returns the schema of the log: all of a transition, labels, propensity and time."""
    now = _now(settings)
    state = [f for f in now if f["role"] in ("user", "context")]
    actions = [f for f in now if f["role"] in ("item", "user_item")]
    features = [*now, *(_placed(f, "next", f"next_{f['name']}") for f in state)]
    for place in ("candidate", "next_candidate"):
        of_list = {"aligned": f"{place}s", "max_length": settings.candidates}
        for f in actions:
            kind = "dense_sequence" if f["kind"] == "dense" else "sequence"
            features.append(_placed(f, place, list_name(place, f["name"])) | of_list | {"kind": kind})
    labels = [{"name": name} for name in ("click", "activeness", "terminal")]
    named = {"group": "user", "keys": KEYS, "propensity": "propensity", "time": "time"}
    return Schema.model_validate({"features": features, "labels": labels, **named})


def _now(settings: SimulationSettings) -> list[dict[str, Any]]:
    """Returns the features of a state and of an action."""
    sizes = {
        "user": settings.users,
        "segment": settings.tastes.groups,
        "hour": HOURS,
        "news": settings.news.count(settings.days),
        "topic": settings.news.topics,
        "publisher": settings.news.publishers,
    }
    roles = {"user": "user", "segment": "user", "hour": "context", **dict.fromkeys(ACTION_IDS, "item")}
    features: list[dict[str, Any]] = [
        {"kind": "id", "name": name, "role": role, "table": name, "ids": {"kind": "identity", "num_ids": sizes[name]}}
        for name, role in roles.items()
    ]
    features += [{"kind": "dense", "name": name, "role": "user"} for name in state_numbers(settings)]
    return features + [{"kind": "dense", "name": name, "role": role} for name, role in ACTION_NUMBERS.items()]


def _placed(feature: dict[str, Any], place: str, name: str) -> dict[str, Any]:
    """Returns a feature's counterpart at another place of the transition."""
    return {key: value for key, value in feature.items() if key != "role"} | {
        "name": name,
        "place": place,
        "of": feature["name"],
    }
