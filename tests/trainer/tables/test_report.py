"""What `shardrec tables` reckons: collisions against hashing itself, histograms against plain loops."""

import math

import numpy as np
import pytest
import torch

from shardrec.data_pipeline.features.feature_kinds import FeatureCross, IdFeature
from shardrec.data_pipeline.features.id_transforms import Bucketize, Cross, Hash, Identity
from shardrec.trainer.tables.report import collisions, hashed_rows
from shardrec.trainer.tables.report_view import print_tables
from shardrec.trainer.tables.row_norms import MOST_BINS, RowNorms


@pytest.mark.parametrize("load", [0.02, 0.5, 1, 3, 6])
def test_collisions_are_those_of_a_hash(load: float) -> None:
    """Distinct ids dealt to rows at random: how many they are, and how many of them share a row."""
    rows, trials = 5_000, 20
    ids, draw = round(load * rows), np.random.default_rng(4)
    estimates, shares = [], []
    for _ in range(trials):
        dealt = draw.integers(0, rows, ids)
        named, counts = np.unique(dealt, return_counts=True)
        found = collisions(rows, len(named))
        estimates.append(found["distinct_ids"])
        shares.append(found["shared"] - counts[counts > 1].sum() / ids)
    deviation = collisions(rows, round(rows * (1 - math.exp(-load))))["deviation"]
    assert abs(np.mean(estimates) - ids) < 4 * deviation / math.sqrt(trials) + 1
    assert 0.5 * deviation < np.std(estimates) < 1.7 * deviation
    assert abs(np.mean(shares)) < 0.01


def test_collisions_at_the_ends() -> None:
    assert collisions(100, 0) == {"distinct_ids": 0, "deviation": 0, "shared": 0}
    assert collisions(100, 100) == {"distinct_ids": None, "deviation": None, "shared": 1}
    assert collisions(1, 0)["shared"] == 0
    assert collisions(10**9, 1)["distinct_ids"] == pytest.approx(1)
    assert collisions(10**9, 1)["shared"] == pytest.approx(0, abs=1e-8)


def test_which_ids_are_hashed() -> None:
    hashed = IdFeature(name="a", ids=Hash(num_ids=100), missing="row")
    prepared = IdFeature(name="b", ids=Identity(num_ids=101, prepared=Cross(columns=("x", "y"), num_ids=100)))
    plain, bucket = (
        IdFeature(name=n, ids=i) for n, i in (("c", Identity(num_ids=9)), ("d", Bucketize(boundaries=(1,))))
    )
    crossed = IdFeature(name="e", ids=FeatureCross(features=(plain, bucket), num_ids=50))
    assert hashed_rows([hashed, prepared]) == 100 and hashed_rows([crossed]) == 50
    assert hashed_rows([hashed, plain]) is hashed_rows([bucket]) is None


@pytest.mark.parametrize("spread", [0.001, 0.3, 2.0, 20.0])
def test_norms_are_those_of_the_rows(spread: float) -> None:
    """In bins that cover all norms and are no more than asked for, whatever they range over."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(900, 5, generator=generator) * (spread * torch.randn(900, 1, generator=generator)).exp()
    rows[7], rows[11, 2], rows[12, 0] = 0, torch.nan, torch.inf
    norms = RowNorms()
    for part in rows.split(100):
        norms.add(part)
    found, expected = norms.facts(), [math.sqrt(sum(v * v for v in row)) for row in rows.double().tolist()]
    finite = [n for n in expected if math.isfinite(n)]
    assert (found["zero"], found["not_finite"], len(finite)) == (1, 2, 898)
    assert found["mean"] == pytest.approx(sum(finite) / 898) and found["largest"] == pytest.approx(max(finite))
    assert 1 <= len(found["bins"]) <= MOST_BINS
    assert spread < 0.01 or len(found["bins"]) > MOST_BINS // 3
    assert sum(count for *_, count in found["bins"]) == 897
    for low, high, count in found["bins"]:
        assert count == sum(low <= n < high for n in finite)
    assert all(a[1] == b[0] for a, b in zip(found["bins"], found["bins"][1:], strict=False))


def test_norms_of_no_rows_and_of_ends_of_bins() -> None:
    norms = RowNorms()
    norms.add(torch.empty(0, 3))
    assert norms.facts() == {"mean": None, "largest": None, "zero": 0, "not_finite": 0, "bins": []}
    norms.add(torch.tensor([[2.0], [1.0], [-2.0], [2.0**-140]]))  # the last one is subnormal in fp32
    (low, *_, high) = norms.facts()["bins"]
    assert low[0] <= 2.0**-140 < low[1] and low[2] == 1
    assert high[0] <= 2 < high[1]


def test_numbers_are_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """However long names and numbers are."""
    name, number = "deep/" + "user_" * 10, 1_000_000_000
    norms = {"mean": 0.5, "largest": 1.5, "zero": 0, "not_finite": 0, "bins": [(0.5, 1.0, number)]}
    estimate = {"distinct_ids": 7e9, "deviation": 123_456.0, "shared": 0.5}
    table = {"rows": number, "dim": 64, "ids": "feature_cross and hash", "dynamic": name, "updated": number}
    table |= {"dead": number, "judged_by": "its id map", "collisions": estimate, "norms": norms}
    counters = ("occupied", "admissions", "evictions", "refused", "candidates", "forgotten", "occurrences")
    id_map = {"rows": number, "churn": 1.5, "oldest_use": number} | dict.fromkeys(counters, number)
    print_tables({"checkpoint": "run/checkpoints/step-4", "tables": {name: table}, "id_maps": {name: id_map}})
    lines = capsys.readouterr().out.splitlines()
    of_table = [x for x in lines if x.split()[:2] == [name, "feature_cross"]]
    of_map = [x for x in lines if x.split()[:1] == [name] and x not in of_table]
    assert "".join(of_table).count("1,000,000,000") == 3 and "7,000,000,000 ± 123,456" in "".join(of_table)
    assert "".join(of_map).count("1,000,000,000") == 9
    assert f"{name}: norms of used rows, by its id map" in lines and "…" not in "".join(lines)
