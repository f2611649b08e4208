"""A run may declare crosses: features whose ids are combinations of other features' ids."""

from pydantic import Field, field_validator

from shardrec.data_pipeline.declared.declaration import Declaration, Name
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import Feature, FeatureCross, IdFeature, IdListFeature, Role
from shardrec.data_pipeline.features.id_transforms import Cross
from shardrec.data_pipeline.features.schema import Schema


class CrossedFeatures(Declaration):
    """A cross is phi(x) = prod_i x_i over `features`' ids (Cheng et al., DLRS 2016, eq. 1), hashed to `num_ids` rows.

    What is combined are the table rows that the features have, whatever their `ids`: all numbers of a bucket are one.
    With id_list features among them each combination of one id of each feature is an id of the row.

    name: of the new feature; default: the features' names with `_x_` between
    max_length: combinations of a row that are kept, the last ones; for crosses with lists. None: a row with more than
        `MOST_COMBINATIONS` is an error
    """

    features: tuple[Name, ...]
    num_ids: int = Field(gt=0, lt=2**63)
    name: Name | None = None
    max_length: int | None = Field(default=None, gt=0, lt=2**31)

    @field_validator("features")
    @classmethod
    def _several(cls, features: tuple[str, ...]) -> tuple[str, ...]:
        if len(features) < 2:
            raise ValueError(f"a cross needs two or more features, found {list(features)}")
        if len(set(features)) < len(features):
            raise ValueError(f"a cross of a feature with itself says nothing more, found {list(features)}")
        return features

    @property
    def feature_name(self) -> str:
        """Returns the name of the feature that the cross makes."""
        return self.name or "_x_".join(self.features)

    def added_to(self, schema: Schema) -> Schema:
        """Returns the schema with this cross as one more feature, or as it is where it has that cross already.

        The cross is an id feature, an id_list where one of its features is. It is of the role that all its features
        have, if they agree, and of `user_item` where some are of the user and the others of the item. Raises UserError
        for an unknown feature, for one that is neither or belongs to another place of a transition, for a `max_length`
        of single ids, and where a feature that is not this cross is called so.
        """
        name = self.feature_name
        known = schema.by_name.get(name)
        if known is not None:
            if isinstance(known, IdFeature | IdListFeature) and self._is(known, schema):
                return schema
            length = f" of max_length {self.max_length}" if self.max_length else ""
            raise UserError(
                f"data.crosses: there is a feature {name!r} already, and it is not the cross of "
                f"{', '.join(self.features)} into {self.num_ids} rows{length}; give the cross of that `name` another"
            )
        crossed = tuple(self._source(schema, feature) for feature in self.features)
        role = _role_of({feature.role for feature in crossed})
        ids = FeatureCross(features=crossed, num_ids=self.num_ids)
        if self.max_length is not None and not ids.has_lists:
            raise UserError(
                f"data.crosses: {name!r} has a max_length, but its features have one id a row each, which makes one "
                "combination; leave max_length out"
            )
        if ids.has_lists:
            cross: Feature = IdListFeature(name=name, ids=ids, role=role, max_length=self.max_length)
        else:
            cross = IdFeature(name=name, ids=ids, role=role)
        return schema.model_copy(update={"features": (*schema.features, cross)})

    def _is(self, known: IdFeature | IdListFeature, schema: Schema) -> bool:
        """Tells whether a schema's feature is this cross: one that a run folder keeps, or one of columns called so."""
        cross, length = known.cross, known.max_length if isinstance(known, IdListFeature) else None
        if cross is None or (cross.num_ids, length) != (self.num_ids, self.max_length):
            return False
        if isinstance(cross, Cross):
            return cross.columns == self.features and cross.seed == 0
        there = {f.name for f in schema.features}
        return tuple(f.name for f in cross.features) == self.features and all(
            f == self._source(schema, f.name) for f in cross.features if f.name in there
        )

    def _source(self, schema: Schema, name: str) -> IdFeature | IdListFeature:
        where = f"data.crosses: {self.feature_name!r}"
        try:
            feature = schema[name]
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if not isinstance(feature, IdFeature | IdListFeature):
            raise UserError(
                f"{where}: feature {name!r} is of kind {feature.kind}; a cross needs features of kind id or id_list "
                "(`bucketize` makes ids of numbers)"
            )
        if feature.place != "now":
            raise UserError(
                f"{where}: feature {name!r} has place: {feature.place}; a cross is of the row's own features"
            )
        if isinstance(feature, IdListFeature) and feature.weights_are == "labels":
            raise UserError(f"{where}: the weights of feature {name!r} are labels, which its cross would give away")
        return feature.model_copy(update={"table": None})


def _role_of(roles: set[Role | None]) -> Role | None:
    if len(roles) == 1:
        return next(iter(roles))
    return "user_item" if roles <= {"user", "item", "user_item"} else None
