"""SASRec reads a history by causal self-attention, up to its last event (Kang & McAuley, ICDM 2018)."""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from shardrec.data_pipeline.errors import UserError
from shardrec.models.fields import Fields
from shardrec.models.history_towers import HistoryTowers, HistoryTowersConfig
from shardrec.models.inputs import Jagged, Padded
from shardrec.models.layers.causal import CausalBlock
from shardrec.models.layers.packing import regroup
from shardrec.models.layers.transformer import attended_rows
from shardrec.models.shared_space import Vectors


class SASRecConfig(HistoryTowersConfig):
    """`sasrec` has these settings of its own; histories are in order of time, and end before the row's own item."""

    blocks: int = Field(default=2, gt=0, le=1000, description="of attention and feed-forward net")
    heads: int = Field(default=1, gt=0, le=1000, description="attention heads of each")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="of events, and of what attention and nets add")
    without_target: bool = Field(default=False, description="leave the row's own item out of its history, in training")


class SASRec(HistoryTowers):
    """f(u) is the last block's output at the last event, normalised; blocks run over item + position embeddings.

    Positions count from the last event on, as they do in the paper, whose sequences are filled up at their front. All
    users without events have the norm of 0, a learned vector. A row learns from its own item alone, at its last event;
    the paper's from the next item at every event.
    """

    def __init__(self, fields: Fields, config: SASRecConfig) -> None:
        super().__init__(fields, config)
        if self.dim % config.heads:
            raise UserError(
                f"sasrec: the {self.dim} columns of an item cannot be dealt to {config.heads} heads; set `heads` to "
                f"one of {', '.join(str(n) for n in range(1, self.dim + 1) if self.dim % n == 0)}"
            )
        (history,) = self.inputs["history"].tables  # type: ignore[union-attr]
        self.position = nn.Embedding(fields.schema[history].max_length, self.dim)
        nn.init.normal_(self.position.weight, 0, 0.01)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            CausalBlock(self.dim, config.heads, self.dim, config.dropout) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(self.dim)

    def forward(self, history: Jagged | Padded, item: Tensor) -> Tensor | Vectors:
        """[T, 1, D], [B, D] -> [B]."""
        return self.scored(history=history, item=item)

    def of_user(self, history: Jagged | Padded) -> Tensor:
        """Returns f(u): [T, 1, D] -> [B, D]."""
        if isinstance(history, Padded):
            return self._of_padded(history)
        row = history.row_of_position()
        from_last = history.offsets[1:][row] - 1 - torch.arange(len(row), device=row.device)
        x = self.dropout(history.values.flatten(1) + self.position(from_last))
        buckets = attended_rows(x, history.lengths, row, history.offsets, history.host_lengths)
        x = regroup(x, buckets.source, buckets.reverse)
        for block in self.blocks:
            x, _ = block(x, buckets)
        last = (history.offsets[1:] - 1).clamp(min=0)
        some = history.lengths > 0
        place = torch.where(some, F.pad(buckets.reverse, (0, 1))[last], len(row))
        return self.norm(F.pad(x.to(history.values.dtype), (0, 0, 0, 1)).index_select(0, place))

    def _of_padded(self, history: Padded) -> Tensor:
        """Returns f(u): [B, L, 1, D] -> [B, D]."""
        slots = torch.arange(history.values.shape[1], device=history.lengths.device)
        from_last = (history.lengths.unsqueeze(1) - 1 - slots).clamp(min=0)
        x = history.values.flatten(2) + self.position(from_last)
        for block in self.blocks:
            assert isinstance(block, CausalBlock)
            x = block.padded_rows(x)
        last = (history.lengths - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, self.dim)
        ended = x.gather(1, last).squeeze(1)
        return self.norm(ended * (history.lengths > 0).unsqueeze(1))
