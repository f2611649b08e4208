"""Cross-product transformations that a run declares: features whose ids are combinations of other features' ids."""

from pydantic import Field, field_validator

from data_pipeline.declaration import Declaration
from data_pipeline.errors import UserError
from data_pipeline.schema import Cross, IdFeature, Role, Schema


class CrossedFeatures(Declaration):
    """phi(x) = prod_i x_i over the ids of `features` (Cheng et al., DLRS 2016, eq. 1), hashed into `num_ids` rows.

    name: of the new feature; default: the features' names with `_x_` between
    """

    features: tuple[str, ...]
    num_ids: int = Field(gt=0, lt=2**63)
    name: str | None = None

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
        return self.name or "_x_".join(self.features)

    def added_to(self, schema: Schema) -> Schema:
        """The schema with this cross as one more id feature, or as it is where it has that cross already.

        The cross is of the role that all its features have, if they agree; where one of them has a row for missing
        values, so has the cross. Raises UserError for an unknown feature, for one that has not exactly one id a row,
        and where another feature is called so.
        """
        name = self.feature_name
        known = next((f for f in schema.features if f.name == name), None)
        if known is not None:
            if isinstance(known, IdFeature) and isinstance(known.ids, Cross) and known.ids.num_ids == self.num_ids:
                return schema  # the schema that a run folder keeps
            raise UserError(f"data.crosses: there is a feature {name!r} already; give the cross of that `name` another")
        crossed = [self._source(schema, feature) for feature in self.features]
        roles: set[Role | None] = {feature.role for feature in crossed}
        cross = IdFeature(
            name=name,
            ids=Cross(columns=tuple(c for feature in crossed for c in feature.columns), num_ids=self.num_ids),
            role=roles.pop() if len(roles) == 1 else None,
            missing="row" if any(feature.missing == "row" for feature in crossed) else "error",
        )
        return schema.model_copy(update={"features": (*schema.features, cross)})

    def _source(self, schema: Schema, name: str) -> IdFeature:
        try:
            feature = schema[name]
        except UserError as error:
            raise UserError(f"data.crosses: {self.feature_name!r}: {error}") from None
        if not isinstance(feature, IdFeature):
            raise UserError(
                f"data.crosses: {self.feature_name!r}: feature {name!r} is of kind {feature.kind}; a cross needs "
                "features with one id a row (kind: id; `bucketize` makes one of numbers)"
            )
        return feature
