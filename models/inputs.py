"""An input says what a model asks of the tables and the batch, and in which form its tower gets it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.models.tables import EmbeddingTable

Read = Literal["always", "labelled", "training"]
"""When an input is read: whenever rows are; of rows with labels only, so not for predictions; or in training only.

Where it is not, its features are neither read from files nor looked up, and the tower's parameter keeps its default.
"""


@dataclass(frozen=True)
class PooledEmbeddings:
    """Pooled embeddings give the tower a vector for each row and feature: [B, F, D], or with `concat` [B, sum of D].

    `tables` maps features to their tables, in the order in which the tower sees them. A feature of several ids has the
    (weighted) sum or mean of their rows, as its table's `pooling` says; one of no ids has zeros. With `concat` dims may
    differ. Raises UserError where the tower gets [B, F, D] and two features' dims do.
    detached: nothing is learned through it: its vectors have no gradient, and looking a row up leaves the row, its
    optimizer state and (of dynamic tables) the counts of its id as they are.
    """

    tables: Mapping[str, EmbeddingTable]
    concat: bool = False
    read: Read = "always"
    detached: bool = False

    def __post_init__(self) -> None:
        if self.concat:
            return
        (first, first_table), *others = self.tables.items()
        for feature, table in others:
            if table.embedding_dim != first_table.embedding_dim:
                raise UserError(
                    f"tables: this model needs one embedding_dim for all its features, but the rows of {first!r} "
                    f"(table {first_table.name!r}) have {first_table.embedding_dim} columns and those of {feature!r} "
                    f"(table {table.name!r}) {table.embedding_dim}; set one embedding_dim for both"
                )

    @property
    def width(self) -> int:
        """Returns the sum of the features' dims: the columns that a tower sees once fields are laid side by side."""
        return sum(table.embedding_dim for table in self.tables.values())


@dataclass(frozen=True)
class SequenceEmbeddings:
    """Sequence embeddings give the tower a vector for each id of each row, without padding: `Jagged`, values [T, F, D].

    `tables` maps features, aligned with each other, to their tables of one dim: position t of all F features is one
    event. detached: as of `PooledEmbeddings`.
    dense: dense sequences aligned with them, whose N numbers of each event are the `dense` [T, N] of the `Jagged`.
    """

    tables: Mapping[str, EmbeddingTable]
    dense: tuple[str, ...] = ()
    read: Read = "always"
    detached: bool = False


@dataclass(frozen=True)
class DenseFeatures:
    """Dense features give the tower their N numbers for each row: [B, N], which is [B, 0] without any."""

    features: tuple[str, ...]
    read: Read = "always"


class Jagged(NamedTuple):
    """A jagged batch holds the sequences of B rows without padding: row b owns positions offsets[b] .. offsets[b + 1].

    values: [T, F, D], for T positions in all and F aligned features; lengths: [B] int64; offsets: [B + 1] int64, from 0
    to T; weights: [T] or None; dense: [T, N] numbers beside the values, or None. Rows of 2, 0 and 3 events have
    lengths [2, 0, 3], offsets [0, 2, 2, 5] and T = 5. host_lengths: the lengths once more, where the host knows them
    without waiting for the device that computes.
    """

    values: Tensor
    lengths: Tensor
    offsets: Tensor
    weights: Tensor | None = None
    dense: Tensor | None = None
    host_lengths: np.ndarray | None = None

    def row_of_position(self) -> Tensor:
        """Returns [T] int64: the row that owns each position."""
        rows = torch.arange(len(self.lengths), device=self.lengths.device)
        return rows.repeat_interleave(self.lengths, output_size=len(self.values))


class Padded(NamedTuple):
    """A padded batch holds the sequences of B rows in L slots each: row b's are the first lengths[b], the rest nothing.

    It has what the `Jagged` of the same rows has, for programs that serve any batch with the same steps: values
    [B, L, F, D], lengths [B] int64, weights [B, L] or None, dense [B, L, N] or None. What padding slots hold is finite,
    and changes no result.
    """

    values: Tensor
    lengths: Tensor
    weights: Tensor | None = None
    dense: Tensor | None = None

    @property
    def live(self) -> Tensor:
        """Returns [B, L] bool: the slots that are no padding."""
        return torch.arange(self.values.shape[1], device=self.lengths.device) < self.lengths.unsqueeze(1)


Input = PooledEmbeddings | SequenceEmbeddings | DenseFeatures
