"""Deep Crossing stacks all fields and puts them through residual units (Shan et al., KDD 2016)."""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.base import PointwiseConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, PooledEmbeddings
from shardrec.models.layers.logit import Logit
from shardrec.models.layers.mlp import Width
from shardrec.models.layers.residual import ResidualUnit
from shardrec.models.tasks import MultiClass, Pointwise


class DeepCrossingConfig(PointwiseConfig):
    """`deep_crossing` has these settings of its own."""

    embedding_dim: int = Field(default=16, gt=0, lt=2**31)
    embedding: Literal["linear", "relu"] = Field(
        default="linear", description="a field's looked-up vector e, or max(0, e + b) with a bias for each field"
    )
    units: tuple[Width, ...] = Field(
        default=(512, 512, 256, 128, 64),
        max_length=1000,
        description="hidden sizes of the residual units, the paper's by default",
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of what a residual unit adds")
    classes: int | None = Field(
        default=None, ge=2, lt=2**31, description="softmax over so many classes; None: as `task` says"
    )

    @model_validator(mode="after")
    def _classes_fit(self) -> "DeepCrossingConfig":
        if self.classes is not None and self.task == "regression":
            raise ValueError(f"classes {self.classes} is not for task: regression; leave one of them out")
        for setting in ("top_k", "threshold"):
            if self.classes is not None and getattr(self, setting) != type(self).model_fields[setting].default:
                raise ValueError(f"{setting} is of two classes, found it beside classes: {self.classes}; leave it out")
        return self

    def build_task(self, schema: Schema) -> Pointwise:
        """Returns the task on the schema's label: with `classes` MultiClass, else as every pointwise model.

        Raises UserError for a label that the schema does not have, and for classes of down-sampled data.
        """
        task = super().build_task(schema)
        if self.classes is None:
            return task
        if schema.negative_rate != 1:
            raise UserError(
                f"model: classes: {self.classes}, but the schema's negative_rate is {schema.negative_rate:g}, which "
                "corrects predictions of two classes only; prepare the data without it, or leave classes out"
            )
        return MultiClass(task.label, self.classes)


class DeepCrossing(Recommender):
    """y = W unit_L(... unit_1([e_1; ...; e_F; dense])) + b: residual units over everything stacked, then the scores.

    Fields' dims may differ; dense features bypass the embeddings. With `embedding: relu` e_f is max(0, e_f + b_f), the
    paper's embedding layer max(0, W x + b) (eq. 1), whose W x is what is looked up.
    """

    def __init__(self, fields: Fields, config: DeepCrossingConfig) -> None:
        field = PooledEmbeddings(fields.tables(embedding_dim=config.embedding_dim), concat=True)
        super().__init__(
            inputs={"field": field, "dense": DenseFeatures(fields.dense)}, task=config.build_task(fields.schema)
        )
        self.bias = nn.Parameter(torch.zeros(field.width)) if config.embedding == "relu" else None  # b of all fields
        width = field.width + len(fields.dense)
        self.units = nn.Sequential(*(ResidualUnit(width, hidden, config.dropout) for hidden in config.units))
        self.output = Logit(width, config.classes or 1)
        self.is_multi_class = config.classes is not None

    def forward(self, field: Tensor, dense: Tensor) -> Tensor:
        """[B, sum of D], [B, N] -> [B], with `classes` [B, C]."""
        if self.bias is not None:
            field = torch.relu(field + self.bias)
        scores = self.output(self.units(torch.cat([field, dense], 1)))
        return scores if self.is_multi_class else scores.squeeze(1)
