"""First values by id: of the declared distribution, and of nothing but (seed, table, id, column)."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from shardrec.models.table_settings import TableInit
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.tables.first_values_by_id import draw_rows
from tests.sharding.cases import table
from tests.sharding.plain_id_map import WORD, plain_mixed

GOLDEN = 0x9E3779B97F4A7C15


def plain_row(spec: EmbeddingTable, seed: int, an_id: int) -> list[float]:
    """One id's values, a column at a time, in Python's integers and floats."""
    digest = hashlib.blake2b(f"fresh row {seed} {spec.name}".encode(), digest_size=8).digest()
    start = plain_mixed(an_id + int.from_bytes(digest, "little") & WORD)
    words = [plain_mixed(start + GOLDEN * (1 + pair) & WORD) for pair in range(spec.embedding_dim // 2 + 1)]
    halves = [half - (half >> 31 << 32) for word in words for half in (word & 0xFFFFFFFF, word >> 32)]
    if spec.init.kind == "uniform":
        values = [((half >> 8) + 0.5) / 2**23 for half in halves]
    else:
        whole = [(half + 2**31 + 0.5) / 2**32 for half in halves]
        pairs = list(zip(whole[0::2], whole[1::2], strict=True))
        turns = [np.exp(2j * np.pi * angle) * np.sqrt(-2 * np.log(radius)) for radius, angle in pairs]
        values = [part for turn in turns for part in (turn.real, turn.imag)]
    values = [value * spec.init.scale for value in values[: spec.embedding_dim]]
    return [0.0] * spec.zero_columns + values[spec.zero_columns :]


@pytest.mark.parametrize("kind", ["uniform", "normal"])
@pytest.mark.parametrize(("dim", "zeros"), [(1, 0), (5, 1), (8, 0), (3, 3)])
def test_equals_the_plain_formula(kind: str, dim: int, zeros: int) -> None:
    spec = replace(table("t", 9, dim), init=TableInit(kind=kind, scale=0.3), zero_columns=zeros)
    ids = [0, -1, 1, 2**63 - 1, -(2**63), 123456789012345]
    found = draw_rows(spec, 7, torch.tensor(ids))
    assert found.dtype == torch.float32
    expected = torch.tensor([plain_row(spec, 7, i) for i in ids], dtype=torch.float32)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-6)


def test_distributions() -> None:
    ids = torch.arange(-40_000, 40_000)  # neighbours, whose rows must not be
    uniform = draw_rows(table("u", 9, 5, init=TableInit(scale=0.3)), 5, ids)
    assert uniform.abs().max() <= 0.3
    shares = torch.histc(uniform, bins=20, min=-0.3, max=0.3) / uniform.numel()
    torch.testing.assert_close(shares, torch.full((20,), 0.05), atol=0.0015, rtol=0)
    normal = draw_rows(table("n", 9, 5, init=TableInit(kind="normal", scale=2.0)), 5, ids) / 2.0
    quantiles = torch.tensor([0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999])
    expected = torch.distributions.Normal(0.0, 1.0).icdf(quantiles)
    torch.testing.assert_close(torch.quantile(normal.flatten(), quantiles), expected, atol=0.06, rtol=0)
    assert normal.std() == pytest.approx(1.0, abs=0.005)
    for values in (uniform / uniform.std(), normal):
        between_columns = values.T @ values / len(values) - torch.eye(5)
        between_rows = (values[:-1] * values[1:]).mean(0)
        assert between_columns.abs().max() < 0.025 and between_rows.abs().max() < 0.02


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_a_row_depends_on_no_other(kind: str) -> None:
    """Bit for bit, alone, in any order and in blocks of any size."""
    spec = replace(table("t", 9, 7), init=TableInit(kind=kind))
    ids = torch.randint(-(2**63), 2**63 - 1, (40_001,))
    rows = draw_rows(spec, 5, ids)
    order = torch.randperm(len(ids))
    assert torch.equal(draw_rows(spec, 5, ids[order]), rows[order])
    for at in (0, 17, 40_000):
        assert torch.equal(draw_rows(spec, 5, ids[at : at + 1]), rows[at : at + 1])
    assert draw_rows(spec, 5, ids[:0]).shape == (0, 7)
    assert torch.unique(rows, dim=0).shape == rows.shape


def test_seeds_and_tables_differ() -> None:
    ids = torch.arange(1000)
    base = draw_rows(table("t", 9, 4), 5, ids)
    for other in (draw_rows(table("t", 9, 4), 6, ids), draw_rows(table("u", 9, 4), 5, ids)):
        assert (base == other).double().mean() < 0.001
