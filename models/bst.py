"""BST, a transformer, lets past events and the target attend to each other (Chen et al., DLP-KDD 2019)."""

import torch
from pydantic import Field
from torch import Tensor, nn

from shardrec.data_pipeline.errors import UserError
from shardrec.models.base import Explanation
from shardrec.models.fields import Fields
from shardrec.models.histories import HistoryConfig, HistoryModel
from shardrec.models.inputs import Jagged
from shardrec.models.layers.jagged_sum import jagged_sum
from shardrec.models.layers.kernels.library import torch_alone
from shardrec.models.layers.packing import inverse, regroup
from shardrec.models.layers.padded import padded_mean_weights, padded_sum
from shardrec.models.layers.transformer import LengthBuckets, TransformerLayer, attended_rows


class BSTConfig(HistoryConfig):
    """`bst` has these settings of its own."""

    layers: int = Field(default=1, gt=0, le=1000, description="transformer layers")
    heads: int = Field(
        default=2, gt=0, le=1000, description="attention heads of each; the columns of an event are dealt to them"
    )
    hidden: int | None = Field(
        default=None, gt=0, lt=2**31, description="of a layer's feed-forward net; None: 4 times an event"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of what attention and the feed-forward net add")


class BST(HistoryModel):
    """Transformer layers run over [history; target], each with an embedding of its recency: target 0, last event 1.

    The paper lays the outputs of a fixed number of positions side by side for the MLP; here histories have any length,
    and the interest is the target's output beside the mean of the events'. Its recency is a difference of times, ours a
    difference of ranks.
    """

    def __init__(self, fields: Fields, config: BSTConfig) -> None:
        super().__init__(fields, config)
        width = self.event_width
        if width % config.heads:
            raise UserError(
                f"bst: the {width} columns of an event cannot be dealt to {config.heads} heads; set `heads` to one of "
                f"{', '.join(str(n) for n in range(1, width + 1) if width % n == 0)}"
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
        events, row = self.events(history), history.row_of_position()
        buckets, x, _ = self._encode(events, self.target_event(target, dense), history, row)
        x = regroup(x, buckets.reverse, buckets.source).to(events.dtype)
        of_events, of_target = x.split([len(events), len(target)])
        share = x.new_ones(len(events)) / history.lengths[row]
        mean = jagged_sum(of_events, share, row, history.offsets)
        return self.score(torch.cat([of_target, mean], 1), target, dense, context)

    def padded_interest(self, events: Tensor, target: Tensor, live: Tensor) -> Tensor:
        """[B, L, E], [B, E], [B, L] -> [B, 2 E]."""
        slots = torch.arange(events.shape[1], device=events.device)
        recency = (live.sum(1, keepdim=True) - slots).clamp(min=0)
        x, of_events = target.unsqueeze(1) + self.recency.weight[:1], events + self.recency(recency)
        seen = torch.cat([live.new_ones(live.shape[0], 1), live], 1)
        for layer in self.layers:
            assert isinstance(layer, TransformerLayer)
            x, of_events = layer.padded(x, of_events, seen)
        return torch.cat([x.squeeze(1), padded_sum(of_events, padded_mean_weights(live, events.dtype))], 1)

    def explain(self, target: Tensor, history: Jagged, dense: Tensor, context: Tensor | None = None) -> Explanation:
        """Returns the target's attention to each event in the last layer, mean over heads; the rest is to itself."""
        row = history.row_of_position()
        with torch_alone():  # kernels keep no attention
            buckets, _, weights = self._encode(self.events(history), self.target_event(target, dense), history, row)
        assert buckets.parts is not None
        of_target = []
        for bucket, attention in zip(buckets.parts, weights, strict=True):
            last = (bucket.mask == 0).sum(-1, keepdim=True) - 1  # [rows, 1, 1, 1]
            by_target = attention.gather(2, last.expand(-1, self.heads, -1, bucket.width))
            of_target.append(by_target.mean(1).flatten().index_select(0, bucket.slot))
        by_position = torch.cat(of_target).index_select(0, buckets.reverse)
        return Explanation(history._replace(values=by_position[: len(row)]), self.sequences[:1])

    def _encode(
        self, events: Tensor, target: Tensor, history: Jagged, row: Tensor
    ) -> tuple[LengthBuckets, Tensor, tuple[Tensor, ...]]:
        """Returns how [events; targets] are bucketed, the last layer's outputs in that order, and its attention."""
        buckets = _with_target(events, history, row)
        device = target.device
        of_events = history.offsets[1:][row] - torch.arange(len(row), device=device)
        recency = torch.cat([of_events, torch.zeros(len(target), dtype=torch.int64, device=device)])
        x = torch.cat([events, target]) + self.recency(recency)
        x = regroup(x, buckets.source, buckets.reverse)
        weights: tuple[Tensor, ...] = ()
        for layer in self.layers:
            x, weights = layer(x, buckets)
        return buckets, x, weights


def _with_target(of_events: Tensor, history: Jagged, row: Tensor) -> LengthBuckets:
    """Returns how the rows [history; target] are attended in; `source` counts all events first and then all targets."""
    batch_row = torch.arange(len(history.lengths), device=row.device)
    events = torch.arange(len(row), device=row.device)
    place = torch.cat([events + row, history.offsets[1:] + batch_row])  # of each event and target, rows side by side
    owner = torch.empty_like(place).index_copy_(0, place, torch.cat([row, batch_row]))
    starts = torch.cat([history.offsets[:1], history.offsets[1:] + batch_row + 1])
    on_host = None if history.host_lengths is None else history.host_lengths + 1
    buckets = attended_rows(of_events, history.lengths + 1, owner, starts, on_host)
    reverse = buckets.reverse[place]
    return buckets._replace(source=inverse(reverse), reverse=reverse)
