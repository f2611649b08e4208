"""A schema says what a row is: its features, labels, weight and group, and how they are read from Parquet columns.

`schema.yaml` lies beside prepared data and is this module's `Schema` written as YAML. A feature says which column it
reads and how that column becomes table rows (`ids`) or numbers (`transforms`); a run file may use any subset.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from shardrec.data_pipeline.declared.declaration import (
    Declaration,
    Name,
    first_problem,
    given_twice,
    load_yaml,
    plain,
    unknown,
)
from shardrec.data_pipeline.declared.documents import dump_document
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import (
    DenseFeature,
    DenseSequenceFeature,
    Feature,
    FeatureCross,
    IdListFeature,
    LoggedAt,
    NumericFeature,
    SequenceFeature,
    SparseFeature,
)
from shardrec.data_pipeline.features.id_transforms import Cross, Identity, Raw, Vocabulary
from shardrec.data_pipeline.features.transitions import check_places
from shardrec.data_pipeline.files.relative_names import within
from shardrec.data_pipeline.files.whole_files import whole_file


class Label(Declaration):
    """A label is what is predicted. With `threshold`, values >= threshold become 1 and the others 0."""

    name: Name = "label"
    column: Name | None = None
    threshold: float | None = None
    missing: Literal["error"] | float = "error"

    @property
    def columns(self) -> tuple[str, ...]:
        """Returns the one Parquet column that this label reads."""
        return (self.column or self.name,)


class Schema(Declaration):
    """A schema is all that is known of a data set's rows.

    `weight` is a column of sample weights, `group` one of integers or strings that grouped metrics (GAUC) go by,
    `keys` are columns that predictions carry along. `negative_rate` is the share of negatives that training data keeps
    (down-sampling at preparation): predictions are corrected by it. `propensity` is a column of the probabilities with
    which logged items were shown, `time` one that the rows are in order of; neither goes into batches.
    """

    features: tuple[Feature, ...] = Field(min_length=1)
    labels: tuple[Label, ...] = (Label(),)
    weight: Name | None = None
    group: Name | None = None
    keys: tuple[Name, ...] = ()
    negative_rate: float = Field(default=1.0, gt=0, le=1)
    propensity: Name | None = None
    time: Name | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Schema":
        for kind, names in (("feature", [f.name for f in self.features]), ("label", [x.name for x in self.labels])):
            if (twice := given_twice(names)) is not None:
                raise ValueError(f"{kind} {twice!r} is declared twice")
        self._check_tables()
        self._check_together()
        return self

    def _check_together(self) -> None:
        """Raises ValueError for features that need others, or do not go with them: of one list, of one transition."""
        self._check_aligned()
        check_places(self.features)

    def _check_tables(self) -> None:
        first_of_table: dict[str, SparseFeature] = {}
        for f in self.sparse:
            earlier = first_of_table.setdefault(f.table_name, f)
            if earlier.num_embeddings != f.num_embeddings:
                raise ValueError(
                    f"features {earlier.name!r} and {f.name!r} share table {f.table_name!r} but need "
                    f"{earlier.num_embeddings} and {f.num_embeddings} rows; give them the same ids or other tables"
                )

    def _check_aligned(self) -> None:
        first_aligned: dict[str, SequenceFeature | DenseSequenceFeature] = {}
        for f in self.features:
            if not isinstance(f, SequenceFeature | DenseSequenceFeature) or f.aligned is None:
                continue
            companion = first_aligned.setdefault(f.aligned, f)
            if companion.max_length != f.max_length:
                raise ValueError(
                    f"sequences {companion.name!r} and {f.name!r} are aligned as {f.aligned!r} but keep "
                    f"{companion.max_length} and {f.max_length} elements; give them one max_length"
                )
        of_ids = {f.aligned for f in self.sparse if isinstance(f, SequenceFeature)}
        for numbers in self.dense_sequences:
            if numbers.aligned not in of_ids:
                raise ValueError(
                    f"dense_sequence {numbers.name!r} is aligned as {numbers.aligned!r}, but no sequence of ids is; "
                    f"give the one that its numbers lie beside `aligned: {numbers.aligned}`"
                )

    @property
    def sparse(self) -> tuple[SparseFeature, ...]:
        """Returns the features of ids."""
        return tuple(f for f in self.features if not isinstance(f, NumericFeature))

    @property
    def dense(self) -> tuple[DenseFeature, ...]:
        """Returns the features of one number a row."""
        return tuple(f for f in self.features if isinstance(f, DenseFeature))

    @property
    def dense_sequences(self) -> tuple[DenseSequenceFeature, ...]:
        """Returns the features of many numbers a row."""
        return tuple(f for f in self.features if isinstance(f, DenseSequenceFeature))

    def places(self, place: LoggedAt) -> dict[str, str]:
        """Returns the features at a place other than now: the name of what each is `of` -> its own."""
        return {f.of: f.name for f in self.features if f.place == place and f.of is not None}

    def __getitem__(self, name: str) -> Any:
        """Returns the feature called `name`. Raises UserError naming the nearest known one."""
        if name not in self.by_name:
            raise UserError(unknown("feature", name, list(self.by_name)))
        return self.by_name[name]

    @cached_property
    def by_name(self) -> Mapping[str, Any]:
        """Returns the features by name."""
        return {f.name: f for f in self.features}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Returns a copy with other values, unchecked, as pydantic does; what was cached of the first is left out."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("by_name", None)
        return copied

    def sharing(self, table: str, names: Iterable[str]) -> "Schema":
        """Returns the schema with these features on one table. Raises UserError where they cannot share one."""
        wanted = {self[name].name for name in names}
        for name in sorted(wanted):
            if isinstance(self[name], NumericFeature):
                raise UserError(
                    f"feature {name!r} is {self[name].kind}; only features of ids share a table ({table!r})"
                )
        features = tuple(f.model_copy(update={"table": table}) if f.name in wanted else f for f in self.features)
        try:
            return Schema.model_validate(self.model_dump() | {"features": features})
        except ValidationError as error:
            raise UserError(first_problem(error)) from None

    def unlabelled(self) -> "Schema":
        """Returns the schema of rows that are to be scored: labels, weight, group, propensity and time are unknown."""
        features = tuple(
            f.model_copy(update={"weights": None}) if isinstance(f, IdListFeature) and f.weights_are == "labels" else f
            for f in self.features
        )
        unknown_columns = dict.fromkeys(("weight", "group", "propensity", "time"))
        return self.model_copy(update={"features": features, "labels": (), **unknown_columns})

    def subset(self, names: Iterable[str] | None) -> "Schema":
        """Returns the schema with these features only, in the schema's order (None: all)."""
        if names is None:
            return self
        wanted = set(names)
        for name in sorted(wanted):
            self[name]
        return self.model_copy(update={"features": tuple(f for f in self.features if f.name in wanted)})

    def chosen(self, names: Iterable[str]) -> "Schema":
        """Returns the schema with the features that a run names. Raises UserError where they need one left out."""
        chosen = self.subset(names)
        try:
            chosen._check_together()
        except ValueError as error:
            raise UserError(f"data.features: {error}") from None
        return chosen

    def without(self, names: Iterable[str]) -> "Schema":
        """Returns the schema with its other features."""
        left_out = set(names)
        return self.model_copy(update={"features": tuple(f for f in self.features if f.name not in left_out)})

    def raw(self) -> "Schema":
        """Returns the schema of raw rows, as they were before preparation: what a server of single requests reads.

        Features that preparation turned into rows get the transform that it used. The result is for reading only.
        """
        return self.model_copy(update={"features": tuple(_raw(f) for f in self.features)})

    @property
    def vocabularies(self) -> tuple[str, ...]:
        """Returns the files that reading rows takes, relative to the schema's folder."""
        return tuple(dict.fromkeys(path for f in self.sparse for path in _vocabularies(f)))

    @property
    def named_files(self) -> tuple[str, ...]:
        """Returns the files beside the schema that it names, relative to its folder.

        They are its `vocabularies`, and those by which rows were prepared, which tell what the ids mean.
        """
        return tuple(dict.fromkeys((*self.vocabularies, *self.raw().vocabularies)))

    @classmethod
    def load(cls, path: str | Path) -> "Schema":
        """Reads `schema.yaml`.

        Raises UserError for a missing file, broken YAML, an undeclared key, and a name that leads out of its folder.
        """
        schema = load_yaml(cls, path, "schema; write one or make it with `shardrec prepare`")
        if "://" not in str(path):
            for name in schema.named_files:
                within(Path(path).parent, name)
        return schema

    def save(self, path: str | Path) -> None:
        """Writes `schema.yaml`, leaving out what equals its default (but never `kind`)."""
        text = dump_document(plain(self), flow=None)
        with whole_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _raw(f: Any) -> Any:
    """Returns one feature as `Schema.raw` has it."""
    ids = None if isinstance(f, NumericFeature) else f.ids
    if isinstance(ids, FeatureCross):
        return f.model_copy(update={"ids": ids.model_copy(update={"features": tuple(map(_raw, ids.features))})})
    if isinstance(ids, Raw):
        return f.model_copy(update={"ids": Raw(), "column": ids.prepared_column or f.column})
    if not isinstance(ids, Identity) or ids.prepared is None:
        return f
    missing = "row" if ids.num_ids > ids.prepared.num_rows else f.missing
    column = None if isinstance(ids.prepared, Cross) else ids.prepared_column or f.column
    return f.model_copy(update={"ids": ids.prepared, "missing": missing, "column": column})


def _vocabularies(f: SparseFeature) -> list[str]:
    if isinstance(f.ids, FeatureCross):
        return [path for source in f.ids.features for path in _vocabularies(source)]
    return [f.ids.path] if isinstance(f.ids, Vocabulary) else []
