"""What error lines show of a value: enough to find it, on one line, however large it is."""

import pytest

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import cut_at_a_word, shortened


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("abc", "abc"),
        ("Amélie 日本", "Amélie 日本"),
        ("a\nb\0\ud800", "a\\nb\\x00\\ud800"),
        ("x" * 100_000, "x" * 80 + "... (100,000 characters)"),
        (None, "None"),
        ([1, "a"], "[1, 'a']"),
        (10**6000, "an integer of 19932 bits"),
        ([10**6000], "[an integer of 19932 bits]"),
    ],
    ids=lambda _: "",
)
def test_a_value_on_one_line(value: object, shown: str) -> None:
    assert shortened(value) == shown


def test_large_values_are_cut() -> None:
    for value in ({"a": ["x" * 1000] * 1000}, b"x" * 10_000_000, list(range(1_000_000)), ["x" * 10_000_000]):
        assert len(shortened(value)) == 83
        assert len(shortened(value, 200)) <= 203


def test_lists_of_known_names_and_long_names_are_cut() -> None:
    assert len(unknown("column", "x" * 100_000, [f"c{i}" for i in range(100_000)])) < 1500
    assert unknown("column", "usr", ["user", "item"]) == "unknown column 'usr'; did you mean 'user'?"


def test_a_sentence_is_cut_at_a_word() -> None:
    assert cut_at_a_word("connection refused", 18) == "connection refused"
    assert cut_at_a_word("Max retries exceeded", 15) == "Max retries ..."
    assert cut_at_a_word("x" * 20, 15) == "x" * 15 + " ..."
