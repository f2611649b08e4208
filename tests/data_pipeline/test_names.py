"""Any text is a name: what it becomes in the names of files, and which patterns mean it."""

from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from shardrec.data_pipeline.declared.name_patterns import matches
from shardrec.data_pipeline.files.file_names import LONGEST, file_stems

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=250)


ALIKE = st.sampled_from(["user", "User", "USER", "a/b", "a%2Fb", "a=2Fb"])


@given(st.lists(NAMES | ALIKE, max_size=8), st.sampled_from("%="))
def test_stems_are_short_plain_and_different_whatever_the_case(names: list[str], escape: str) -> None:
    stems = file_stems(names, escape)
    assert stems.keys() == set(names)
    assert len({stem.lower() for stem in stems.values()}) == len(stems)
    for stem in stems.values():
        assert len(stem) <= LONGEST and stem.isascii() and "/" not in stem and "\0" not in stem


def test_ordinary_names_stay() -> None:
    names = ["user", "item_id", "deep/C1", "a b", "größe"]
    assert list(file_stems(names).values()) == ["user", "item_id", "deep%2FC1", "a%20b", "gr%C3%B6%C3%9Fe"]


def test_a_name_made_like_anothers_stem_is_another() -> None:
    long = "x" * 300
    assert len(set(file_stems([long, file_stems([long])[long]]).values())) == 2


@given(NAMES)
def test_a_name_matches_itself(name: str) -> None:
    assert matches(name, name)


def test_patterns_match_as_before() -> None:
    assert matches("a[0]", "a[0]") and not fnmatchcase("a[0]", "a[0]")
    assert matches("a0", "a[0]") and matches("deep/C1", "deep/C*") and not matches("deep/C1", "wide/*")
