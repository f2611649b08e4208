"""A logged transition has values of one feature at several places, and these features have to go together."""

from collections.abc import Mapping, Sequence
from typing import Any

from shardrec.data_pipeline.declared.declaration import given_twice, unknown
from shardrec.data_pipeline.features.feature_kinds import CANDIDATES, IdListFeature, LoggedAt, NumericFeature


def check_places(features: Sequence[Any]) -> None:
    """Raises ValueError for a feature at a place of a transition that does not go with the other features."""
    known = {f.name: f for f in features}
    for f in features:
        _check_place(f, known)
    for place in CANDIDATES:
        _check_candidates(place, [f for f in features if f.place == place])
    placed = [(f.place, f.of) for f in features if f.of is not None]
    if (again := given_twice(placed)) is not None:
        first, second = (f.name for f in features if (f.place, f.of) == again)
        raise ValueError(
            f"features {first!r} and {second!r} both have place: {again[0]} and of: {again[1]}; leave one out"
        )


def _check_place(f: Any, known: Mapping[str, Any]) -> None:
    """Raises ValueError for a feature that does not go with what it is `of`."""
    if f.of is None:
        return
    described = f"feature {f.name!r} (place: {f.place}, of: {f.of})"
    now = known.get(f.of)
    if now is None:
        here = [name for name, other in known.items() if other.place == "now"]
        raise ValueError(f"{described}: {unknown('feature', f.of, here)}")
    if now.place != "now":
        raise ValueError(f"{described}: {f.of!r} has place: {now.place} itself; name a feature of the row")
    if f.role not in (None, now.role):
        raise ValueError(f"{described} has role: {f.role}, but {f.of!r} has role: {now.role}; leave it out")
    kind = now.kind
    if f.place in CANDIDATES:
        kind = {"id": "sequence", "dense": "dense_sequence"}.get(kind, "")
        if not kind:
            raise ValueError(f"{described}: {f.of!r} is of kind {now.kind}; candidates have an id or a number each")
    if f.kind != kind:
        raise ValueError(f"{described} is of kind {f.kind}, expected {kind}, as {f.of!r} is of kind {now.kind}")
    if not isinstance(f, NumericFeature) and f.table_name != now.table_name:
        raise ValueError(
            f"{described} has table {f.table_name!r}, expected that of {f.of!r}: give it `table: {now.table_name}`"
        )
    if isinstance(f, NumericFeature) and f.transforms != now.transforms:
        raise ValueError(
            f"{described} has other `transforms` than {f.of!r}, whose numbers it has at another place; give both the "
            "same"
        )
    if isinstance(f, IdListFeature) and f.weighted != now.weighted:
        with_weights, without = (f.name, f.of) if f.weighted else (f.of, f.name)
        raise ValueError(f"{described}: {with_weights!r} has weights and {without!r} has none; give both some, or none")


def _check_candidates(place: LoggedAt, features: Sequence[Any]) -> None:
    """Raises ValueError for candidates that are not aligned with each other."""
    for f in features[1:]:
        if f.aligned is None or f.aligned != features[0].aligned:
            raise ValueError(
                f"features {features[0].name!r} (aligned: {features[0].aligned}) and {f.name!r} (aligned: {f.aligned}) "
                f"have place: {place} but make no one list of candidates; give them one `aligned`"
            )
