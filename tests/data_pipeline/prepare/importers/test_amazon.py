"""Amazon's files as published."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.commands import app
from shardrec.data_pipeline.prepare.importers.amazon import prepare_amazon
from shardrec.data_pipeline.prepare.steps.preparation import Output

DAY = 86_400
REVIEWS = [  # user, item, day
    *(("ann", item, day) for item, day in (("B2", 2), ("B1", 1), ("B3", 3), ("B4", 3), ("B1", 9), ("B5", 5))),
    *(("bob", item, day) for item, day in (("B5", 4), ("B4", 3), ("B3", 2), ("B1", 1))),
    *(("cy", item, day) for item, day in (("B4", 1), ("B5", 2), ("B6", 3), ("B4", 4), ("B5", 5))),
]
META = [
    {"asin": "B1", "title": 'It\'s "one"', "categories": [["Music", "Drums"], ["Music", "Brushes"]], "price": 3.5},
    {"asin": "B3", "categories": [["Music", "Drums"]], "salesRank": {"Music": 3}, "imUrl": None},
    {"asin": "B4", "category": ["Music", "Guitars", "Drums"]},
    {"asin": "B5", "categories": [[]]},
]


def review(user: str, item: str, day: int, **more: object) -> str:
    found = {"reviewerID": user, "asin": item, "helpful": [0, 1], "reviewText": 'a "b"\n{', "unixReviewTime": day * DAY}
    return json.dumps(found | more)


def reviews(path: Path, lines: list[str] | None = None) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines or [review(*r, style={r[0]: 1}) for r in REVIEWS]))
    return path


def positives(out: Path, split: str) -> list[tuple[str, str, list[str]]]:
    names = {
        table: ["?", *pq.read_table(out / "vocabularies" / f"{table}.parquet").column("value").to_pylist()]
        for table in ("user", "item")
    }
    rows = [r for r in pq.read_table(out / split).to_pylist() if r["label"]]
    return sorted(
        (names["user"][r["user"]], names["item"][r["item"]], [names["item"][i] for i in r["item_history"]])
        for r in rows
    )


def test_reviews_are_events_in_the_order_of_time(tmp_path: Path) -> None:
    said: list[str] = []
    prepare_amazon(reviews(tmp_path / "r.json"), Output(tmp_path / "out"), progress=said.append)
    assert "no --metadata: rows have items, but no category" in said
    assert positives(tmp_path / "out", "train") == [  # equal times: as in the file
        ("ann", "B2", ["B1"]),
        ("ann", "B3", ["B1", "B2"]),
        ("ann", "B4", ["B1", "B2", "B3"]),
        ("bob", "B3", ["B1"]),
        ("cy", "B5", ["B4"]),
        ("cy", "B6", ["B4", "B5"]),
    ]
    assert ("ann", "B1", ["B1", "B2", "B3", "B4", "B5"]) in positives(tmp_path / "out", "test")
    schema = pq.read_schema(next((tmp_path / "out" / "train").iterdir()))
    assert schema.names == ["user", "item", "hour", "item_history", "hour_history", "label"]
    days = {hour // 24 for r in pq.read_table(tmp_path / "out" / "train").to_pylist() for hour in r["hour_history"]}
    assert days == {4, 5, 6}  # the second of January 1970 was a Friday


@pytest.mark.parametrize("write", [json.dumps, repr], ids=["json", "python"])
def test_metadata_give_categories(tmp_path: Path, write: Callable[[object], str]) -> None:
    path = tmp_path / "m.gz"
    path.write_bytes(gzip.compress("\n".join(map(write, META)).encode()))
    report = prepare_amazon(reviews(tmp_path / "r.json"), Output(tmp_path / "out"), metadata=path)
    assert "items without a category, the table's last row: 3 of 6" in str(report)
    categories = pq.read_table(tmp_path / "out" / "vocabularies" / "category.parquet").to_pylist()
    assert {r["value"] for r in categories} == {"Brushes", "Drums"}  # the last name of the last path
    items = ["?", *pq.read_table(tmp_path / "out" / "vocabularies" / "item.parquet").column("value").to_pylist()]
    names = ["?", *(r["value"] for r in categories), None]
    known = {"B1": "Brushes", "B3": "Drums", "B4": "Drums"}
    for row in pq.read_table(tmp_path / "out" / "train").to_pylist():
        assert names[row["category"]] == known.get(items[row["item"]])
        assert [names[c] for c in row["category_history"]] == [known.get(items[i]) for i in row["item_history"]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'reviewerID': 'a'}", "r.json, line 3: not JSON"),
        (
            json.dumps({"reviewerID": "a", "asin": "B"}),
            "r.json, line 3: found unixReviewTime = None, expected whole sec",
        ),
        (review("a", "b", 1, asin=5), "r.json, line 3: found asin = 5, expected a string"),
        (review("a", "b\ud800", 1), r"r.json, line 3: found asin = 'b\\ud800', expected a string of whole characters"),
        (
            review("\udfffa", "b", 1),
            r"r.json, line 3: found reviewerID = '\\udfffa', expected a string of whole charac",
        ),
        (review("a", "b", 1, unixReviewTime=2**63), "r.json, line 3: found unixReviewTime = 9223372036854775808, exp"),
        ("[" * 100_000, "r.json, line 3: not JSON: maximum recursion depth"),
        (review("a", "b", 1, unixReviewTime=1.5), "r.json, line 3: found unixReviewTime = 1.5, expected whole seconds"),
        (review("a", "b", 1, reviewerID=None), "r.json, line 3: found reviewerID = None, expected a string"),
        ("[1]", "r.json, line 3: found reviewerID = None, expected a string"),
    ],
)
def test_lines_that_are_no_reviews(tmp_path: Path, line: str, message: str) -> None:
    path = reviews(tmp_path / "r.json", [review("a", "b", 1), "", line, review("a", "c", 2)])
    with pytest.raises(UserError, match=message):
        prepare_amazon(path, Output(tmp_path / "out"))


@pytest.mark.parametrize("text", ["null", "\ufeffnull", "null\n", "\n null\n{}\n", "null\x1f\x8b"])
def test_a_file_that_begins_with_null(tmp_path: Path, text: str) -> None:
    """Arrow's own reader ends the process there."""
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(UserError, match=r"r.json, line \d: (found reviewerID = None, expected|not JSON)"):
        prepare_amazon(str(tmp_path / "r.json"), output=Output(tmp_path / "out"))


def test_reviews_that_are_no_text(tmp_path: Path) -> None:
    path = reviews(tmp_path / "r.json", [review("a", "b", 1)])
    path.write_bytes(path.read_bytes() + b'\n{"reviewerID": "\xff", "asin": "b", "unixReviewTime": 1}\n')
    with pytest.raises(UserError, match=r"r.json, line \d: not utf-8"):
        prepare_amazon(path, Output(tmp_path / "out"))


def test_half_a_character_in_a_text_stops_nothing(tmp_path: Path) -> None:
    lines = [review(*r, style={r[0]: 1}) for r in REVIEWS]
    prepare_amazon(reviews(tmp_path / "whole.json", lines), Output(tmp_path / "whole"))
    lines[3] = review(*REVIEWS[3], reviewText="so \ud83d", summary="\udc00")
    prepare_amazon(reviews(tmp_path / "half.json", lines), Output(tmp_path / "half"))
    for split in ("train", "validation", "test"):
        assert positives(tmp_path / "half", split) == positives(tmp_path / "whole", split)


@pytest.mark.parametrize("write", [json.dumps, repr], ids=["json", "python"])
def test_half_a_character_in_a_category_is_replaced(tmp_path: Path, write: Callable[[object], str]) -> None:
    meta = [*META[:2], {"asin": "B5", "title": "\ud800", "categories": [["Drums \udc00\ud83d\ude00\ud800 \u00e9"]]}]
    (tmp_path / "m.json").write_text("\n".join(map(write, meta)))
    prepare_amazon(reviews(tmp_path / "r.json"), Output(tmp_path / "out"), metadata=tmp_path / "m.json")
    categories = pq.read_table(tmp_path / "out" / "vocabularies" / "category.parquet").column("value").to_pylist()
    assert sorted(categories) == ["Brushes", "Drums", "Drums \ufffd\U0001f600\ufffd \u00e9"]


@pytest.mark.parametrize("line", ["{'asin': 'B1', ", "[3]", '{"title": "x"}', "__import__('os').getcwd()"])
def test_lines_that_are_no_metadata(tmp_path: Path, line: str) -> None:
    (tmp_path / "m.json").write_text(f"{json.dumps(META[0])}\n{line}\n")
    with pytest.raises(UserError, match=r"m.json, line 2: found .*, expected JSON or a Python literal with 'asin'"):
        prepare_amazon(reviews(tmp_path / "r.json"), Output(tmp_path / "out"), metadata=tmp_path / "m.json")


def test_no_reviews(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("\n\n")
    with pytest.raises(UserError, match=r"r.json: has no rows"):
        prepare_amazon(tmp_path / "r.json", Output(tmp_path / "out"))


def test_real_reviews_by_the_command(shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "amazon_raw" / "reviews_Musical_Instruments_5.json.gz"
    result = CliRunner().invoke(app, ["amazon", "--reviews", str(file), str(tmp_path / "out")])
    assert result.exception is None, result.output
    assert "10,261 events of 1,429 users and 900 items" in result.output
    rows = {split: pq.read_table(tmp_path / "out" / split).num_rows for split in ("train", "validation", "test")}
    assert rows == {"train": 2 * (10_261 - 3 * 1_429), "validation": 2 * (1_429 - 24), "test": 2 * (1_429 - 36)}
