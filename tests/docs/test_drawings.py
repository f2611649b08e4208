"""The drawings are what their script draws from the code, and what they name exists."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from docs.drawings import architecture
from docs.drawings.architecture import BACKWARD, EXCHANGES, FORWARD, READING, drawings
from tests import ROOT
from tests.docs.test_names import is_there

DRAWN = drawings()
STEPS = (*READING, *FORWARD, *BACKWARD)


@pytest.mark.parametrize("path", DRAWN, ids=lambda path: path.name)
def test_the_drawing_is_up_to_date(path: Path) -> None:
    script = Path(architecture.__file__).relative_to(ROOT)
    assert path.read_text() == DRAWN[path], f"run `python {script}`: a floor or a folder's map has changed"


@pytest.mark.parametrize("path", sorted((ROOT / "docs/drawings").glob("*.svg")), ids=lambda path: path.name)
def test_the_drawing_is_well_formed(path: Path) -> None:
    """It fetches nothing."""
    root = ElementTree.fromstring(path.read_text())
    assert root.tag.endswith("svg")
    assert "url(http" not in path.read_text() and "href" not in path.read_text()


@pytest.mark.parametrize(("file", "name", "text"), STEPS)
def test_a_batch_goes_through_functions_that_exist(file: str, name: str, text: str) -> None:
    assert is_there(file, name)


def test_exchanges_are_at_steps_of_the_way() -> None:
    assert EXCHANGES.keys() <= {function for _, function, _ in STEPS}
