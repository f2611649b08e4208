"""Behavior sequence transformer (Chen et al., DLP-KDD 2019): past events and the target attend to each other."""

import torch
from pydantic import Field
from torch import Tensor, nn

from shardrec.data_pipeline.errors import UserError
from shardrec.models.base import Explanation
from shardrec.models.fields import Fields
from shardrec.models.histories import HistoryConfig, HistoryModel
from shardrec.models.inputs import Jagged
from shardrec.models.layers.jagged_product import row_of_position
from shardrec.models.layers.jagged_sum import jagged_sum
from shardrec.models.layers.packing import regroup
from shardrec.models.layers.transformer import Buckets, TransformerLayer, bucket_rows


class BSTConfig(HistoryConfig):
    layers: int = Field(default=1, gt=0, description="transformer layers")
    heads: int = Field(
        default=2, gt=0, description="attention heads of each; the columns of an event are dealt to them"
    )
    hidden: int | None = Field(default=None, gt=0, description="of a layer's feed-forward net; None: 4 times an event")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of what attention and the feed-forward net add")


class BST(HistoryModel):
    """Transformer layers over [history; target], each with an embedding of its recency added: target 0, last event 1.

    The paper lays the outputs of a fixed number of positions side by side for the MLP; here histories have any length,
    and the interest is the target's output beside the mean of the events'. Its recency is a difference of times, ours a
    difference of ranks.
    """

    def __init__(self, fields: Fields, config: BSTConfig) -> None:
        super().__init__(fields, config)
        width = self.event_width
        if width % config.heads:
            raise UserError(
                f"bst: the {width} columns of an event cannot be dealt to {config.heads} heads; let `heads` divide them"
            )
        self.heads = config.heads
        longest = max(fields.schema[name].max_length for name in self.sequences)
        self.recency = nn.Embedding(1 + longest, width)
        nn.init.uniform_(self.recency.weight, -0.01, 0.01)  # as small as fresh table rows
        self.layers = nn.ModuleList(
            TransformerLayer(width, config.heads, config.hidden or 4 * width, config.dropout)
            for _ in range(config.layers)
        )
        self.mlp = self.mlp_over(2 * width, config.mlp)

    def forward(self, target: Tensor, history: Jagged, dense: Tensor, context: Tensor | None = None) -> Tensor:
        """[B, F, D], [T, F, D], [B, N], [B, sum of D] -> [B]."""
        events, row = history.values.flatten(1), row_of_position(history.lengths, len(history.values))
        merged, x, _ = self._encode(target, history, row)
        x = regroup(x, merged.reverse, merged.source).to(events.dtype)
        of_events, of_target = x.split([len(events), len(target)])
        share = x.new_ones(len(events)) / history.lengths[row]
        mean = jagged_sum(of_events, share, row, history.offsets)
        return self.score(torch.cat([of_target, mean], 1), target, dense, context)

    def explain(self, target: Tensor, history: Jagged, dense: Tensor, context: Tensor | None = None) -> Explanation:
        """The target's attention to each event in the last layer, mean over heads; the rest of 1 is to itself."""
        row = row_of_position(history.lengths, len(history.values))
        merged, _, weights = self._encode(target, history, row)
        of_target = []
        for part, attention in zip(merged.parts, weights, strict=True):
            last = (part.mask == 0).sum(-1, keepdim=True) - 1  # [rows, 1, 1, 1]
            by_target = attention.gather(2, last.expand(-1, self.heads, -1, part.width))
            of_target.append(by_target.mean(1).flatten().index_select(0, part.slot))
        positions = torch.cat(of_target).index_select(0, merged.reverse)
        return Explanation(history._replace(values=positions[: len(row)]), self.sequences[:1])

    def _encode(self, target: Tensor, history: Jagged, row: Tensor) -> tuple[Buckets, Tensor, tuple[Tensor, ...]]:
        """How the positions of [events; targets] are grouped, the last layer's outputs in that order, its attention."""
        merged = _with_target(history, row)
        rows, device = len(target), target.device
        events = torch.arange(len(row), device=device)
        recency = torch.cat([history.offsets[1:][row] - events, torch.zeros(rows, dtype=torch.int64, device=device)])
        x = torch.cat([history.values.flatten(1), target.flatten(1)]) + self.recency(recency)
        x = regroup(x, merged.source, merged.reverse)
        weights: tuple[Tensor, ...] = ()
        for layer in self.layers:
            x, weights = layer(x, merged)
        return merged, x, weights


def _with_target(history: Jagged, row: Tensor) -> Buckets:
    """Buckets of the rows [history; target], whose `source` counts all events first and then all targets."""
    rows = torch.arange(len(history.lengths), device=row.device)
    events = torch.arange(len(row), device=row.device)
    place = torch.cat([events + row, history.offsets[1:] + rows])  # of each event and target, rows side by side
    owner = torch.empty_like(place).index_copy_(0, place, torch.cat([row, rows]))
    starts = torch.cat([history.offsets[:1], history.offsets[1:] + rows + 1])
    buckets = bucket_rows(history.lengths + 1, owner, starts)
    reverse = buckets.reverse[place]
    source = torch.empty_like(place).index_copy_(0, reverse, torch.arange(len(place), device=row.device))
    return buckets._replace(source=source, reverse=reverse)
