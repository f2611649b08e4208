"""What the documentation names exists: files, what is in them, and the pages and headings that it links to."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from shardrec.models import MODELS
from tests import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = re.compile(r"`((?:[\w.-]+/)+[\w.-]*)(?:: (\w+(?:\.\w+)*))?`")
"""`folder/file.py`, `folder/`, or `folder/file.py: Class.method`."""
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
OF_A_RUN = "checkpoints/"


@cache
def definitions(file: Path) -> frozenset[str]:
    """Returns the dotted names of a module's classes, functions, methods and attributes."""
    found: set[str] = set()

    def collect(body: list[ast.stmt], within: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found.add(within + node.name)
            if isinstance(node, ast.ClassDef):
                collect(node.body, f"{within}{node.name}.")
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update(within + target.id for target in targets if isinstance(target, ast.Name))

    collect(ast.parse(file.read_text()).body, "")
    return frozenset(found)


def is_there(path: str, name: str | None = None) -> bool:
    """Whether a file or a folder of the tree exists, and defines `name`."""
    file = ROOT / path
    return file.exists() and (name is None or (file.suffix == ".py" and name in definitions(file)))


def names_of_architecture() -> list[tuple[str, str | None]]:
    text = (ROOT / "docs/architecture.md").read_text()
    return [(m[1], m[2]) for m in NAMED.finditer(text) if not m[1].startswith(OF_A_RUN) and "NAME" not in m[1]]


@pytest.mark.parametrize(("path", "name"), dict.fromkeys(names_of_architecture()))
def test_architecture_names_what_exists(path: str, name: str | None) -> None:
    assert is_there(path, name)


def test_architecture_names_files_by_their_whole_path() -> None:
    """So that the test above sees them."""
    text = CODE.sub("", (ROOT / "docs/architecture.md").read_text())
    assert not re.findall(r"`\w+\.py[^`]*`", text.replace("`__init__.py`", ""))
    assert len(names_of_architecture()) > 60


def anchors(page: Path) -> set[str]:
    """Returns what a page's headings are linked by."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> list[tuple[Path, str]]:
    found = [(page, link) for page in PAGES for link in LINK.findall(CODE.sub("", page.read_text()))]
    return [(page, link) for page, link in found if "://" not in link]


@pytest.mark.parametrize(("page", "link"), links(), ids=lambda given: given.name if isinstance(given, Path) else given)
def test_links_lead_somewhere(page: Path, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    assert target.exists()
    assert not anchor or anchor in anchors(target)


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_the_front_page_lists_every_page(page: Path) -> None:
    assert f"(docs/{page.name})" in PAGES[0].read_text()


def test_the_front_page_counts_the_models() -> None:
    assert f"\n- {len(MODELS)} models " in PAGES[0].read_text()
