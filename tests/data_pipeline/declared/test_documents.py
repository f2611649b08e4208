"""YAML comes through one door: plain data within bounds, each key once, and what is written reads back equal."""

import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardrec.data_pipeline.declared.documents import MOST_BYTES, dump_document, parse_document, read_document
from shardrec.data_pipeline.errors import UserError

NINE_TIMES = "".join(f"v{n}: &v{n} [{', '.join([f'*v{n - 1}' if n else 'x'] * 9)}]\n" for n in range(9))
MERGED = "v0: &v0 {k: 1}\n" + "".join(f"v{n}: &v{n} {{<<: [{', '.join([f'*v{n - 1}'] * 9)}]}}\n" for n in range(1, 9))

REFUSED = {
    "a: 1\nb: 2\na: 3": r"key 'a' is there twice, in lines 1 and 3",
    "x: {a: 1, 'a': 2}": r"key 'a' is there twice, in line 1",
    "{1: a, 0x1: b}": r"key 1 is there twice",
    NINE_TIMES: r"aliases .* turn into more than",
    MERGED: r"aliases .* turn into more than",
    "a: &a [*a]": r"contains itself by an alias, in line 1",
    "[" * 3000: r"nested deeper than 100 levels",
    "{a: " * 3000: r"nested deeper than 100 levels",
    f"a: {'9' * 6000}": r"a number of 6,000 characters, in line 1: '9*\.\.\. \(6,002 characters\); write",
    "a: 0x" + "f" * 6000: r"a number of 6,002 characters",
    "a: 1" + ":1" * 3000: r"a number of 6,001 characters",
    "a: !!int x": r"'x' is no int, in line 1",
    "a: !!python/object:os.system x": r"'!!python/object:os.system' is no plain data",
    "a: !!binary aGk=": r"'!!binary' is no plain data",
    "a: !!set {b}": r"'!!set' is no plain data",
    "a: !mine {}": r"'!mine' is no plain data",
    "? [1, 2]\n: 3": r"a list or mapping as a key, in line 1",
    "<<: 1": r"`<<` takes a mapping",
    'a: "\\ud800"': r"not valid YAML",
    "a: \udcff": r"half of a surrogate pair",
    "a: \0": r"not valid YAML",
    "a: [": r"not valid YAML",
    "a: 1\n---\nb: 2": r"not valid YAML",
}


@pytest.mark.parametrize("text", REFUSED, ids=[f"{n}" for n in range(len(REFUSED))])
def test_what_is_no_plain_data_within_bounds_is_one_short_line(text: str) -> None:
    with pytest.raises(UserError, match=r"^run\.yaml: .*" + REFUSED[text]) as error:
        parse_document(text, "run.yaml")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("", None),
        ("a: 2024-01-01", {"a": "2024-01-01"}),
        ("a: 2024-99-99", {"a": "2024-99-99"}),
        ("a: =", {"a": "="}),
        ("{0: 1, 1: 2.5, null: ~}", {0: 1, 1: 2.5, None: None}),
        ("b: &b {x: 1, y: 2}\na: {<<: *b, y: 3}", {"b": {"x": 1, "y": 2}, "a": {"x": 1, "y": 3}}),
        ("a: {<<: [{x: 1}, {x: 2, y: 3}]}", {"a": {"x": 1, "y": 3}}),
        ("a: 1e3", {"a": "1e3"}),
    ],
)
def test_plain_data_is_read(text: str, content: Any) -> None:
    assert parse_document(text, "x") == content


def test_exponents_are_numbers_where_asked_for() -> None:
    assert parse_document("[1e-3, 1E5, .5e1, -2e-2]", "x", exponents=True) == [0.001, 1e5, 5.0, -0.02]


def test_what_aliases_stand_for_is_separate() -> None:
    """So that an override of one stage changes that one."""
    read = parse_document("a: &a {x: {y: 1}}\nb: *a", "x")
    read["a"]["x"]["y"] = 2
    assert read["b"] == {"x": {"y": 1}}


def test_files_that_are_none(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "absent", "no such run file"),
        (tmp_path, "a folder, where a run file"),
        (tmp_path / ("x" * 300), "cannot be read: .*too long"),
        (tmp_path / "a\0b", "cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            read_document(path, "run file")
    (tmp_path / "utf-16").write_text("a: 1", encoding="utf-16")
    with pytest.raises(UserError, match=r"not UTF-8 text .byte 0x.. at 0"):
        read_document(tmp_path / "utf-16", "run file")
    with open(tmp_path / "large", "wb") as file:
        os.truncate(file.fileno(), 1 << 30)
    with pytest.raises(UserError, match=f"more than {MOST_BYTES >> 20} MiB, which no schema is"):
        read_document(tmp_path / "large", "schema; write one")
    (tmp_path / "bom").write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_document(tmp_path / "bom", "run file") == {"a": 1}


LIKE_NUMBERS = st.sampled_from(["1e3", "yes", "~", "0o7", "1:2", "2024-01-01"])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | LIKE_NUMBERS
CONTENT = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXT,
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(TEXT, inside, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150)
@given(CONTENT, st.booleans())
def test_what_is_written_reads_back_equal(content: Any, exponents: bool) -> None:
    for flow in (False, None):
        read = parse_document(dump_document(content, flow=flow), "x", exponents=exponents)
        assert read == content and repr(read) == repr(content)


def test_infinity_is_written_and_read() -> None:
    assert parse_document(dump_document([math.inf, -math.inf]), "x") == [math.inf, -math.inf]
