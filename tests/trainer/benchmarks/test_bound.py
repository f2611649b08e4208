"""The bound of a step counts its products and its rows' bytes as one would on paper."""

from dataclasses import replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from shardrec.data_pipeline.batch import Batch
from shardrec.models.inputs import PooledEmbeddings
from shardrec.models.layers.kernels.library import torch_alone
from shardrec.models.layers.pair_attention import PairAttention
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.lookup.lookup import EmbeddingLookup
from shardrec.sharding.tables.live import LiveTable, TableShard
from shardrec.trainer.benchmarks.bound import Bound, RecordedProducts, RowBytes, row_bytes


def test_products_of_a_known_mlp() -> None:
    """Forward, and backward of the weights and of the input: three products a layer, 2 m k n operations each."""
    widths, rows = (7, 5, 3, 1), 11
    mlp = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))
    inputs = torch.randn(rows, 7, requires_grad=True)
    with RecordedProducts() as recorded:
        mlp(inputs).sum().backward()
    assert len(recorded.products) == 9
    assert sum(p.operations for p in recorded.products) == 3 * 2 * rows * (7 * 5 + 5 * 3 + 3)
    with RecordedProducts() as recorded, torch.autocast("cpu", torch.bfloat16):
        mlp(inputs)
    assert {f.dtype for p in recorded.products for f in p} == {torch.bfloat16}


def test_products_of_fused_attention() -> None:
    query, key, value = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (4, 6, 6))
    with RecordedProducts() as recorded:
        F.scaled_dot_product_attention(query, key, value).sum().backward()
    assert sum(p.operations for p in recorded.products) == 6 * 2 * (2 * 3) * 4 * 6 * 8


def test_products_that_a_kernel_computes_are_recorded_of_torch_operations() -> None:
    """Of attention over pairs, 2 * rows * pairs * (columns + 1) * units operations, forward, and twice backward."""
    layer, factors = PairAttention(4, 8, 5), torch.randn(3, 4, 8, requires_grad=True)
    with RecordedProducts() as recorded, torch_alone():
        layer(factors).sum().backward()
    assert sum(p.operations for p in recorded.products) == 3 * 2 * 3 * 6 * (8 + 1) * 5


def test_recorded_products_can_be_timed() -> None:
    """Those of vectors, transposed and expanded factors too; a rank without tables gathers nothing."""
    a, b = torch.randn(4, 6), torch.randn(6, 5)
    with RecordedProducts() as recorded:
        torch.mv(a, b[:, 0])
        torch.mm(a.mT[:, :1].expand(6, 4), a)
        torch.baddbmm(torch.zeros(2, 4, 5), a.expand(2, 4, 6), b.expand(2, 6, 5))
    bound = Bound(recorded.products, RowBytes(0, 0), None, torch.device("cpu"))
    bound.measure()
    figures = bound.figures()
    assert figures["products_gflop"] == 2 * (4 * 6 + 6 * 4 * 6 + 2 * 4 * 6 * 5) / 1e9
    assert figures["bound_milliseconds"] == figures["products_milliseconds"] > 0


def test_bytes_of_rows() -> None:
    """Five ids are read, of which four rows are read and written with their state; a frozen table is only read."""
    learned = EmbeddingTable(name="learned", num_embeddings=10, embedding_dim=4)
    frozen = replace(learned, name="frozen", frozen=True)
    inputs = {"x": PooledEmbeddings({"a": learned, "b": learned}), "y": PooledEmbeddings({"c": frozen})}
    ids = KeyedJaggedTensor(
        keys=["a", "b", "c"], values=torch.tensor([3, 3, 5, 0, 1, 2, 2]), lengths=torch.tensor([1, 1, 2, 1, 1, 1])
    )
    nothing = torch.zeros(2, 0)
    batch = Batch(nothing, ids, None, {}, torch.ones(2), None, torch.arange(2))
    state = {"weight": torch.zeros(10, 4), "momentum": torch.zeros(10)}
    tables = [
        LiveTable(learned, (TableShard(0, 0, state),)),
        LiveTable(frozen, (TableShard(0, 0, {"weight": torch.zeros(10, 4)}),)),
    ]
    found = row_bytes(tables, EmbeddingLookup(inputs, ()), batch)
    assert found == RowBytes(5 * 16 + 4 * 2 * (16 + 4) + 2 * 16, 7)
