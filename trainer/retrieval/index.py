"""An index finds the items of the largest dot products: all of them, or nearly all in a fraction of the time."""

from dataclasses import dataclass
from math import sqrt
from typing import Literal, Protocol

from pydantic import Field, ValidationError
from torch import Tensor

from shardrec.data_pipeline.declared.declaration import Declaration
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.catalogue.top_n import Excluded, top_n

Kind = Literal["exact", "approximate", "hnsw", "ivf"]

MOST_OF_GRAPH = 1_000_000
"""Items from which `approximate` is an inverted file: a graph of 32 links an item takes 256 bytes each beside the
vectors, and minutes a million to build on a core."""

ITEMS_A_LIST = 39
"""The fewest items that k-means of an inverted file is given for each of its lists, as faiss asks for."""

RECALL_QUERIES = 1000


class IndexSettings(Declaration):
    """Settings of an index; what is None is chosen by the number of items.

    m, ef_construction, ef_search: of a graph (hnsw): links an item, and candidates held while it is built and searched
    lists, probes: of an inverted file (ivf): clusters of items, and how many of them a query looks into
    """

    m: int = Field(default=32, ge=2, le=512)
    ef_construction: int = Field(default=200, ge=1)
    ef_search: int = Field(default=128, ge=1)
    lists: int | None = Field(default=None, ge=1)
    probes: int | None = Field(default=None, ge=1)

    @classmethod
    def parse(cls, words: tuple[str, ...]) -> "IndexSettings":
        """Reads NAME=NUMBER words. Raises UserError for an unknown name or a number that is none."""
        pairs = [word.partition("=") for word in words]
        if wrong := [word for word, (_, equals, _) in zip(words, pairs, strict=True) if not equals]:
            raise UserError(f"--index-set {wrong[0]}: expected NAME=NUMBER, such as probes=32")
        try:
            return cls.model_validate({name: value for name, _, value in pairs})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(map(str, first["loc"]))
            raise UserError(f"--index-set {name}: {first['msg']}; there are: {', '.join(cls.model_fields)}") from None

    def of(self, items: int) -> "IndexSettings":
        """Returns the settings for a number of items, with nothing left open.

        4 sqrt(N) lists, as far as each has enough items, and an eighth of them, but 8 at least, to look into.
        """
        lists = self.lists or max(1, min(int(4 * sqrt(items)), items // ITEMS_A_LIST))
        lists = min(lists, items)
        return self.model_copy(update={"lists": lists, "probes": min(self.probes or max(8, lists // 8), lists)})


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
    return FaissIndex.build(items, kind, (settings or IndexSettings()).of(len(items)))


def check_index(kind: Kind) -> None:
    """Raises UserError where what an index needs is not installed."""
    if kind != "exact":
        try:
            import faiss  # noqa: F401
        except ImportError:
            raise UserError(f"--index {kind} needs faiss; pip install 'shardrec[retrieve]', or --index exact") from None


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
