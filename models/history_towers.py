"""History towers make a user's vector of a history of items, whose vectors are those of the items to be found."""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.models.base import Recommender, RetrievalConfig
from shardrec.models.fields import Fields
from shardrec.models.inputs import Input, Jagged, Padded, PooledEmbeddings, SequenceEmbeddings
from shardrec.models.layers.jagged_sum import jagged_sum
from shardrec.models.layers.padded import padded_mean_weights, padded_sum
from shardrec.models.shared_space import Towers, Vectors
from shardrec.models.tables import EmbeddingTable
from shardrec.models.user_item import feature_of


class HistoryTowersConfig(RetrievalConfig):
    """Every model whose user tower reads a history of items has these settings; it is trained to retrieve by default.

    Its items have an id alone.
    """

    task: Literal["binary", "regression", "retrieval"] = "retrieval"
    embedding_dim: int = Field(default=64, gt=0, lt=2**31)
    item: str | None = Field(default=None, description="id feature; None: the schema's first of role item")
    history: str | None = Field(default=None, description="sequence; None: the schema's first on the item's table")
    without_target: bool = Field(
        default=True, description="leave the row's own item out of its history, in training; where histories end before"
    )


class HistoryTowers(Recommender):
    """y = <f(history, ...), v_item>, with a scale and a bias where the task is not retrieval.

    A subclass makes `of_user` of its inputs: `history` [T, 1, D], padded too, and those that it gave to this
    constructor. Raises UserError where no feature is the item, and where no sequence has its ids.
    """

    of_user: Callable[..., Tensor]

    def __init__(self, fields: Fields, config: HistoryTowersConfig, **of_user: Input) -> None:
        item = feature_of(fields, "item", config.item)
        history = _history(fields, config.history, item)
        table = fields.table(item, embedding_dim=config.embedding_dim)
        inputs: dict[str, Input] = {
            "history": SequenceEmbeddings({history: fields.table(history, embedding_dim=config.embedding_dim)}),
            "item": PooledEmbeddings({item: table}, concat=True),
        }
        super().__init__(inputs={**inputs, **of_user}, task=config.build_any_task(fields.schema))
        self.user_inputs = ("history", *of_user)
        self.dim = table.embedding_dim
        if config.without_target:
            self.item_of = {history: item}
        self.scale = None if self.retrieves else nn.Parameter(torch.ones(1))
        self.bias = None if self.retrieves else nn.Parameter(torch.zeros(1))

    @property
    def padded(self) -> Callable[..., Tensor | Vectors]:  # type: ignore[override]
        """Returns `forward`, which reads padded histories too."""
        return self.forward

    def halves(self) -> Towers:
        """Returns `of_user` and the item's table row."""
        return Towers(self.of_user, _as_it_is, self.user_inputs, ("item",))

    def scored(self, **inputs: Tensor | Jagged | Padded) -> Tensor | Vectors:
        """Returns the vectors that a model of retrieval learns from, else logits [B]."""
        vectors = self.vectors(**inputs)
        if self.scale is None or self.bias is None:
            return vectors
        return self.scale * vectors.pairs + self.bias


def mean_of(history: Jagged | Padded) -> Tensor:
    """Returns the mean of each row's events, 0 for a row without: [T, 1, D] or [B, L, 1, D] -> [B, D]."""
    events = history.values.flatten(-2)
    if isinstance(history, Padded):
        return padded_sum(events, padded_mean_weights(history.live, events.dtype))
    row = history.row_of_position()
    share = 1 / history.lengths.clamp(min=1).to(events.dtype)
    return jagged_sum(events, share[row], row, history.offsets)


def side_tables(fields: Fields, patterns: tuple[str, ...] | None, embedding_dim: int) -> dict[str, EmbeddingTable]:
    """Returns the tables of the user's pooled features: those that match the patterns, or (None) have role user."""
    if patterns is None:
        names = tuple(name for name in fields.pooled if fields.schema[name].role == "user")
    else:
        names = fields.select(patterns) if patterns else ()
    return fields.tables(embedding_dim=embedding_dim, features=names) if names else {}


def _as_it_is(item: Tensor) -> Tensor:
    return item


def _history(fields: Fields, named: str | None, item: str) -> str:
    """Returns the sequence that is named, or the first one on the item's table."""
    table = fields.schema[item].table_name
    if named is not None and named not in fields.sequences:
        raise UserError("model: history: " + unknown("sequence feature", named, fields.sequences))
    for name in fields.sequences if named is None else (named,):
        if fields.schema[name].table_name == table:
            return name
    found = f"{named!r} looks up table {fields.schema[named].table_name!r}" if named else "there is none"
    raise UserError(
        f"model: the user's history has to be a sequence on the item's table {table!r}, and {found}; declare one by "
        f"`kind: sequence, table: {table}` in schema.yaml"
    )
