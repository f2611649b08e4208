"""Text files of histories, and attributes of items."""

import gzip
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.commands import app
from shardrec.data_pipeline.prepare.importers.user_histories import prepare_user_histories
from shardrec.data_pipeline.prepare.steps.lines import line_blocks
from shardrec.data_pipeline.prepare.steps.preparation import Output

TEXT = "ann x y z w v\nbob\tv  w x z \r\n\ncy z y x w v\ndee q r p\n"


def items_of(out: Path, split: str) -> list[tuple[str, list[str]]]:
    """(item, history) of the positives."""
    names = ["?", *pq.read_table(out / "vocabularies" / "item.parquet").column("value").to_pylist()]
    rows = [r for r in pq.read_table(out / split).to_pylist() if r["label"]]
    return [(names[r["item"]], [names[i] for i in r["item_history"]]) for r in rows]


def test_files_of_histories(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain.txt", tmp_path / "packed"
    plain.write_bytes(TEXT.encode())
    packed.write_bytes(gzip.compress(TEXT.encode()))
    expected = [("y", ["x"]), ("z", ["x", "y"]), ("w", ["v"]), ("y", ["z"]), ("x", ["z", "y"])]
    for path in (plain, packed):
        out = tmp_path / f"out of {path.name}"
        prepare_user_histories(path, Output(out))
        assert sorted(items_of(out, "train")) == sorted(expected)
        assert ("v", ["x", "y", "z", "w"]) in items_of(out, "test")
        assert not (out / "vocabularies" / "category.parquet").exists()


def test_lines_of_one_user_are_joined(tmp_path: Path) -> None:
    joined, single = tmp_path / "joined", tmp_path / "single"
    joined.write_text(TEXT)
    words = [line.split() for line in TEXT.splitlines() if line]
    turns = [f"{user} {items[k]}\n" for k in range(5) for user, *items in words if k < len(items)]
    single.write_text("".join(turns))
    for path in (joined, single):
        prepare_user_histories(path, Output(tmp_path / f"{path.name} out"))
    for split in ("train", "test"):
        assert items_of(tmp_path / "joined out", split) == items_of(tmp_path / "single out", split)


def test_the_first_attribute_is_the_category(tmp_path: Path) -> None:
    (tmp_path / "h.txt").write_text(TEXT)
    (tmp_path / "a.json").write_text('{"x": [7, 8], "y": ["\\ud800eight"], "z": [], "w": 7, "unused": ["\\ud800"]}')
    report = prepare_user_histories(tmp_path / "h.txt", Output(tmp_path / "out"), attributes=tmp_path / "a.json")
    assert "items without a category, the table's last row: 5 of 8" in str(report)
    categories = pq.read_table(tmp_path / "out" / "vocabularies" / "category.parquet").column("value").to_pylist()
    items = pq.read_table(tmp_path / "out" / "vocabularies" / "item.parquet").column("value").to_pylist()
    assert sorted(categories) == ["7", "\ufffdeight"]
    names = dict(enumerate(["?", *categories, None]))
    found = {
        (items[row["item"] - 1], names[row["category"]])
        for row in pq.read_table(tmp_path / "out" / "train").to_pylist()
    }
    assert (
        found <= {("x", "7"), ("y", "\ufffdeight"), ("z", None), ("w", "7"), ("v", None), ("q", None)}
        and len(found) > 3
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a x y\n\nb\nc x\n", r"h.txt, line 3: found 'b' alone, expected `user item item \.\.\.`"),
        ("", "h.txt: has no rows"),
        ("\n \n", "h.txt: has no rows"),
    ],
)
def test_files_that_are_no_histories(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "h.txt").write_text(text)
    with pytest.raises(UserError, match=line):
        prepare_user_histories(tmp_path / "h.txt", Output(tmp_path / "out"))


def test_a_byte_order_mark_is_no_part_of_the_first_user(tmp_path: Path) -> None:
    (tmp_path / "h.txt").write_text("\ufeff" + TEXT)
    prepare_user_histories(tmp_path / "h.txt", Output(tmp_path / "out"))
    users = pq.read_table(tmp_path / "out" / "vocabularies" / "user.parquet").column("value").to_pylist()
    assert set(users) == {line.split()[0] for line in TEXT.splitlines() if line.strip()}


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "h.txt").write_bytes(b"a x y z w\nb x \xff\n")
    with pytest.raises(UserError, match=r"h.txt, line 2: not utf-8"):
        prepare_user_histories(tmp_path / "h.txt", Output(tmp_path / "out"))
    (tmp_path / "h.txt").write_bytes(gzip.compress(TEXT.encode() * 99)[:-20])
    with pytest.raises(UserError, match=r"h.txt: damaged"):
        prepare_user_histories(tmp_path / "h.txt", Output(tmp_path / "out"))


@pytest.mark.parametrize(
    ("attributes", "line"),
    [
        ("{", "a.json: not JSON"),
        ('{"a": ' + "[" * 100_000, "a.json: not JSON: maximum recursion depth"),
        ("[1]", r"a.json: not JSON: found '\[1\]' where an object begins; expected"),
        ('{"x": {"y": 1}}', r"a.json: item 'x' has \{'y': 1\}, expected a list of words or whole numbers"),
        ('{"x": [1.5]}', r"a.json: item 'x' has \[1.5\], expected"),
        (None, "a.json: .*[Nn]o such file"),
    ],
)
def test_attributes_that_cannot_be_read(tmp_path: Path, attributes: str | None, line: str) -> None:
    (tmp_path / "h.txt").write_text(TEXT)
    if attributes is not None:
        (tmp_path / "a.json").write_text(attributes)
    with pytest.raises(UserError, match=line):
        prepare_user_histories(tmp_path / "h.txt", Output(tmp_path / "out"), attributes=tmp_path / "a.json")


def test_blocks_end_where_lines_do(tmp_path: Path) -> None:
    text = "".join(f"{'x' * (i % 17)}\n" for i in range(400)) + "no end"
    (tmp_path / "f").write_text(text)
    blocks = list(line_blocks(str(tmp_path / "f"), block_bytes=50))
    assert len(blocks) > 20 and b"".join(b.data for b in blocks).decode() == text
    lines = [line for block in blocks for line in block.numbered("f")]
    assert lines == [(n, line) for n, line in enumerate(text.split("\n"), 1) if line]


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "h.txt").write_text(TEXT)
    options = ["--max-length", "2", "--negatives", "2", "--history-negatives", "--min-history", "1", "--seed", "3"]
    result = CliRunner().invoke(app, ["histories", str(tmp_path / "h.txt"), str(tmp_path / "out"), *options])
    assert result.exception is None, result.output
    assert "17 events of 4 users and 8 items" in result.output
    rows = pq.read_table(tmp_path / "out" / "train").to_pylist()
    assert len(rows) == 3 * 5 and max(len(r["negative_item_history"]) for r in rows) == 2
    (tmp_path / "h.txt").write_text(TEXT + "ann x\n")
    result = CliRunner().invoke(app, ["histories", str(tmp_path / "h.txt"), str(tmp_path / "first"), "--first-only"])
    assert result.exception is None, result.output
    assert "18 events of" in result.output and "kept the first of each user and item: 17 events of" in result.output


def test_real_histories(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "s3rec"
    said: list[str] = []
    report = prepare_user_histories(
        folder / "Beauty.txt.gz",
        Output(tmp_path / "out"),
        attributes=folder / "Beauty_item2attributes.json.gz",
        progress=said.append,
    )
    assert "198,502 events of 22,363 users and 12,101 items" in said[0]
    assert report.tally.rows == {"train": 2 * (198_502 - 3 * 22_363), "validation": 44_624, "test": 44_450}
    assert "51 of 22,363 in validation, 138 of 22,363 in test" in str(report)
    assert {split: total / n for split, (total, n) in report.tally.labels["label"].items()} == {
        "train": 0.5,
        "validation": 0.5,
        "test": 0.5,
    }
