"""A field-aware factorization machine has factors for each field that an id may meet (Juan et al., RecSys 2016)."""

from pydantic import Field
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.models.base import PointwiseConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, PooledEmbeddings
from shardrec.models.layers.affine import Affine
from shardrec.models.layers.field_aware import field_aware_pairs


class FFMConfig(PointwiseConfig):
    """`ffm` has these settings of its own."""

    embedding_dim: int = Field(default=4, gt=0, lt=2**16, description="factors for each field, beside one weight")


class FFM(Recommender):
    """y = w0 + sum_i w_i x_i + sum_{i<j} <v_{i,f_j}, v_{j,f_i}> x_i x_j, dense features in the linear part.

    A row is `[w; v_1; ...; v_F]`, the factors for the fields in their order, so that tables are F times as wide as an
    FM's; those for its own field are not used. Pairs are of fields, as an FM's. Raises UserError for one field, and
    for tables of another width.
    """

    def __init__(self, fields: Fields, config: FFMConfig) -> None:
        count = len(fields.pooled)
        if count == 1:
            raise UserError(
                f"model: ffm pairs fields, and there is one, {fields.pooled[0]!r}; add features, or use `lr`"
            )
        tables = fields.tables(embedding_dim=count * config.embedding_dim, zero_columns=1)
        for table in tables.values():
            if table.embedding_dim != 1 + count * config.embedding_dim:
                raise UserError(
                    f"tables: {table.name!r} has an embedding_dim of its own, but a row of ffm holds factors for each "
                    f"of {count} fields; set model.embedding_dim, of one field's, and leave the table's out"
                )
        super().__init__(
            inputs={"field": PooledEmbeddings(tables), "dense": DenseFeatures(fields.dense)},
            task=config.build_task(fields.schema),
        )
        self.linear = Affine(len(fields.dense), config.start)

    def forward(self, field: Tensor, dense: Tensor) -> Tensor:
        """[B, F, 1 + F D], [B, N] -> [B]."""
        factors = field[:, :, 1:].unflatten(2, (field.shape[1], -1))
        return self.linear(dense) + field[:, :, 0].sum(1) + field_aware_pairs(factors)
