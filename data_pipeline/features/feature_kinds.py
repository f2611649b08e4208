"""A feature is of a kind, which says what a row has of it: an id, a list of ids, a sequence, a number or many.

Each kind says which Parquet columns it reads and how they become table rows (`ids`) or numbers (`transforms`). Crosses
of features are here too: they are made of features, and features of them.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from shardrec.data_pipeline.declared.declaration import Declaration, Name
from shardrec.data_pipeline.features.dense_transforms import DenseTransform
from shardrec.data_pipeline.features.id_transforms import Bucketize, Cross, Hash, Identity, Raw, Vocabulary

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

# ---------------------------------------------------------------- what all features have

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
