"""Two towers make vectors of users and of items, each computed alone, that meet in a dot product."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.declared.name_patterns import matches
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import DenseFeature
from shardrec.models.base import Recommender, RetrievalConfig
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, PooledEmbeddings
from shardrec.models.layers.mlp import MLP, MLPConfig
from shardrec.models.shared_space import Towers, Vectors

SIDES = ("user", "item")
COSINE_SCALE = 10.0  # where the learned factor of a cosine starts


class TwoTowerConfig(RetrievalConfig):
    """`two_tower` has these settings of its own; `user` and `item` are names or patterns of features of any kind."""

    embedding_dim: int = Field(default=16, gt=0, lt=2**31)
    user: tuple[str, ...] | None = Field(default=None, description="features of the user tower; None: of role user")
    item: tuple[str, ...] | None = Field(default=None, description="features of the item tower; None: of role item")
    mlp: MLPConfig = Field(default=MLPConfig(), description="hidden layers of each tower")
    vector_dim: int = Field(default=64, gt=0, lt=2**31, description="of user and item vectors")
    normalise: bool = Field(default=False, description="make all vectors of length 1")
    affine: bool = Field(
        default=True,
        description="learn a scale and a bias of the dot product; not in task: retrieval",
    )

    @model_validator(mode="after")
    def _spans_probabilities(self) -> "TwoTowerConfig":
        if self.task == "binary" and self.normalise and not self.affine:
            raise ValueError(
                "normalise with affine: false keeps probabilities between 0.27 and 0.73; set affine: true, or leave "
                "normalise out"
            )
        return self


class TwoTower(Recommender):
    """y = s <MLP_user([e; dense] of the user), MLP_item([e; dense] of the item)> + b (NeuralCF's two-tower variant).

    s and b are learned, from 1 and 0. With `normalise` s starts at 10: cosines lie in [-1, 1], where a sigmoid is close
    to 1/2, and Adam would take thousands of steps to a scale at which it is not.

    Tables are called after their id spaces in both towers: a user's last items and the item share one. Raises UserError
    for a context or user_item feature, for one that is in both towers, for one without role where roles decide, and for
    a tower without an id or id_list feature.
    """

    def __init__(self, fields: Fields, config: TwoTowerConfig) -> None:
        sides = _split(fields, {"user": config.user, "item": config.item})
        tables = {
            side: PooledEmbeddings(
                fields.tables(embedding_dim=config.embedding_dim, features=features.pooled), concat=True
            )
            for side, features in sides.items()
        }
        dense = {f"{side}_dense": DenseFeatures(tuple(features.dense)) for side, features in sides.items()}
        super().__init__(inputs={**tables, **dense}, task=config.build_any_task(fields.schema))
        self.user_tower, self.item_tower = (
            MLP(tables[side].width + len(sides[side].dense), config.mlp, out=config.vector_dim) for side in SIDES
        )
        self.normalise = config.normalise
        scale = COSINE_SCALE if config.normalise else 1.0
        affine = config.affine and not self.retrieves
        self.scale = nn.Parameter(torch.full((1,), scale)) if affine else None
        self.bias = nn.Parameter(torch.zeros(1)) if affine else None

    def forward(self, user: Tensor, item: Tensor, user_dense: Tensor, item_dense: Tensor) -> Tensor | Vectors:
        """[B, sum of D], [B, sum of D], [B, N_user], [B, N_item] -> [B]."""
        if self.retrieves:
            return self.vectors(user=user, item=item, user_dense=user_dense, item_dense=item_dense)
        product = (self.user_vectors(user, user_dense) * self.item_vectors(item, item_dense)).sum(1)
        if self.scale is None or self.bias is None:
            return product
        return self.scale * product + self.bias

    def user_vectors(self, user: Tensor, user_dense: Tensor) -> Tensor:
        """Returns users' vectors from user features alone: [B, sum of D], [B, N_user] -> [B, vector_dim]."""
        return self._scaled(self.user_tower(torch.cat([user, user_dense], 1)))

    def item_vectors(self, item: Tensor, item_dense: Tensor) -> Tensor:
        """Returns items' vectors from item features alone: [B, sum of D], [B, N_item] -> [B, vector_dim]."""
        return self._scaled(self.item_tower(torch.cat([item, item_dense], 1)))

    def halves(self) -> Towers:
        """Returns both towers' vectors, those of items times s: b ranks no items."""
        return Towers(self.user_vectors, self._scaled_items, ("user", "user_dense"), ("item", "item_dense"))

    def _scaled_items(self, item: Tensor, item_dense: Tensor) -> Tensor:
        vectors = self.item_vectors(item, item_dense)
        return vectors if self.scale is None else self.scale * vectors

    def _scaled(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors) if self.normalise else vectors


class _Side(NamedTuple):
    """A side has the names of one tower's features."""

    pooled: list[str]
    dense: list[str]


def _split(fields: Fields, named: dict[str, Sequence[str] | None]) -> dict[str, _Side]:
    """Deals the features to the towers. Raises UserError as `TwoTower` does."""
    names = (*fields.pooled, *fields.dense)
    for side, patterns in named.items():
        for pattern in patterns or ():
            if not any(matches(name, pattern) for name in names):
                raise UserError(f"two_tower: {side}: " + unknown("feature", pattern, names))
    sides = {side: _Side([], []) for side in SIDES}
    for name in names:
        reader = _side_of(name, fields, named)
        if reader is not None:
            is_dense = isinstance(fields.schema[name], DenseFeature)
            (sides[reader].dense if is_dense else sides[reader].pooled).append(name)
    for side, features in sides.items():
        if not features.pooled:
            raise UserError(
                f"two_tower: the {side} tower has no id or id_list feature; name one by `{side}` in the run file's "
                f"`model`, or give one `role: {side}` in schema.yaml"
            )
    return sides


def _side_of(name: str, fields: Fields, named: dict[str, Sequence[str] | None]) -> str | None:
    """Returns the tower that reads a feature; None where both towers' features are named and it is not among them."""
    named_for = [side for side, patterns in named.items() if any(matches(name, p) for p in patterns or ())]
    role = fields.schema[name].role
    if len(named_for) > 1:
        raise UserError(f"two_tower: feature {name!r} is named for both towers, `user` and `item`; leave it in one")
    if not named_for and None not in named.values():
        return None
    if role == "context":
        raise UserError(
            f"two_tower: feature {name!r} has role: context, known only when a request comes; vectors of a tower that "
            "reads it could not be computed ahead: name both towers' features without it (`user`, `item`), or "
            "leave it out by data.features"
        )
    if role == "user_item":
        raise UserError(
            f"two_tower: feature {name!r} has role: user_item, known only once the two meet, but a tower makes its "
            "vectors alone: name both towers' features without it (`user`, `item`), or leave it out by data.features"
        )
    if named_for:
        return named_for[0]
    if role is None:
        raise UserError(
            f"two_tower: feature {name!r} has no role, so its tower is not known; give it role: user or role: item in "
            "schema.yaml, name both towers' features by `user` and `item`, or leave it out by data.features"
        )
    return role if named[role] is None else None
