"""NCF's leave-one-out files."""

import gzip
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.importers.ncf import prepare_ncf
from shardrec.data_pipeline.prepare.steps.preparation import Output

USERS, ITEMS = 7, 150
Pairs = set[tuple[int, int]]


def ratings(pairs: Pairs) -> list[str]:
    return [f"{user}\t{item}\t5\t0" for user, item in sorted(pairs)]


TRAIN = {(0, 2)} | {(u, i) for u in range(1, USERS) for i in range(130) if (i + u) % 5 == 0}
TEST = {(u, ITEMS - 1 - u) for u in range(USERS)}


def files(folder: Path, name: str = "tiny", **lines: list[str]) -> Path:
    """User 0 has one training item, the others 26; test items are among 3 others, one of user 2's being its own."""
    negative = [f"({u},{i})\t{i if u == 2 else 130}\t131\t132" for u, i in sorted(TEST)]
    content = {"train_rating": ratings(TRAIN), "test_rating": ratings(TEST), "test_negative": negative} | lines
    for key, found in content.items():
        path = folder / f"{name}.{key.replace('_', '.')}"
        text = ("\n".join(found) + "\n").encode()
        if key == "test_rating":
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(text))
        else:
            path.write_bytes(text)
    return folder


def rows(folder: Path, split: str) -> tuple[Pairs, dict[int, list[int]]]:
    """Pairs of label 1, and user -> items of label 0."""
    table = pq.read_table(folder / split)
    assert table.column_names == ["user", "item", "label"]
    positives, negatives = set(), defaultdict(list)
    for user, item, label in zip(*(table.column(c).to_pylist() for c in table.column_names), strict=True):
        if label:
            positives.add((user, item))
        else:
            negatives[user].append(item)
    return positives, negatives


def test_splits_and_candidates(tmp_path: Path) -> None:
    lines: list[str] = []
    report = prepare_ncf(files(tmp_path), Output(tmp_path / "out"), progress=lines.append)
    assert any("left out 1 negatives" in line for line in lines)
    train, none = rows(tmp_path / "out", "train")
    # all test items, and of the items that training has, those of which the one row is held out
    untrained = len({i for _, i in TRAIN - train} - {i for _, i in train})
    note = "held-out items that no training row has: 7 of 7 in test"
    assert (note + (f", {untrained} of 6 in validation" if untrained else "") + "; kept") in str(report)
    held, candidates = rows(tmp_path / "out", "validation")
    assert not none and train | held == TRAIN and not train & held
    assert sorted(user for user, _ in held) == [1, 2, 3, 4, 5, 6]  # user 0 keeps its one item
    for user, items in candidates.items():
        assert len(items) == len(set(items)) == 99
        assert set(items) <= {i for _, i in TRAIN} - {i for u, i in TRAIN | TEST if u == user}
    positives, negatives = rows(tmp_path / "out", "test")
    assert positives == TEST
    assert negatives == {u: [131, 132] if u == 2 else [130, 131, 132] for u in range(USERS)}
    assert [f.num_embeddings for f in report.schema.sparse] == [USERS, ITEMS]
    assert [f.role for f in report.schema.features] == ["user", "item"] and report.schema.group == "user"
    order = pq.read_table(tmp_path / "out" / "train").column("user").to_numpy()
    assert (np.diff(order) < 0).sum() > len(order) / 4  # shuffled


def test_a_user_with_too_many_items(tmp_path: Path) -> None:
    files(tmp_path, train_rating=ratings(TRAIN | {(6, i) for i in range(40)}))
    with pytest.raises(UserError, match=r"user 6 has nearly all of the 130 items .*too many to draw 99 others"):
        prepare_ncf(tmp_path, Output(tmp_path / "out"))


def test_the_seed_decides_what_is_held_out(tmp_path: Path) -> None:
    files(tmp_path)
    held = []
    for place, seed in enumerate((0, 0, 1)):
        prepare_ncf(tmp_path, Output(tmp_path / f"out{place}"), seed=seed)
        held.append(rows(tmp_path / f"out{place}", "validation"))
    assert held[0] == held[1]
    assert len(held[0][0] & held[2][0]) < 4
    prepare_ncf(tmp_path, Output(tmp_path / "all"), validation=False)
    assert rows(tmp_path / "all", "train")[0] == TRAIN
    assert not (tmp_path / "all" / "validation").exists()


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ({"train_rating": ["0\t1\t5\t0", "0\tx\t5\t0"]}, r"tiny\.train\.rating, line 2, column 'item': found 'x'"),
        ({"train_rating": ["0\t1\t5\t0", "0\t1"]}, r"line 2: found 2 fields, expected 4"),
        ({"train_rating": ["0\t1\t5\t0", "-3\t1\t5\t0"]}, r"line 2, column 'user': found -3, expected an id from 0"),
        ({"test_rating": ["0\t1\t5\t0"]}, r"negative: found 7 lines, expected 1 as in .*tiny\.test\.rating\.gz"),
        ({"test_negative": ["(0,149)\t1", "(1,148)\t1\t2"]}, r"negative, line 2: found 3 fields, expected 2"),
        ({"test_negative": ["0,149\t1"]}, r"negative, line 1, column 'pair': found '0,149', expected `\(user,item\)`"),
        ({"test_negative": ["(0,149)"]}, r"negative, line 1: found no negatives"),
        (
            {"test_rating": ["0\t9\t1\t0"], "test_negative": ["(0,8)\t1"]},
            r"line 1, column 'pair': found \(0,8\), expected \(0,9\) as in",
        ),
    ],
)
def test_lines_that_are_not_as_published(tmp_path: Path, lines: dict[str, list[str]], problem: str) -> None:
    files(tmp_path, **lines)
    with pytest.raises(UserError, match=problem):
        prepare_ncf(tmp_path, Output(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_which_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no NAME\.train\.rating"):
        prepare_ncf(tmp_path, Output(tmp_path / "out"))
    files(tmp_path)
    files(tmp_path, "other")
    with pytest.raises(UserError, match=r"several data sets \(other, tiny\); choose one by --name"):
        prepare_ncf(tmp_path, Output(tmp_path / "out"))
    with pytest.raises(UserError, match="unknown data set 'tine'; did you mean 'tiny'"):
        prepare_ncf(tmp_path, Output(tmp_path / "out"), name="tine")
    (tmp_path / "tiny.test.negative").unlink()
    with pytest.raises(UserError, match=r"no tiny\.test\.negative \(plain or compressed\)"):
        prepare_ncf(tmp_path, Output(tmp_path / "out"), name="tiny")


def test_real_files(shared_data: Path, tmp_path: Path) -> None:
    report = prepare_ncf(shared_data / "ncf", Output(tmp_path / "out"))
    given_twice = 156  # negatives that are their user's own test item
    assert report.tally.rows == {"train": 994_169 - 6_040, "validation": 604_000, "test": 604_000 - given_twice}
    assert [f.num_embeddings for f in report.schema.sparse] == [6_040, 3_706]
    for split in ("validation", "test"):
        table = pq.read_table(tmp_path / "out" / split)
        label, user, item = (table.column(c).to_numpy() for c in ("label", "user", "item"))
        assert (np.bincount(user, weights=label) == 1).all()
        known = pq.read_table(tmp_path / "out" / "train")
        known = known.column("user").to_numpy() * 3_706 + known.column("item").to_numpy()
        assert not np.isin(user * 3_706 + item, known).any()
        assert len(np.unique(user.astype(np.int64) * 3_706 + item)) == len(user)
