"""Models of user-item pairs read two features, one of the user and one of the item."""

from collections.abc import Mapping

from pydantic import Field

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import Role
from shardrec.models.base import PointwiseConfig
from shardrec.models.fields import Fields
from shardrec.models.inputs import PooledEmbeddings
from shardrec.models.tables import EmbeddingTable


class UserItemConfig(PointwiseConfig):
    """Every model that reads one user feature and one item feature and no others has these settings."""

    user: str | None = Field(default=None, description="feature; None: the schema's first id feature of role user")
    item: str | None = Field(default=None, description="feature; None: the schema's first id feature of role item")

    def pair(self, fields: Fields) -> tuple[str, str]:
        """Returns the names of the user and the item feature.

        Raises UserError for an unknown feature, for the same one twice, and where none is named and no role says which.
        """
        user, item = feature_of(fields, "user", self.user), feature_of(fields, "item", self.item)
        if user == item:
            raise UserError(f"model: `user` and `item` are both {user!r}; they have to be two features")
        return user, item


def user_and_item(tables: Mapping[str, EmbeddingTable]) -> dict[str, PooledEmbeddings]:
    """Returns the inputs `user` and `item`, [B, D] each, of a pair of tables. Raises UserError where dims differ."""
    PooledEmbeddings(tables)
    return {
        side: PooledEmbeddings({feature: table}, concat=True)
        for side, (feature, table) in zip(("user", "item"), tables.items(), strict=True)
    }


def feature_of(fields: Fields, role: Role, named: str | None) -> str:
    """Returns `named`, or the schema's first id feature of that role."""
    if named is not None:
        if named not in fields.pooled:
            raise UserError(f"model: {role}: " + unknown("id or id_list feature", named, fields.pooled))
        return named
    first = next((f.name for f in fields.now if f.kind == "id" and f.role == role), None)
    if first is None:
        raise UserError(
            f"model: no id feature of the schema has role: {role}; name one by `{role}` in the run file's `model` "
            f"(it has: {', '.join(fields.pooled)}), or give it its role in schema.yaml"
        )
    return first
