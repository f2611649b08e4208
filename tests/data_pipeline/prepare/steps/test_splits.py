"""Splits and draws are pure functions of rows."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import Origin
from shardrec.data_pipeline.prepare.steps.splits import ColumnSplit, HashSplit, RowNumbers, TimeSplit, draw

ORIGIN = Origin("f", 2, "line")


def codes(
    split: HashSplit | TimeSplit | ColumnSplit, batch: pa.RecordBatch, part: int = 0, first: int = 0
) -> list[int]:
    return split.codes(batch, RowNumbers(part, first, batch.num_rows), ORIGIN).tolist()


def batch_of(**columns: object) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(columns)


def test_draws_are_uniform_and_independent_by_purpose_and_seed() -> None:
    words = RowNumbers(3, 100, 100_000).words
    drawn = draw("split", 0, words)
    assert drawn.min() >= 0 and drawn.max() < 1
    assert np.abs(np.histogram(drawn, 10, (0, 1))[0] - 10_000).max() < 400
    for other in (
        draw("negative", 0, words),
        draw("split", 1, words),
        draw("split", 0, RowNumbers(4, 100, 100_000).words),
    ):
        assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.015


def test_hash_split_has_its_fractions_and_keeps_equal_values_together() -> None:
    values = pa.array([f"u{i % 20_000}" for i in range(60_000)])
    split = HashSplit(columns=("u",), fractions={"train": 0.7, "validation": 0.2, "test": 0.1}, seed=4)
    found = np.array(codes(split, batch_of(u=values)))
    np.testing.assert_allclose(np.bincount(found) / len(found), [0.7, 0.2, 0.1], atol=0.015)
    assert (found[:20_000] == found[20_000:40_000]).all()
    assert codes(split, batch_of(u=values.slice(777, 50))) == found[777:827].tolist()
    assert codes(split, batch_of(u=values.dictionary_encode())) == found.tolist()
    other_seed = np.array(codes(split.model_copy(update={"seed": 5}), batch_of(u=values)))
    assert 0.3 < (other_seed != found).mean() < 0.6


def test_hash_split_by_row_number_does_not_depend_on_batches() -> None:
    split = HashSplit()
    whole = codes(split, batch_of(a=list(range(1000))), part=2)
    assert codes(split, batch_of(a=list(range(400))), part=2, first=600) == whole[600:]
    assert codes(split, batch_of(a=list(range(1000))), part=3) != whole
    np.testing.assert_allclose(np.bincount(whole, minlength=3) / 1000, [0.8, 0.1, 0.1], atol=0.04)


def test_empty_shares_get_nothing() -> None:
    rows = batch_of(a=list(range(5000)))
    assert set(codes(HashSplit(fractions={"train": 1.0}), rows)) == {0}
    assert set(codes(HashSplit(fractions={"train": 0.5, "test": 0.5}), rows)) == {0, 2}


def test_nulls_are_values_of_a_hash_split() -> None:
    found = codes(HashSplit(columns=("u",)), batch_of(u=["a", None, "a", None]))
    assert found[0] == found[2] and found[1] == found[3]


@pytest.mark.parametrize(
    ("cuts", "expected"),
    [((3, 5), [0, 0, 0, 1, 1, 2, 2]), ((3,), [0, 0, 0, 2, 2, 2, 2]), ((3, None), [0, 0, 0, 1, 1, 1, 1])],
)
def test_time_split_by_cuts(cuts: tuple[int | None, ...], expected: list[int]) -> None:
    assert codes(TimeSplit(column="t", cuts=cuts), batch_of(t=list(range(7)))) == expected


def test_time_split_of_strings_and_nulls() -> None:
    split = TimeSplit(column="t", type="string", cuts=("2014-10-22", "2014-10-30"))
    assert codes(split, batch_of(t=["2014-10-21", "2014-10-22", "2014-11-01"])) == [0, 1, 2]
    with pytest.raises(UserError, match="f, line 3, column 't': found null, expected a time"):
        codes(split, batch_of(t=["2014-10-21", None]))


@given(st.lists(st.integers(0, 30), min_size=40, max_size=200), st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.0, 0.5)]))
def test_time_split_by_fractions_cuts_sorted_times(times: list[int], shares: tuple[float, float, float]) -> None:
    split = TimeSplit(column="t", fractions=dict(zip(("train", "validation", "test"), shares, strict=True)))
    values, counts = np.unique(times, return_counts=True)
    table = pa.table({"value": values, "count": counts})
    try:
        cut = split.cut(table)
    except UserError as error:
        assert "too few to split" in str(error)  # nearly all rows are of the last times
        assert np.cumsum(counts)[-2 if len(counts) > 1 else -1] < 0.92 * len(times) or len(counts) == 1
        return
    found = np.array(codes(cut, batch_of(t=times)))
    for t in set(times):
        assert len(set(found[np.array(times) == t])) == 1
    assert [int(c) for _, c in sorted(zip(times, found, strict=True))] == sorted(found.tolist())
    largest = counts.max()
    assert abs((found == 0).sum() - shares[0] * len(times)) <= largest + 1


def test_time_split_by_fractions_without_test() -> None:
    split = TimeSplit(column="t", fractions={"train": 0.75, "validation": 0.25})
    cut = split.cut(pa.table({"value": list(range(8)), "count": [1] * 8}))
    assert cut.cuts == (6, None)


def test_column_split() -> None:
    split = ColumnSplit(column="s", values={"tr": "train", "te": "test"})
    assert codes(split, batch_of(s=["tr", "te", "tr"])) == [0, 2, 0]
    with pytest.raises(UserError, match="f, line 3, column 's': found 'va', expected one of tr, te"):
        codes(split, batch_of(s=["tr", "va"]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HashSplit(fractions={"train": 0.5, "test": 0.4}), "sum to 1"),
        (lambda: HashSplit(fractions={"test": 1.0}), "some for train"),
        (lambda: TimeSplit(column="t", cuts=(5, 3)), "ascend"),
        (lambda: TimeSplit(column="t", cuts=("a",)), "cuts of type integer expected"),
        (lambda: TimeSplit(column="t", cuts=(None, 3)), "ascend"),
    ],
)
def test_wrong_declarations(make: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make()  # type: ignore[operator]
