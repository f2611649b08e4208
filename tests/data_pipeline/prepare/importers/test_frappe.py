"""Frappe's libfm files and raw log."""

from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import IdFeature
from shardrec.data_pipeline.prepare.importers.frappe import FrappeLog, prepare_frappe
from shardrec.data_pipeline.prepare.steps.preparation import Output

HEADER = ["user", "item", "cnt", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city"]


def log(path: Path, pairs: list[tuple[int, int]]) -> FrappeLog:
    context = ["morning", "sunday", "weekend", "unknown", "free", "sunny", "Spain"]
    lines = [HEADER, *([str(u), str(i), "1", *context, str(n)] for n, (u, i) in enumerate(pairs))]
    path.write_text("\n".join("\t".join(line) for line in lines) + "\n")
    return FrappeLog(str(path))


def test_negatives_have_the_context_of_their_line_and_apps_never_used(tmp_path: Path) -> None:
    pairs = [(n % 7, 10 * (n % 11)) for n in range(60)]
    source = log(tmp_path / "frappe.csv", pairs)
    rows = [r for batch, _ in source.batches() for r in batch.to_pylist()]
    again = [r for batch, _ in source.batches() for r in batch.to_pylist()]
    assert rows == again
    assert len(rows) == 180
    used = defaultdict(set)
    for user, item in pairs:
        used[user].add(item)
    for n, (user, item) in enumerate(pairs):
        positive, *negatives = rows[3 * n : 3 * n + 3]
        assert (positive["user"], positive["item"], positive["label"]) == (user, item, 1)
        for r in negatives:
            assert r["label"] == -1 and r["item"] not in used[user] and r["item"] % 10 == 0
            assert {k: v for k, v in r.items() if k not in ("item", "label")} == {
                k: v for k, v in positive.items() if k not in ("item", "label")
            }
    assert len({r["item"] for r in rows if r["label"] < 0}) == 11


def test_a_user_who_used_everything(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="user 1 used all 2 apps"):
        list(log(tmp_path / "frappe.csv", [(1, 5), (1, 6)]).batches())


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \*train\*\.libfm file .* --raw"):
        prepare_frappe(tmp_path, Output(tmp_path / "out"))
    with pytest.raises(UserError, match=r"no frappe\.csv"):
        prepare_frappe(tmp_path, Output(tmp_path / "out"), raw=True)


def test_real_libfm_files(shared_data: Path, tmp_path: Path) -> None:
    report = prepare_frappe(shared_data / "frappe", Output(tmp_path / "out"))
    assert report.tally.rows == {"train": 202_027, "validation": 57_722, "test": 28_860}
    assert all(isinstance(f, IdFeature) for f in report.schema.features)
    sizes = [f.num_embeddings for f in report.schema.sparse]
    assert sizes == [957, 4082, 7, 7, 2, 3, 2, 9, 80, 233]
    assert sum(sizes) == 5382
    first = pq.read_table(tmp_path / "out" / "validation").slice(0, 1).to_pylist()[0]
    names = ["user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city"]
    assert [first[n] for n in names] == [266, 1244 - 957, 3, 3, 1, 0, 0, 2, 5, 0]
    assert first["label"] == 1 and report.schema.group == "user"


def test_real_raw_log(shared_data: Path, tmp_path: Path) -> None:
    report = prepare_frappe(shared_data / "frappe", Output(tmp_path / "out"), raw=True)
    assert sum(report.tally.rows.values()) == 288_609 == 3 * 96_203
    total, count = (sum(x) for x in zip(*report.tally.labels["label"].values(), strict=True))
    assert (total, count) == (96_203, 288_609)
    assert report.tally.rows["train"] == pytest.approx(0.7 * 288_609, rel=0.01)
    assert report.schema["user"].num_embeddings <= 958 and report.schema["item"].num_embeddings <= 4083
