"""Delimited text: types, gzip, delimiters, and errors that name the line."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.prepare.steps import lines as lines_module
from shardrec.data_pipeline.prepare.steps.source import input_files
from shardrec.data_pipeline.prepare.steps.text import TextFile, TextFormat

INTEGER, NUMBER, STRING = pa.int64(), pa.float64(), pa.string()
AB = {"a": INTEGER, "b": STRING}


def rows(path: Path, content: bytes | str, types: Any = None, form: TextFormat | None = None, **more: Any) -> list[Any]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    file = TextFile(str(path), form or TextFormat(), types or AB, **more)
    return [row for batch, _ in file.batches() for row in batch.to_pylist()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.csv"


def test_types_nulls_and_quotes(path: Path) -> None:
    content = 'b,unused,a,c,l\n"x,y",1,7,1.5,3|4\n,,,,\n"",2,-1,nan,5\n'
    types = {"a": INTEGER, "b": STRING, "c": NUMBER, "l": pa.list_(INTEGER)}
    found = rows(path, content, types, separators={"l": "|"})
    assert str(found[2].pop("c")) == "nan"
    assert found == [
        {"a": 7, "b": "x,y", "c": 1.5, "l": [3, 4]},
        {"a": None, "b": None, "c": None, "l": None},
        {"a": -1, "b": "", "l": [5]},
    ]


def test_gzip_is_told_by_content_and_members_may_follow_each_other(path: Path) -> None:
    assert rows(path, gzip.compress(b"a,b\n1,x\n") + gzip.compress(b"2,y\n")) == [
        {"a": 1, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    with pytest.raises(UserError, match=r"x.csv: damaged: Truncated"):
        rows(path, gzip.compress(b"a,b\n" + bytes(range(256)) * 0 + b"1,x\n" * 5000)[:-30])


def test_line_ends_blank_lines_byte_order_marks_and_encodings(path: Path) -> None:
    assert rows(path, b"\xef\xbb\xbfa,b\r\n1,x\r\n\n2,y") == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    latin = TextFormat(encoding="latin-1", header=False, columns=("a", "b"))
    assert rows(path, b"1,Am\xe9lie\n", form=latin) == [{"a": 1, "b": "Amélie"}]


NO_HEADER = TextFormat(header=False, columns=("a", "b"))


@pytest.mark.parametrize(
    ("content", "form", "message"),
    [
        (b"a,b\n1,2\n3\n", None, "x.csv, line 3: found 1 fields, expected 2"),
        (b"1,2\n3,4,5\n", NO_HEADER, "x.csv, line 2: found 3 fields, expected 2"),
        (b"1\n", NO_HEADER, "x.csv, line 1: found 1 fields, expected 2"),
        (b"a,b\n1,2\nx,4\ny,4\n", None, "x.csv, line 3, column 'a': found 'x', expected an integer"),
        (b"1,2\n1.5,4\n", NO_HEADER, "x.csv, line 2, column 'a': found '1.5', expected an integer"),
        (b"a,bb\n1,2\n", None, "x.csv, line 1: unknown column 'b'; did you mean 'bb'"),
        (b"a,b\n1,2\n1,\xff\n", None, "x.csv, line 3: not UTF-8"),
        (b"", None, "x.csv: is empty"),
        (b"1,2\n", TextFormat(header=False), "declare `columns`"),
    ],
)
def test_errors_name_the_line(path: Path, content: bytes, form: TextFormat | None, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        rows(path, content, form=form)
    assert "\n" not in str(error.value)


def test_errors_within_lists_name_the_line(path: Path) -> None:
    with pytest.raises(UserError, match="line 4, column 'b': found 'z', expected an integer"):
        rows(path, "a,b\n1,1|2\n2,\n3,4|z\n", {"a": INTEGER, "b": pa.list_(INTEGER)}, separators={"b": "|"})


def test_lines_are_counted_through_blocks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "BLOCK_BYTES", 1000)
    lines = [f"{i},x" for i in range(2000)]
    path.write_text("a,b\n" + "\n".join(lines) + "\n")
    batches = list(TextFile(str(path), TextFormat(), AB).batches())
    assert len(batches) > 5
    assert [o.row(0) for _, o in batches] == [f"{path}, line {2 + b.column(0)[0].as_py()}" for b, _ in batches]
    lines[1777] = "wrong,x"
    with pytest.raises(UserError, match="line 1779, column 'a': found 'wrong'"):
        rows(path, "a,b\n" + "\n".join(lines) + "\n")


def test_a_header_without_rows(path: Path) -> None:
    assert rows(path, "a,b\n") == []


def test_input_files_are_found_in_natural_order(tmp_path: Path) -> None:
    for name in ("day_10.gz", "day_9.gz", "day_0.gz", "other.txt", ".hidden"):
        (tmp_path / name).write_text("x")
    names = [Path(f).name for f in input_files([tmp_path], ("day_*",))]
    assert names == ["day_0.gz", "day_9.gz", "day_10.gz"]
    assert [Path(f).name for f in input_files([tmp_path / "day_?.gz", tmp_path / "other.txt"])] == [
        "day_0.gz",
        "day_9.gz",
        "other.txt",
    ]
    for missing, message in (("none.csv", "no such file"), ("n*", "no file matches"), ("", "no files nothing_\\*")):
        with pytest.raises(UserError, match=message):
            input_files([tmp_path / missing], ("nothing_*",))
