"""Product networks put inner products, outer products or both through an MLP (Qu et al., ICDM 2016)."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from shardrec.models.base import PointwiseConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, PooledEmbeddings
from shardrec.models.layers.mlp import MLP, MLPConfig
from shardrec.models.layers.product import (
    FactorisedInnerProducts,
    InnerProducts,
    OuterProducts,
    PooledInnerProducts,
    PooledOuterProducts,
)

Inner = Literal["factorised", "full", "mean", "max"]
Outer = Literal["superposition", "full", "max"]


class ProductConfig(PointwiseConfig):
    """All product networks have these settings."""

    embedding_dim: int = Field(default=16, gt=0, lt=2**31)
    mlp: MLPConfig = MLPConfig()


class IPNNConfig(ProductConfig):
    """`ipnn` has `inner`: all products with W_p = theta theta^T or a full W_p, or their mean or maximum by field."""

    inner: Inner = "factorised"


class OPNNConfig(ProductConfig):
    """`opnn` has `outer`: the sum of all products, or their entrywise maximum; or every entry of all of them."""

    outer: Outer = "superposition"


class PNNConfig(IPNNConfig, OPNNConfig):
    """`pnn` has the settings of `ipnn` and of `opnn`."""


class ProductNetwork(Recommender):
    """y = MLP whose first layer is relu(l_z + l_p + b1), l_z^n = <W_z^n, z>, l_p^n = <W_p^n, p> (eqs. 1 to 5).

    z: the fields' vectors and the dense features; p: inner products, outer products, or both. W_z, b1 and every W_p
    without factorisation are the MLP's first layer over [z; p]; the factorised l_p is added to what that layer gives.
    """

    def __init__(self, fields: Fields, config: ProductConfig, inner: Inner | None, outer: Outer | None) -> None:
        tables = fields.tables(embedding_dim=config.embedding_dim)
        field = PooledEmbeddings(tables)
        super().__init__(
            inputs={"field": field, "dense": DenseFeatures(fields.dense)}, task=config.build_task(fields.schema)
        )
        count, dim = len(tables), field.width // len(tables)
        products: list[InnerProducts | PooledInnerProducts | OuterProducts | PooledOuterProducts] = []
        if inner is not None and inner != "factorised":
            products.append(InnerProducts(count) if inner == "full" else PooledInnerProducts(count, inner))
        if outer is not None:
            products.append(OuterProducts(count, dim) if outer == "full" else PooledOuterProducts(dim, outer))
        self.products = nn.ModuleList(products)
        self.mlp = MLP(field.width + len(fields.dense) + sum(p.width for p in products), config.mlp)
        first = self.mlp.layers[0]
        assert isinstance(first, nn.Linear)
        self.factorised = FactorisedInnerProducts(count, first.out_features) if inner == "factorised" else None

    def forward(self, field: Tensor, dense: Tensor) -> Tensor:
        """[B, F, D], [B, N] -> [B]."""
        first, rest = self.mlp.layers[0], self.mlp.layers[1:]
        x = first(torch.cat([field.flatten(1), dense, *(product(field) for product in self.products)], 1))
        if self.factorised is not None:
            x = x + self.factorised(field)
        return rest(x).squeeze(1)


class IPNN(ProductNetwork):
    """IPNN is the product network of inner products, p_ij = <f_i, f_j>."""

    def __init__(self, fields: Fields, config: IPNNConfig) -> None:
        super().__init__(fields, config, inner=config.inner, outer=None)


class OPNN(ProductNetwork):
    """OPNN is the product network of outer products, p_ij = f_i f_j^T."""

    def __init__(self, fields: Fields, config: OPNNConfig) -> None:
        super().__init__(fields, config, inner=None, outer=config.outer)


class PNN(ProductNetwork):
    """PNN* is the product network of inner and outer products together."""

    def __init__(self, fields: Fields, config: PNNConfig) -> None:
        super().__init__(fields, config, inner=config.inner, outer=config.outer)
