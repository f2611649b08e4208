"""An index finds the items of the largest dot products: all of them, or nearly all in a fraction of the time."""

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from torch import Tensor

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError, installed_by
from shardrec.trainer.catalogue.top_n import Excluded, top_n
from shardrec.trainer.retrieval.index_settings import IndexSettings

Kind = Literal["exact", "approximate", "hnsw", "ivf"]

MOST_OF_GRAPH = 1_000_000
"""Items from which `approximate` is an inverted file: a graph of 32 links an item takes 256 bytes each beside the
vectors, and minutes a million to build on a core."""

RECALL_QUERIES = 1000


class ItemIndex(Protocol):
    """An item index searches [N, D] vectors of items."""

    @property
    def name(self) -> str:
        """Returns its kind, with the settings that it has."""

    def search(self, queries: Tensor, n: int, excluded: Excluded | None = None) -> tuple[Tensor, Tensor]:
        """Returns scores and positions [B, n] as `top_n` does."""


@dataclass(frozen=True)
class ExactIndex:
    """An exact index is the vectors themselves, [N, D], on their device."""

    items: Tensor
    name: str = "exact"

    def search(self, queries: Tensor, n: int, excluded: Excluded | None = None) -> tuple[Tensor, Tensor]:
        """Returns `top_n`."""
        return top_n(queries, self.items, n, excluded=excluded)


def build_index(items: Tensor, kind: Kind = "exact", settings: IndexSettings | None = None) -> ItemIndex:
    """Builds an index of items [N, D]. Raises UserError where an approximate one needs what is not installed."""
    if kind == "exact":
        return ExactIndex(items)
    from shardrec.trainer.retrieval.faiss_index import FaissIndex  # its package is an extra

    if kind == "approximate":
        kind = "hnsw" if len(items) <= MOST_OF_GRAPH else "ivf"
    settings = settings or IndexSettings()
    settings.check(kind)
    return FaissIndex.build(items, kind, settings.of(len(items)))


def check_index(kind: Kind) -> None:
    """Raises UserError for an unknown kind, and where what an index needs is not installed."""
    if kind not in get_args(Kind):
        raise UserError("--index: " + unknown("kind", kind, get_args(Kind)))
    if kind != "exact":
        try:
            import faiss  # noqa: F401
        except ImportError:
            raise UserError(f"--index {kind} needs faiss: {installed_by('retrieve')}; or --index exact") from None


def recall(index: ItemIndex, items: Tensor, queries: Tensor, n: int) -> float:
    """Returns the share of the exact top n of some queries that an index finds; at most `RECALL_QUERIES` are asked."""
    queries = queries[:RECALL_QUERIES]
    _, exact = top_n(queries, items, n)
    _, found = index.search(queries, n)
    there = (exact[:, :, None] == found[:, None, :]).any(2) & (exact >= 0)
    return float(there.sum() / (exact >= 0).sum().clamp(min=1))


def recall_line(index: ItemIndex, items: Tensor, queries: Tensor, n: int) -> str:
    """Returns what is said of an approximate index once it is built."""
    asked = min(len(queries), RECALL_QUERIES)
    share = recall(index, items, queries, n)
    return f"index {index.name}: recall@{n} {share:.4f} against the exact one, of {asked} queries"
