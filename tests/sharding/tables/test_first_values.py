"""First values: a pure function of (seed, table, row, column)."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from shardrec.models.table_settings import TableInit, TableOptimizer
from shardrec.sharding.tables.first_values import BLOCK_BYTES, block_rows, draw_block, initialize_tables
from shardrec.sharding.tables.live import LiveTable, TableShard
from shardrec.sharding.updates.choose import start_tables
from tests.sharding.cases import table


def whole(spec) -> torch.Tensor:
    """All rows and logical columns, by concatenating blocks."""
    rows = block_rows(spec.embedding_dim)
    blocks = [draw_block(spec, 5, b) for b in range(-(-spec.num_embeddings // rows))]
    return torch.from_numpy(np.concatenate(blocks)[: spec.num_embeddings])


def test_values_are_pinned() -> None:
    """A changed stream would silently make equal seeds different runs."""
    digest = hashlib.sha256(draw_block(table("pinned", 10, 3), 5, 1).tobytes()).hexdigest()
    normal = table("pinned", 10, 3, init=TableInit(kind="normal"))
    assert (digest[:16], hashlib.sha256(draw_block(normal, 5, 1).tobytes()).hexdigest()[:16]) == PINNED


PINNED = ("a3e95e29622b74b8", "eddf34d0861d56ef")


@pytest.mark.parametrize("dim", [1, 17, 128, 129, 600])
def test_a_block_fits_its_buffer(dim: int) -> None:
    assert block_rows(dim) * dim * 4 <= BLOCK_BYTES
    assert 65_536 % block_rows(dim) == 0
    assert block_rows(dim) == 65_536 or block_rows(dim) * 2 * dim * 4 > BLOCK_BYTES


def test_distributions() -> None:
    uniform = whole(table("u", 50_000, 4, init=TableInit(scale=0.3), zero_columns=1))
    assert (uniform[:, 0] == 0).all()
    assert uniform[:, 1:].abs().max() <= 0.3
    assert uniform[:, 1:].std() == pytest.approx(0.3 / 3**0.5, rel=0.01)
    assert uniform[:, 1:].mean().abs() < 0.003
    normal = whole(table("n", 50_000, 4, init=TableInit(kind="normal", scale=2.0)))
    assert normal.std() == pytest.approx(2.0, rel=0.01)
    assert normal.abs().max() > 6.0
    assert not torch.equal(whole(table("m", 100, 4))[:, 1:], whole(table("n", 100, 4))[:, 1:])


def test_rows_do_not_depend_on_how_many_there_are() -> None:
    few, many = table("t", 7, 5), table("t", 70_000, 5)
    assert torch.equal(whole(few), whole(many)[:7])
    assert not torch.equal(whole(many)[:7], whole(many)[65_536:65_543])


def test_linear_weights_start_at_zero_whatever_is_declared() -> None:
    """And under FTRL so do z and n, as in its paper; factors beside them start as declared, with the z of that."""
    ftrl = TableOptimizer(name="ftrl", learning_rate=0.5, beta=2.0, l1=0.25, l2=1.0)
    for columns, zeros in ((1, 1), (3, 1)):
        spec = replace(table("t", 5, columns, init=TableInit(scale=2.0), zero_columns=zeros), optimizer=ftrl)
        tensors = {name: torch.ones(5, columns) for name in ("weight", "z", "n")}
        live = LiveTable(spec, (TableShard(0, 0, tensors),))
        initialize_tables([live], seed=5)
        start_tables([live])
        w, z = tensors["weight"][:, zeros:], tensors["z"][:, zeros:]
        torch.testing.assert_close(-(z - z.sign() * 0.25) / (2.0 / 0.5 + 1.0), w)  # the update's w of z, n = 0
        assert bool((w != 0).all()) and torch.equal(tensors["weight"], whole(spec))
        for tensor in (*(t[:, :zeros] for t in (tensors["weight"], tensors["z"])), tensors["n"]):
            assert not tensor.numpy().view(np.int32).any()  # of all bits: no -0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_any_rectangles_give_the_same_table(dtype: torch.dtype) -> None:
    """Shards that cut blocks in rows and columns, with padding and stale memory, hold the whole table's values."""
    spec = replace(table("t", 140_001, 6), zero_columns=1)
    expected = torch.zeros(140_001, 8)
    expected[:, :6] = whole(spec)
    cuts = [(0, 1), (1, 65_536), (65_536, 65_537), (65_537, 140_001)]
    shards = [
        TableShard(a, c, {"weight": torch.full((b - a, 4), 9.0, dtype=dtype), "accumulator": torch.ones(b - a)})
        for a, b in cuts
        for c in (0, 4)
    ]
    initialize_tables([LiveTable(spec, tuple(shards))], seed=5)
    for shard in shards:
        rows = slice(shard.row, shard.row + len(shard.weight))
        assert torch.equal(shard.weight, expected[rows, shard.column : shard.column + 4].to(dtype))
        assert not shard.tensors["accumulator"].any()
