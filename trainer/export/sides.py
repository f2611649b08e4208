"""A side of a request is what is known once, of the user and the moment, or what each candidate item has of its own."""

from shardrec.data_pipeline.features.feature_kinds import Feature, FeatureCross
from shardrec.data_pipeline.features.schema import Schema


def depends_on_candidate(schema: Schema, name: str) -> bool:
    """Tells whether a feature's values differ between the candidates of one request.

    Those of role user and context do not, and those of role item and user_item do. Without a role a sequence, which is
    a history, does not; a cross of features does where one of these does; anything else may, so it does.
    """
    return _varies(schema[name])


def _varies(feature: Feature) -> bool:
    if feature.role is not None:
        return feature.role in ("item", "user_item")
    if feature.kind in ("sequence", "dense_sequence"):
        return False
    crossed = getattr(feature, "cross", None)
    return not isinstance(crossed, FeatureCross) or any(_varies(f) for f in crossed.features)
