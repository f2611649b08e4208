"""A run that takes over another run's table needs ids that mean the same rows: made alike, not only as many."""

from typing import Literal

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import FeatureCross, IdTransform, SparseFeature
from shardrec.data_pipeline.features.id_transforms import Identity, Raw, Vocabulary
from shardrec.data_pipeline.features.vocabulary import kept_values

Relation = Literal["same", "grown", "other"]


def check_same_rows(known: SparseFeature, known_folder: str, feature: SparseFeature, folder: str) -> None:
    """Raises UserError for a feature whose ids would mean other rows than those of the one whose table it takes.

    folders: of the schemas, where their vocabularies are

    Ids of a feature that nothing prepared may be more than before, and a vocabulary may go on after its old values; a
    row for missing values, the last one, keeps a table from growing. Everything else must be as it was.
    """
    relation = _relation(known, known_folder, feature, folder)
    if relation == "same" or (relation == "grown" and not _has_missing_row(known)):
        return
    those = "before" if known.name == feature.name else f"those of {known.name!r}"
    raise UserError(
        f"init_from: the ids of feature {feature.name!r} would mean other rows than {those} "
        f"({_shown(known, known_folder)}, now {_shown(feature, folder)}); only plain `identity` ids of one feature and "
        "vocabularies that begin as before may grow, without a row for missing values"
    )


def _relation(known: SparseFeature, known_folder: str, feature: SparseFeature, folder: str) -> Relation:
    before, after = made_by(known), made_by(feature)
    if isinstance(before, Vocabulary) and isinstance(after, Vocabulary):
        return _of_vocabularies(before, known_folder, after, folder)
    if isinstance(before, FeatureCross) and isinstance(after, FeatureCross):
        pairs = zip(before.features, after.features, strict=False)
        alike = len(before.features) == len(after.features) and before.num_ids == after.num_ids
        alike = alike and all(_relation(a, known_folder, b, folder) == "same" for a, b in pairs)
        return "same" if alike else "other"
    if known.ids == feature.ids or (isinstance(before, Raw) and before == after):
        return "same"
    plain = isinstance(before, Identity) and isinstance(after, Identity)  # nothing prepared either
    grown = plain and known.name == feature.name and before.num_rows < after.num_rows
    return "grown" if grown else "other"


def _of_vocabularies(before: Vocabulary, known_folder: str, after: Vocabulary, folder: str) -> Relation:
    """Compares the values in the files, or what is declared of them where a file is not there."""
    if (known_folder, before.path) == (folder, after.path):
        return "same" if before == after else "other"
    old, new = kept_values(known_folder, before.path), kept_values(folder, after.path)
    if old is None or new is None:
        return "same" if before == after else "other"
    if old.type != new.type or len(old) > len(new) or not old.equals(new.slice(0, len(old))):
        return "other"
    return "same" if len(old) == len(new) else "grown"


def made_by(feature: SparseFeature) -> IdTransform:
    """Returns what makes a feature's ids, when rows are read or at preparation."""
    ids = feature.ids
    if isinstance(ids, Raw):
        return Raw()
    return ids.prepared or ids if isinstance(ids, Identity) else ids


def _has_missing_row(feature: SparseFeature) -> bool:
    prepared = feature.ids.prepared if isinstance(feature.ids, Identity) else None
    return feature.missing == "row" or (prepared is not None and feature.ids.num_rows > prepared.num_rows)


def _shown(feature: SparseFeature, folder: str) -> str:
    made = made_by(feature)
    return f"{made} in {folder}" if isinstance(made, Vocabulary) else str(feature.ids)
