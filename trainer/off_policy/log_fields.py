"""Log fields are the columns of a log that its evaluation reads: action, reward, propensity, position, time, group.

They are found in the log's schema: the action is its first id feature of role item, the reward its first label, and the
position a feature of that name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError, in_quotes
from shardrec.data_pipeline.features.feature_kinds import IdFeature
from shardrec.data_pipeline.features.id_transforms import Identity, Vocabulary
from shardrec.data_pipeline.features.schema import Label, Schema
from shardrec.data_pipeline.features.vocabulary import VALUE
from shardrec.data_pipeline.files.sealed_parquet import UNREADABLE
from shardrec.data_pipeline.prepare.steps.writer import SCHEMA_FILE

POSITION = "position"


@dataclass(frozen=True)
class LogFields:
    """Log fields are a schema's features and columns, by what an evaluation reads them as.

    folder: the schema's, for vocabularies
    """

    schema: Schema
    folder: str
    action: IdFeature
    reward: Label
    propensity: str
    position: IdFeature | None = None

    @classmethod
    def of(
        cls,
        schema: Schema,
        folder: str,
        *,
        action: str | None = None,
        reward: str | None = None,
        position: str | None = None,
    ) -> "LogFields":
        """Finds the fields of a schema, by name or by default. Raises UserError for what it has not."""
        if schema.propensity is None:
            raise UserError(
                f"{folder}/{SCHEMA_FILE}: found no `propensity`, expected the column with the probability with which "
                "each row's action was shown; write it into the log and name it, `propensity: COLUMN`"
            )
        shown_at = _position(schema, position)
        return cls(schema, folder, _action(schema, action), _reward(schema, reward), schema.propensity, shown_at)

    @property
    def candidates(self) -> dict[str, str]:
        """Returns the features of what could have been shown: by the name of the feature that each is of."""
        return self.schema.places("candidate")


def _action(schema: Schema, name: str | None) -> IdFeature:
    features = [f for f in schema.features if f.place == "now" and f.role == "item"]
    if name is None:
        single = [f for f in features if isinstance(f, IdFeature)]
        if not single:
            raise UserError(
                "the log's schema has no id feature of `role: item`, the action that was shown; declare it, or name "
                "the feature by --action"
            )
        return single[0]
    feature = schema[name]
    if not isinstance(feature, IdFeature):
        raise UserError(
            f"--action {name}: is of kind {feature.kind}, expected one id a row; a log of several actions a row is "
            "judged as a row for each of them"
        )
    if feature.place != "now":
        raise UserError(f"--action {name}: has place: {feature.place}, expected what the row itself shows")
    return feature


def _reward(schema: Schema, name: str | None) -> Label:
    if not schema.labels:
        raise UserError("the log's schema has no label, and so no reward; declare one")
    for label in schema.labels:
        if name in (None, label.name):
            return label
    raise UserError(f"--reward: {unknown('label', str(name), [label.name for label in schema.labels])}")


def _position(schema: Schema, name: str | None) -> IdFeature | None:
    if name is None:
        found = schema.by_name.get(POSITION)
        return found if isinstance(found, IdFeature) and found.place == "now" and found.role != "item" else None
    feature = schema[name]
    if not isinstance(feature, IdFeature) or feature.place != "now":
        raise UserError(f"--position {name}: expected a feature of one id a row")
    return feature


def schema_beside(paths: Sequence[str]) -> Path | None:
    """Returns the schema.yaml in the folder of a log's first path, or in that above; None where there is none."""
    if not paths or "://" in paths[0]:
        return None
    first = Path(paths[0]).absolute()
    for folder in (first, *first.parents[:2]):
        if (folder / SCHEMA_FILE).is_file():
            return folder / SCHEMA_FILE
    return None


def check_same_ids(ours: LogFields, feature: IdFeature, folder: str, whose: str) -> None:
    """Raises UserError where a feature of another schema makes other ids of the same values than the log's own does.

    feature, folder: the other schema's; whose: how an error line calls it
    """
    mine = next((f for f in (ours.action, ours.position) if f is not None and f.name == feature.name), None)
    if mine is None:
        names = [f.name for f in (ours.action, ours.position) if f is not None]
        raise UserError(f"{whose}: {unknown('feature', feature.name, names)}; name logs of the same features")
    first, second = mine.ids, feature.ids
    if isinstance(first, Identity) and isinstance(second, Identity):  # how many ids there are says nothing of each
        first, second = first.prepared or Identity(num_ids=1), second.prepared or Identity(num_ids=1)
    same = first == second
    if isinstance(first, Vocabulary) and isinstance(second, Vocabulary):
        same = _values(ours.folder, first) == _values(folder, second)
    if not same:
        raise UserError(
            f"{whose}: feature {in_quotes(feature.name)} has other ids than in {ours.folder}/{SCHEMA_FILE}; prepare "
            "both logs together, so that an id means the same in both"
        )


def _values(folder: str, vocabulary: Vocabulary) -> list[object]:
    path = f"{folder}/{vocabulary.path}"
    try:
        values: list[object] = pq.read_table(path, columns=[VALUE]).column(0).to_pylist()
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    return values
