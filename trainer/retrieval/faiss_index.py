"""An approximate index is one of faiss, on the CPU: a graph of near items (HNSW), or an inverted file (IVF)."""

from dataclasses import dataclass
from typing import Any, Literal

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from shardrec.trainer.catalogue.top_n import Excluded
from shardrec.trainer.retrieval.index_settings import IndexSettings


@dataclass(frozen=True)
class FaissIndex:
    """A faiss index answers with dot products that are exact, of items that it may not have all looked at.

    Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using hierarchical navigable small
    world graphs", PAMI 2020; Johnson, Douze and Jegou, "Billion-scale similarity search with GPUs", 2019.
    """

    kind: Literal["hnsw", "ivf"]
    settings: IndexSettings
    index: Any
    count: int

    @classmethod
    def build(cls, items: Tensor, kind: Literal["hnsw", "ivf"], settings: IndexSettings) -> "FaissIndex":
        """Builds an index of items [N, D], whose settings leave nothing open."""
        vectors = _vectors(items)
        count, dim = vectors.shape
        faiss.omp_set_num_threads(torch.get_num_threads())
        index: Any
        if kind == "hnsw":
            index = faiss.IndexHNSWFlat(dim, settings.m, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = settings.ef_construction
        else:
            assert settings.lists is not None
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, settings.lists, faiss.METRIC_INNER_PRODUCT)
            index.nprobe = settings.probes
            index.train(vectors)
        index.add(vectors)
        return cls(kind, settings, index, count)

    @property
    def name(self) -> str:
        """Returns its kind, with the settings that it has."""
        s = self.settings
        if self.kind == "hnsw":
            return f"hnsw (m={s.m}, ef_construction={s.ef_construction}, ef_search={s.ef_search})"
        return f"ivf (lists={s.lists}, probes={s.probes})"

    def search(self, queries: Tensor, n: int, excluded: Excluded | None = None) -> tuple[Tensor, Tensor]:
        """Returns scores and positions [B, n] as `top_n` does. As many more items are looked for as are excluded."""
        vectors = _vectors(queries)
        scores = torch.full((len(vectors), n), -torch.inf)
        positions = torch.full((len(vectors), n), -1, dtype=torch.int64)
        if not len(vectors) or not self.count or not n:
            return scores.to(queries.device), positions.to(queries.device)
        struck = torch.zeros(len(vectors), dtype=torch.int64) if excluded is None else excluded.offsets.diff()
        wanted = torch.where(struck > 0, 2 ** torch.ceil(torch.log2((n + struck).double())).long(), n)
        for k in wanted.unique().tolist():
            at = (wanted == k).nonzero()[:, 0]
            found = self._search(vectors[at.numpy()], min(k, self.count))
            if excluded is not None:
                found = self._without(*found, excluded, at)
            scores[at], positions[at] = _filled(*found, n)
        return scores.to(queries.device), positions.to(queries.device)

    def _search(self, vectors: NDArray[np.float32], k: int) -> tuple[Tensor, Tensor]:
        faiss.omp_set_num_threads(torch.get_num_threads())
        if self.kind == "hnsw":
            self.index.hnsw.efSearch = max(self.settings.ef_search, k)
        scores, positions = map(torch.from_numpy, self.index.search(vectors, k))
        return scores.masked_fill(positions < 0, -torch.inf), positions

    def _without(self, scores: Tensor, positions: Tensor, excluded: Excluded, at: Tensor) -> tuple[Tensor, Tensor]:
        """Returns scores of some queries, `at` their places, with those of excluded items at -inf."""
        lengths = excluded.offsets.diff()
        query = torch.repeat_interleave(lengths)
        struck = torch.isin(at[:, None] * self.count + positions, query * self.count + excluded.positions)
        return scores.masked_fill(struck & (positions >= 0), -torch.inf), positions


def _vectors(of: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(of.detach().float().cpu().numpy())


def _filled(scores: Tensor, positions: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Returns the n best of each row, best first, and -inf and -1 where there are fewer."""
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    positions = positions.gather(1, order).masked_fill(scores == -torch.inf, -1)
    missing = max(n - scores.shape[1], 0)
    return F.pad(scores[:, :n], (0, missing), value=-torch.inf), F.pad(positions[:, :n], (0, missing), value=-1)
