"""`data.negatives` of a run file says how negatives are drawn, and so which features a drawn item brings along.

A run file is read through this module, so it imports nothing heavy; `negatives.py` does the drawing.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from shardrec.data_pipeline.declared.declaration import Declaration, Place, unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import (
    DenseSequenceFeature,
    Feature,
    FeatureCross,
    IdFeature,
    NumericFeature,
    SequenceFeature,
)
from shardrec.data_pipeline.features.schema import Schema

PER_POSITIVE = 4


class NegativeSampling(Declaration):
    """`data.negatives` takes training rows as positives and says what each is told from.

    Negatives of a row's own are further rows, `per_positive` of them for each: 4, unless a batch shares its negatives.
    Items that all rows of a global batch share (`shared`, drawn for it, and with `in_batch` those of its rows) are for
    `task: retrieval`.

    user, item: the features whose pairs are known from training and never drawn as a row's own
    distribution: of the shared items: each item as often, or by how many training rows have it
    items: a Parquet file with one row an item (its column and those of all features of role `item`), which are the
        candidates; None: the items of the training rows, with the features of their first row
    """

    per_positive: int | None = Field(default=None, gt=0, lt=2**20)
    shared: int | None = Field(default=None, gt=0, lt=2**24)
    in_batch: bool = False
    user: str = "user"
    item: str = "item"
    distribution: Literal["uniform", "popularity"] = "uniform"
    items: Place | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_rows_unless_shared(cls, settings: Any) -> Any:
        """Gives rows negatives of their own where nothing else is asked for."""
        if not isinstance(settings, Mapping) or settings.get("shared") is not None or settings.get("in_batch"):
            return settings
        return {**settings, "per_positive": PER_POSITIVE if (n := settings.get("per_positive")) is None else n}

    @model_validator(mode="after")
    def _fit_together(self) -> "NegativeSampling":
        if self.of_the_batch and self.per_positive is not None:
            raise ValueError(
                "per_positive gives each row negatives of its own, shared and in_batch give all rows the same; choose"
            )
        if self.distribution != "uniform" and self.shared is None:
            raise ValueError(
                f"distribution: {self.distribution} is of the items that a batch shares; set `shared: 1000`, say, or "
                "leave it out"
            )
        return self

    @property
    def of_the_batch(self) -> bool:
        """Says whether negatives are items that all rows of a batch share, and not rows of their own."""
        return self.shared is not None or self.in_batch

    @property
    def pair(self) -> tuple[str, ...]:
        """Returns the features that drawing goes by: the item, and the user where negatives are a row's own."""
        return (self.item,) if self.of_the_batch else (self.user, self.item)

    @property
    def rows_per_positive(self) -> int:
        """Returns how many rows a positive makes, itself included."""
        return 1 + (self.per_positive or 0)

    def state(self) -> dict[str, Any]:
        """Returns the settings for a checkpoint; what runs of before these settings do not have is left out."""
        later = ("shared", "in_batch")
        return {k: v for k, v in self.model_dump().items() if k not in later or v != type(self).model_fields[k].default}

    def positives_of(self, global_batch_size: int, lanes: int | None) -> int:
        """Returns the positives of a global batch.

        Raises UserError unless they and their negatives fill it, in equal lanes.
        """
        from shardrec.data_pipeline.reading.order import (
            MOST_DEFAULT_LANES,
        )  # order.py needs NumPy, and a run file is read without

        each = self.rows_per_positive
        if each == 1:
            return global_batch_size
        parts = lanes or 1
        if global_batch_size % (each * parts) == 0:
            return global_batch_size // each
        step = each * (lanes or MOST_DEFAULT_LANES)  # these multiples may have any default number of lanes
        step = step if step <= global_batch_size else each * parts
        below = global_batch_size // step * step
        raise UserError(
            f"data.global_batch_size {global_batch_size} counts negatives too and has to be a multiple of {each} "
            f"(1 + negatives.per_positive)" + (f" x {lanes} lanes" if lanes else "") + "; the nearest that suit: "
            f"{f'{below} or ' if below else ''}{below + step}"
        )

    @property
    def _named(self) -> tuple[tuple[str, str], ...]:
        """Returns the settings that name the features of `pair`, each with its feature."""
        return tuple((key, name) for key, name in (("user", self.user), ("item", self.item)) if name in self.pair)

    def read_from(self, schema: Schema, features: Iterable[str]) -> Schema:
        """Returns the schema of what a model reads and of the pair; crosses in it have a role that says where they go.

        Raises UserError for a pair that a schema has not, and for a cross that goes neither with the item nor without.
        """
        names = [f.name for f in schema.features]
        for key, name in self._named:
            if name not in names:
                raise UserError(f"data.negatives.{key}: {unknown('feature', name, names)}")
        read = []
        for f in schema.subset((*features, *self.pair)).features:
            if f.name not in self.pair and not isinstance(f, NumericFeature) and f.cross is not None:
                f = f.model_copy(update={"role": "item" if self._goes_with_item(f, schema) else "context"})
            read.append(f)
        return schema.model_copy(update={"features": tuple(read)})

    def _goes_with_item(self, feature: Feature, schema: Schema) -> bool:
        """Tells whether a drawn item brings a feature along.

        Raises UserError where that is not known, or true of a part.
        """
        if feature.name in self.pair:
            return feature.name == self.item
        cross = None if isinstance(feature, NumericFeature) else feature.cross
        if cross is None:
            return self._role_of(feature) == "item"
        if isinstance(cross, FeatureCross):
            parts = {self._goes_with_item(source, schema) for source in cross.features}
        else:
            crossed_schema = (
                schema if feature.columns == cross.columns else schema.raw()
            )  # crossed at preparation: raw columns
            parts = {self._column_goes_with_item(column, feature, crossed_schema) for column in cross.columns}
        if len(parts) == 2:
            raise UserError(
                f"data.negatives: feature {feature.name!r} is a cross of the item with others and would keep the "
                "positive's id beside a drawn item, which gives the label away; leave it out of data.features or "
                "data.crosses"
            )
        return parts.pop()

    def _column_goes_with_item(self, column: str, cross: Feature, schema: Schema) -> bool:
        """Tells it of one column; one that no feature of a role reads goes where the role of its cross says."""
        readers = [f for f in schema.sparse if f.cross is None and column in f.columns]
        with_role = [f for f in readers if f.name in (self.user, self.item) or (f.role and self._role_of(f))]
        if not with_role:
            return self._role_of(cross) == "item"
        return any(f.name == self.item or (f.name != self.user and f.role == "item") for f in with_role)

    def _role_of(self, feature: Feature) -> str:
        if feature.place != "now":
            raise UserError(
                f"data.negatives: feature {feature.name!r} (place: {feature.place}) is of a logged transition, and a "
                "drawn item led to none; leave negatives out, or the feature by data.features"
            )
        if feature.role == "user_item":
            raise UserError(
                f"data.negatives: feature {feature.name!r} has role: user_item, so it is not known what it would be of "
                "the user and a drawn item; leave it out by data.features"
            )
        if feature.role is None:
            raise UserError(
                f"data.negatives: feature {feature.name!r} has no role, so it is not known whether it goes with a "
                "drawn item; give it role: user, item or context in schema.yaml, or leave it out by data.features"
            )
        return feature.role

    def item_features(self, schema: Schema) -> tuple[str, ...]:
        """Returns those of the schema's features that a drawn item brings along, itself first.

        schema: as `read_from` gives it

        Raises UserError for a user or item that is not an id feature, for a feature without role, and for data that
        were down-sampled.
        """
        if schema.negative_rate != 1:
            raise UserError(
                f"data.negatives: the data keep the share {schema.negative_rate:g} of their negatives (schema.yaml's "
                "negative_rate), but others are drawn for rows that are all positives; prepare positives only"
            )
        for key, name in self._named:
            if not isinstance(schema[name], IdFeature):
                raise UserError(
                    f"data.negatives.{key}: feature {name!r} is of kind {schema[name].kind}; expected one id a row"
                )
        others = [f for f in schema.features if f.name not in self.pair]
        aligned: dict[str, str] = {}
        for f in others:
            role = self._role_of(f)
            together = f.aligned if isinstance(f, SequenceFeature | DenseSequenceFeature) else None
            if together and aligned.setdefault(together, role) != role:
                raise UserError(
                    f"data.negatives: sequences aligned as {together!r} have the roles {aligned[together]} and "
                    f"{f.role}; give them one role"
                )
        return (self.item, *(f.name for f in others if f.role == "item"))
