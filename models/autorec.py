"""AutoRec is an autoencoder of an item's or of a user's ratings (Sedhain et al., WWW 2015).

I-AutoRec reads rows of items, U-AutoRec rows of users; the data decide. No vector of all ratings is ever made: V r is a
bag of the ids that rated, weighted by their ratings, and only the rows of W and b that are asked for are looked up. In
training the asked ids are the rated ones, in evaluation held-out ones.

Given up: the penalty of whole-table L2 is on b as well, whose value lies in the same row of the table as W's.
"""

from math import log
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import IdListFeature
from shardrec.models.base import ModelConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import Jagged, Padded, PooledEmbeddings, SequenceEmbeddings
from shardrec.models.layers.activations import Activation, activation, input_width
from shardrec.models.layers.jagged_product import jagged_product
from shardrec.models.layers.padded import padded_product
from shardrec.models.metrics import Errors, MetricSet, PredictedValues, Predictions, Rows
from shardrec.models.metrics.collective import Collective
from shardrec.models.table_settings import TableInit
from shardrec.models.tasks import Task, Term, at_least_fp32


class AutoRecConfig(ModelConfig):
    """`autorec` has these settings of its own, and none of the pointwise models'."""

    hidden: int = Field(default=500, gt=0, lt=2**31, description="hidden units")
    activation: Activation = Field(default="sigmoid", description="g, of the hidden units")
    output: Literal["identity", "sigmoid"] = Field(default="identity", description="f; sigmoid spans the rating range")
    rated: str = Field(default="rated", description="id list with the ratings that are known as weights")
    asked: str = Field(default="asked", description="id list with the ratings to be predicted as weights")
    rating_range: tuple[float, float] = Field(
        default=(1.0, 5.0), description="what ratings are; predictions keep to it"
    )
    default: float | None = Field(default=None, description="prediction where nothing is known; None: the middle")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the hidden units")

    @model_validator(mode="after")
    def _default_is_a_rating(self) -> "AutoRecConfig":
        low, high = self.rating_range
        if not low < high:
            raise ValueError(f"rating_range needs its lower end first, found {list(self.rating_range)}")
        if not low < self.default_rating < high:
            raise ValueError(
                f"default is {self.default:g}, expected a number inside the rating_range {low:g} to {high:g}"
            )
        return self

    @property
    def default_rating(self) -> float:
        """Returns what is predicted where nothing is known."""
        return sum(self.rating_range) / 2 if self.default is None else self.default


class AutoRec(Recommender):
    """h(r) = f(W g(V r + mu) + b) (eq. 1), at the asked ids only.

    Rows of `decoder/...` are [b; W], from 0, with b counted from f^-1(default). So an asked id that training never saw
    has the prediction `default`, and so has every id of a row without ratings (V r = 0).
    """

    def __init__(self, fields: Fields, config: AutoRecConfig) -> None:
        for name in (config.rated, config.asked):
            declared = fields.schema[name]
            if not (isinstance(declared, IdListFeature) and declared.weighted):
                raise UserError(f"model autorec: feature {name!r} must be an id_list with `weights`, its ratings")
        width = input_width(config.activation, config.hidden)
        encoder = fields.table(
            config.rated, embedding_dim=width, group="encoder", init=TableInit(kind="normal", scale=0.03)
        )
        decoder = fields.table(
            config.asked, embedding_dim=config.hidden, zero_columns=1, group="decoder", init=TableInit(scale=0.0)
        )
        for table, columns in ((encoder, width), (decoder, 1 + config.hidden)):
            if table.embedding_dim != columns:
                raise UserError(
                    f"tables: embedding_dim of {table.name!r} is set, but this model's width is `model.hidden`"
                )
        if decoder.init.scale:
            raise UserError(
                f"tables: init of {decoder.name!r} is set to scale {decoder.init.scale:g}, but these rows start at 0, "
                "so that ids that training never saw have the default; name `encoder/*` alone"
            )
        super().__init__(
            inputs={
                "encode": PooledEmbeddings({config.rated: encoder}),
                "decode": SequenceEmbeddings({config.asked: decoder}),
            },
            task=RatingsOfAsked(config.rated, config.asked, config.rating_range),
        )
        self.config = config
        self.mu = nn.Parameter(torch.zeros(width))
        self.activation = activation(config.activation, config.hidden)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, encode: Tensor, decode: Jagged) -> Jagged:
        """[B, 1, H], rows [T, 1, 1 + H] -> the ratings [T] at the asked ids, which `weights` still has as they are."""
        vectors, known = self._hidden(encode)
        row = decode.row_of_position()
        score = jagged_product(decode.values.squeeze(1), vectors, row, decode.offsets)
        return decode._replace(values=torch.where(known[row], self._rating(score), self.config.default_rating))

    def padded(self, encode: Tensor, decode: Padded) -> Padded:
        """[B, 1, H], rows [B, L, 1, 1 + H] -> ratings [B, L]."""
        vectors, known = self._hidden(encode)
        score = self._rating(padded_product(decode.values.squeeze(2), vectors))
        return decode._replace(values=torch.where(known.unsqueeze(1), score, self.config.default_rating))

    def _hidden(self, encode: Tensor) -> tuple[Tensor, Tensor]:
        """Returns [1; g(V r + mu)], [B, 1 + H], and [B] bool: whether any rating is known."""
        pooled = encode.squeeze(1)
        hidden = self.dropout(self.activation(pooled + self.mu))
        return torch.cat([hidden.new_ones(hidden.shape[0], 1), hidden], 1), (pooled != 0).any(1)

    def _rating(self, score: Tensor) -> Tensor:
        """Returns f of scores, moved so that a score of 0 is the default."""
        low, high = self.config.rating_range
        default = self.config.default_rating
        if self.config.output == "identity":
            return score + default
        return low + (high - low) * torch.sigmoid(score + log((default - low) / (high - default)))


class RatingsOfAsked(Task):
    """The tower returns the ratings of the asked ids, `Jagged` of [T]; their labels are its weights. Squared error.

    Every asked id counts with its row's sample weight. Predictions, not the loss, keep to the rating range.
    """

    def __init__(self, rated: str, asked: str, rating_range: tuple[float, float]) -> None:
        self.features = (rated, asked)
        self.rating_range = rating_range

    def loss(self, output: Jagged, batch: Batch) -> dict[str, Term]:
        """Returns the sum of weight x squared error, and of weights, over the asked ids."""
        label, weight, values = _labels(output), _weights(output, batch), at_least_fp32(output.values)
        return {"squared_error": Term((weight * (values - label).square()).sum(), weight.sum())}

    def prediction(self, output: Jagged) -> Jagged:
        """Returns clipped ratings, in the order of the asked ids."""
        return output._replace(values=at_least_fp32(output.values).clamp(*self.rating_range))

    def metrics(self, collective: Collective | None = None, *, down_sampled: bool = False) -> MetricSet:
        """Makes rmse, mae and means over the asked ids; `rows` counts these."""

        def read(output: Jagged, batch: Batch) -> Predictions:
            score = output.values.double()
            value = score.clamp(*self.rating_range)
            return Predictions(score, value, _labels(output).double(), _weights(output, batch).double())

        return MetricSet([Errors(), PredictedValues(), Rows()], read, collective)

    def check(self, batch: Batch) -> None:
        """Raises UserError for a rating, known or asked, outside the range; NaN is an asked one that is not known."""
        assert batch.weighted_ids is not None
        low, high = self.rating_range
        for feature in self.features:
            ids = batch.weighted_ids[feature]
            is_right = (ids.weights() >= low) & (ids.weights() <= high)
            if feature == self.features[1]:  # of rows that are to be scored
                is_right |= ids.weights().isnan()
            if not bool(is_right.all()):
                position = int((~is_right).nonzero()[0])
                row = int(batch.rows[int((ids.offsets() <= position).sum()) - 1])
                raise UserError(
                    f"feature {feature!r}: found the rating {float(ids.weights()[position]):g} in row {row}, expected "
                    f"{low:g} to {high:g}; correct the data or set the model's rating_range"
                )

    def broken_rows(self, output: Jagged, batch: Batch) -> Tensor:
        """Returns [B] bool: the rows that have an asked rating which is not finite."""
        row = output.row_of_position()
        return torch.zeros_like(batch.live).index_fill_(0, row[~output.values.isfinite()], True)


def _labels(output: Jagged) -> Tensor:
    assert output.weights is not None
    return output.weights


def _weights(output: Jagged, batch: Batch) -> Tensor:
    """Returns each asked id's sample weight, [T]."""
    return batch.weights.repeat_interleave(output.lengths, output_size=len(output.values))
