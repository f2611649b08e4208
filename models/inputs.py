"""What a model asks of the tables and the batch: its inputs, and the `Fields` from which it declares them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.models.tables import EmbeddingTable


@dataclass(frozen=True)
class PooledEmbeddings:
    """feature -> table; the tower gets [B, F, D], or with `concat` [B, sum of D] (dims may then differ).

    Raises UserError where the tower gets [B, F, D] and two features' dims differ.
    """

    tables: Mapping[str, EmbeddingTable]
    concat: bool = False

    def __post_init__(self) -> None:
        if self.concat:
            return
        (first, one), *others = self.tables.items()
        for feature, other in others:
            if other.embedding_dim != one.embedding_dim:
                raise UserError(
                    f"tables: this model needs one embedding_dim for all its features, but the rows of {first!r} "
                    f"(table {one.name!r}) have {one.embedding_dim} columns and those of {feature!r} "
                    f"(table {other.name!r}) {other.embedding_dim}; set one embedding_dim for both"
                )

    @property
    def width(self) -> int:
        """Sum of the features' dims: the columns that a tower sees once fields are laid side by side."""
        return sum(table.embedding_dim for table in self.tables.values())


@dataclass(frozen=True)
class SequenceEmbeddings:
    """aligned features -> table; the tower gets `Jagged`.

    training_only: evaluation and prediction neither read nor look up its features, and leave the tower's parameter at
    its default.
    """

    tables: Mapping[str, EmbeddingTable]
    training_only: bool = False


@dataclass(frozen=True)
class DenseFeatures:
    """dense features; the tower gets [B, N], which is [B, 0] where a schema has none."""

    features: tuple[str, ...]


class Jagged(NamedTuple):
    """Sequences of B rows without padding; row b owns positions offsets[b] .. offsets[b + 1].

    values: [T, F, D], F aligned features; lengths: [B] int64; offsets: [B + 1] int64; weights: [T] or None
    """

    values: Tensor
    lengths: Tensor
    offsets: Tensor
    weights: Tensor | None = None


Input = PooledEmbeddings | SequenceEmbeddings | DenseFeatures
