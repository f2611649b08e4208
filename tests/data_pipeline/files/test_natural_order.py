"""Numbers in names count as numbers; everything else is as in plain strings."""

from hypothesis import given
from hypothesis import strategies as st

from shardrec.data_pipeline.files.natural_order import natural_key


def test_numbers_count_as_numbers():
    names = ["day_10", "day_9", "day_1", "day_2", "day_11/part-2", "day_11/part-10", "day", "day_09", "x²", "x2", "x10"]
    expected = [
        "day",
        "day_1",
        "day_2",
        "day_09",
        "day_9",
        "day_10",
        "day_11/part-2",
        "day_11/part-10",
        "x2",
        "x10",
        "x²",
    ]
    assert sorted(names, key=natural_key) == expected


@given(st.lists(st.text(), unique=True))
def test_any_names_have_one_order(names):
    assert sorted(names, key=natural_key) == sorted(reversed(names), key=natural_key)


@given(st.lists(st.text(st.characters(exclude_categories=("Nd",))), unique=True))
def test_names_without_numbers_are_in_the_order_of_strings(names):
    assert sorted(names, key=natural_key) == sorted(names)
