"""A schema says what a row is: its features, labels, weight and group, and how they are read from Parquet columns.

`schema.yaml` lies beside prepared data and is this module's `Schema` written as YAML. A feature says which column it
reads and how that column becomes table rows (`ids`) or numbers (`transforms`); a run file may use any subset.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

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
from shardrec.data_pipeline.features.id_transforms import Bucketize, Cross, Hash, Identity, Raw, Vocabulary
from shardrec.data_pipeline.files.relative_names import within
from shardrec.data_pipeline.files.whole_files import whole_file

# ---------------------------------------------------------------- how a column becomes table rows

MOST_CROSSED = 256
"""Columns that one cross reads, at most, those of the crosses inside it included."""


class FeatureCross(Declaration):
    """A feature cross gives row XXH64 over the 8-byte XXH64 (seed 0) of several features' table rows, modulo `num_ids`.

    That is what `Cross` makes of columns that hold the rows. A missing value combines as the row that stands for it.
    With lists among the features, one of each feature's ids are combined at a time: each combination is an id of a
    list, and its weight the product of the weights that its ids have (1 for features without).
    """

    kind: Literal["feature_cross"] = "feature_cross"
    features: tuple["Crossable", ...] = Field(min_length=2)
    num_ids: int = Field(gt=0, lt=2**63)

    @model_validator(mode="after")
    def _of_few_columns(self) -> "FeatureCross":
        if len(self.columns) > MOST_CROSSED:
            raise ValueError(f"a cross reads {MOST_CROSSED} columns at most, found {len(self.columns)}")
        for f in self.features:
            if isinstance(f, IdListFeature) and f.weights_are == "labels":
                raise ValueError(f"a cross with {f.name!r} would give its labels away; leave it out")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Returns the Parquet columns that the crossed features read."""
        return tuple(column for feature in self.features for column in feature.columns)

    @property
    def has_lists(self) -> bool:
        """Returns whether there may be any number of combinations a row."""
        return any(isinstance(feature, IdListFeature) for feature in self.features)

    @property
    def weighted(self) -> bool:
        """Tells whether its combinations come with weights."""
        return any(isinstance(feature, IdListFeature) and feature.weighted for feature in self.features)

    @property
    def num_rows(self) -> int:
        """Returns how many rows there may be."""
        return self.num_ids


IdTransform = Annotated[
    Identity | Raw | Hash | Vocabulary | Bucketize | Cross | FeatureCross, Field(discriminator="kind")
]

# ---------------------------------------------------------------- how a column becomes numbers


class Log(Declaration):
    """Logs turn x into sign(x) ln(1 + |x|)."""

    kind: Literal["log"] = "log"


class Standardise(Declaration):
    """Standardising turns x into (x - mean) / deviation, both fitted on training rows at preparation."""

    kind: Literal["standardise"] = "standardise"
    mean: float = Field(allow_inf_nan=False)
    deviation: float = Field(gt=0, allow_inf_nan=False)


class Clip(Declaration):
    """Clipping turns x into min(max(x, low), high)."""

    kind: Literal["clip"] = "clip"
    low: float | None = Field(default=None, allow_inf_nan=True)
    high: float | None = Field(default=None, allow_inf_nan=True)

    @model_validator(mode="after")
    def _ascending(self) -> "Clip":
        low, high = (-inf if self.low is None else self.low), (inf if self.high is None else self.high)
        if not low <= high:
            raise ValueError(f"low must not be above high, found {self.low} and {self.high}")
        return self


DenseTransform = Annotated[Log | Standardise | Clip, Field(discriminator="kind")]

# ---------------------------------------------------------------- features

Role = Literal["user", "item", "user_item", "context"]
"""What a feature describes: who is asked for, what is scored, both of them together, or the moment of the request.

Vectors of items can be computed ahead of requests from item features alone, and a negative that is drawn for a row
takes another item's item features and keeps the others. A `user_item` feature is known only once both are.
"""

LoggedAt = Literal["now", "next", "candidate", "next_candidate"]
"""Where in a logged transition a value belongs: to the row itself, to the state that followed, to each item that could
have been shown, or to each one that could have been in the state that followed."""

CANDIDATES: tuple[LoggedAt, ...] = ("candidate", "next_candidate")


class _Feature(Declaration):
    """A feature has a name, a column, and what it describes.

    place, of: a feature that is not of `now` has the values of the feature `of` at another place of a transition. It
        has no `role` of its own but that one's.
    """

    name: Name
    column: Name | None = None
    role: Role | None = None
    place: LoggedAt = "now"
    of: Name | None = None

    @model_validator(mode="after")
    def _placed_of_something(self) -> Self:
        if (self.of is None) != (self.place == "now"):
            found = f"place: {self.place}" + (" without `of`" if self.of is None else f" and of: {self.of}")
            raise ValueError(f"`of` says whose values a feature has at another `place` than now; found {found}")
        return self


class _Sparse(_Feature):
    """A sparse feature has ids.

    `table` names their space: features of one `table` share one table per group of a model.
    """

    ids: IdTransform
    missing: Literal["error", "row"] = "error"
    table: Name | None = None

    @model_validator(mode="after")
    def _crossable(self) -> "_Sparse":
        if not isinstance(self.ids, Cross | FeatureCross):
            return self
        if not isinstance(self, IdFeature | IdListFeature) or self.column is not None:
            raise ValueError("a cross reads its own columns: kind must be id, or id_list for lists, without `column`")
        if isinstance(self, IdListFeature) and self.weights is not None:
            raise ValueError("a cross takes `weights` from what it is of; leave them out")
        if isinstance(self.ids, FeatureCross) and self.missing == "row":
            raise ValueError("`missing` is declared for what a feature_cross is of")
        if isinstance(self.ids, FeatureCross) and self.ids.has_lists != isinstance(self, IdListFeature):
            raise ValueError("kind must be id_list for a feature_cross with a list among its features, and else id")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Returns the Parquet columns that this feature reads."""
        return self.ids.columns if isinstance(self.ids, Cross | FeatureCross) else (self.column or self.name,)

    @property
    def cross(self) -> Cross | FeatureCross | None:
        """Returns what crosses columns to make its ids; None where nothing does.

        A cross is made when rows are read or was made at preparation.
        """
        made_by = self.ids.prepared if isinstance(self.ids, Identity) else self.ids
        return made_by if isinstance(made_by, Cross | FeatureCross) else None

    @property
    def num_embeddings(self) -> int:
        """Returns the rows that a table needs for this feature; with `missing: row` the last one stands for nulls."""
        return self.ids.num_rows + (self.missing == "row" and not isinstance(self.ids, Raw))

    @property
    def table_name(self) -> str:
        """Returns the name of the table that its ids are rows of."""
        return self.table or self.name


class IdFeature(_Sparse):
    """An id feature has one id a row."""

    kind: Literal["id"] = "id"


class IdListFeature(_Sparse):
    """An id list has any number of ids a row (an Arrow list; null is the empty list), whose embeddings are pooled.

    `weights` names a list column of numbers, as many as ids. The last `max_length` are kept (None: all; a cross that
    makes more than `MOST_COMBINATIONS` ids of a row needs it).
    With `weights_are: labels` they are what is predicted (a rating of every id): rows to be scored need none, and no
    model pools them.
    """

    kind: Literal["id_list"] = "id_list"
    weights: Name | None = None
    weights_are: Literal["values", "labels"] = "values"
    max_length: int | None = Field(default=None, gt=0, lt=2**31)

    @model_validator(mode="after")
    def _labels_have_a_column(self) -> "IdListFeature":
        if self.weights_are == "labels" and self.weights is None:
            raise ValueError("weights_are: labels needs `weights`, the column that holds them")
        return self

    @property
    def weighted(self) -> bool:
        """Tells whether its ids come with weights; those of `Schema.unlabelled` that stand for labels are NaN."""
        crossed = isinstance(self.ids, FeatureCross) and self.ids.weighted
        return crossed or self.weights is not None or self.weights_are == "labels"

    @property
    def columns(self) -> tuple[str, ...]:
        """Returns the Parquet columns that this feature reads."""
        return super().columns + ((self.weights,) if self.weights else ())


class SequenceFeature(_Sparse):
    """A sequence has an ordered list of ids a row, oldest first; the most recent `max_length` are kept.

    Sequences of one `aligned` name are checked to be equally long in every row.
    """

    kind: Literal["sequence"] = "sequence"
    max_length: int = Field(gt=0, lt=2**31)
    aligned: Name | None = None


class _Numbers(_Feature):
    """A feature of numbers has finite ones; null and NaN are errors unless `missing` gives a number for them."""

    transforms: tuple[DenseTransform, ...] = ()
    missing: Literal["error"] | float = "error"

    @property
    def columns(self) -> tuple[str, ...]:
        """Returns the one Parquet column that this feature reads."""
        return (self.column or self.name,)


class DenseFeature(_Numbers):
    """A dense feature has one number a row."""

    kind: Literal["dense"] = "dense"


class DenseSequenceFeature(_Numbers):
    """A dense sequence has a number for each id of the sequences that it is `aligned` with: prices of past items.

    It is as long as they are in every row, and its most recent `max_length` are kept.
    """

    kind: Literal["dense_sequence"] = "dense_sequence"
    max_length: int = Field(gt=0, lt=2**31)
    aligned: Name


SparseFeature = IdFeature | IdListFeature | SequenceFeature
NumericFeature = DenseFeature | DenseSequenceFeature
Feature = Annotated[
    IdFeature | IdListFeature | SequenceFeature | DenseFeature | DenseSequenceFeature, Field(discriminator="kind")
]


def _kind(feature: Any) -> str:
    """Returns the kind of a feature that a cross is of, which a schema need not give where it is `id`."""
    return str(feature.get("kind", "id") if isinstance(feature, Mapping) else getattr(feature, "kind", feature))


Crossable = Annotated[Annotated[IdFeature, Tag("id")] | Annotated[IdListFeature, Tag("id_list")], Discriminator(_kind)]


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
        for f in self.features:
            _check_placed(f, self.by_name)
        for place in CANDIDATES:
            _check_candidates(place, [f for f in self.features if f.place == place])
        placed = [(f.place, f.of) for f in self.features if f.of is not None]
        if (again := given_twice(placed)) is not None:
            first, second = (f.name for f in self.features if (f.place, f.of) == again)
            raise ValueError(
                f"features {first!r} and {second!r} both have place: {again[0]} and of: {again[1]}; leave one out"
            )

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


def _check_placed(f: Any, known: Mapping[str, Any]) -> None:
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
