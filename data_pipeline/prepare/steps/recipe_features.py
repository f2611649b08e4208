"""A recipe's features are those of a schema whose vocabularies, means and deviations are still to be fitted."""

from typing import Annotated, Literal, Self

import pyarrow as pa
from pydantic import Field, model_validator

from shardrec.data_pipeline.declared.declaration import Declaration, Name
from shardrec.data_pipeline.features.dense_transforms import Clip, Log
from shardrec.data_pipeline.features.feature_kinds import LoggedAt, Role
from shardrec.data_pipeline.features.id_transforms import Bucketize, Cross, Hash, Identity, Raw

READ_AS = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64()}
"""A recipe's `type` -> what raw values are read as."""


class FitVocabulary(Declaration):
    """A vocabulary is to be fitted: values that training rows hold at least `min_count` times, others get row 0.

    The most frequent come first, and at most `max_size` of them are kept (None: all).
    """

    kind: Literal["vocabulary"] = "vocabulary"
    min_count: int = Field(default=1, ge=1, lt=2**63)
    max_size: int | None = Field(default=None, ge=1, lt=2**63)


class FitStandardise(Declaration):
    """Mean and deviation are to be fitted: (x - mean) / deviation.

    They are those of what training rows hold at this place among the transforms, missing values left out; of a feature
    at another place of a transition, those of the feature that it is `of`.
    """

    kind: Literal["standardise"] = "standardise"


RecipeIds = Annotated[Identity | Raw | Hash | Bucketize | Cross | FitVocabulary, Field(discriminator="kind")]
RecipeTransform = Annotated[Log | FitStandardise | Clip, Field(discriminator="kind")]


class _Feature(Declaration):
    name: Name
    column: Name | None = None
    role: Role | None = None
    place: LoggedAt = "now"
    of: Name | None = None


class _Ids(_Feature):
    """A recipe's feature of ids also says what raw values are read as.

    type: by default integer for identity, number for bucketize, string for everything else
    """

    ids: RecipeIds
    type: Literal["string", "integer", "number"] | None = None
    missing: Literal["error", "row"] = "error"
    table: Name | None = None

    @model_validator(mode="after")
    def _crosses_single_values(self) -> "_Ids":
        if isinstance(self.ids, Cross) and not isinstance(self, RecipeId):
            raise ValueError(
                "a recipe crosses single values: kind must be id; `data.crosses` of a run file takes lists"
            )
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Returns the raw columns that the feature reads."""
        return self.ids.columns if isinstance(self.ids, Cross) else (self.column or self.name,)

    @property
    def table_name(self) -> str:
        """Returns the name of the table that its ids are rows of."""
        return self.table or self.name

    @property
    def raw_type(self) -> pa.DataType:
        """Returns what the raw values are read as."""
        by_default = {"identity": "integer", "bucketize": "number"}.get(self.ids.kind, "string")
        return READ_AS[self.type or by_default]


class RecipeId(_Ids):
    """An id feature has one id a row."""

    kind: Literal["id"] = "id"


class RecipeIdList(_Ids):
    """An id list has ids between `separator`s in one field, pooled; `weights` names a field of as many numbers."""

    kind: Literal["id_list"] = "id_list"
    separator: str = Field(default="|", min_length=1)
    weights: Name | None = None
    max_length: int | None = Field(default=None, gt=0, lt=2**31)


class RecipeSequence(_Ids):
    """A sequence has ids between `separator`s in one field, oldest first."""

    kind: Literal["sequence"] = "sequence"
    separator: str = Field(default="|", min_length=1)
    max_length: int = Field(gt=0, lt=2**31)
    aligned: Name | None = None


class _Numbers(_Feature):
    """A recipe's feature of numbers has `missing` in place of an empty field or element, before the transforms."""

    transforms: tuple[RecipeTransform, ...] = ()
    missing: Literal["error"] | float = "error"

    @model_validator(mode="after")
    def _one_fit(self) -> Self:
        if sum(isinstance(t, FitStandardise) for t in self.transforms) > 1:
            raise ValueError("at most one standardise per feature")
        return self

    @property
    def raw_column(self) -> str:
        """Returns the raw column that the feature reads."""
        return self.column or self.name


class RecipeDense(_Numbers):
    """A dense feature has one number a row."""

    kind: Literal["dense"] = "dense"


class RecipeDenseSequence(_Numbers):
    """A dense sequence has numbers between `separator`s in one field, beside the ids of the sequences `aligned` alike.

    An empty element is a missing number.
    """

    kind: Literal["dense_sequence"] = "dense_sequence"
    separator: str = Field(default="|", min_length=1)
    max_length: int = Field(gt=0, lt=2**31)
    aligned: Name


RecipeFeature = Annotated[
    RecipeId | RecipeIdList | RecipeSequence | RecipeDense | RecipeDenseSequence, Field(discriminator="kind")
]
