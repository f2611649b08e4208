"""Pages whose commands are run: README and how-to pages, in the order of their lines, on small data.

A block behind `<!-- run: NAME -->` is run among the data and the runs of that name, which its pages share. One whose
first line is `# FILE` is written to that file. Commands go to the command line in this process, with the options of
`shell.py`; requests go to a service in this process. Blocks behind `<!-- figures: ... -->` made figures of the page.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT
from tests.docs.commands import Block, blocks
from tests.docs.raw_data import movielens as write_movielens
from tests.docs.raw_data import write_raw_data
from tests.docs.shell import Made, Shell

SEARCHED = """
run: runs/searched
data: {path: data/ml-1m}
model: {name: fm, embedding_dim: 4}
tune: {space: {optimizer.tables.learning_rate: {log: [0.01, 1]}}}
"""


def shop(folder: Path) -> None:
    """Nothing more is there: the first page makes it all."""


def movielens(folder: Path) -> None:
    """MovieLens 1M as published, of 60 users and 40 movies, the project's run files and one with a search space."""
    write_movielens(folder / "ml-1m", users=60, movies=40)
    (folder / "trainer").symlink_to(ROOT / "trainer")
    (folder / "RUN.yaml").write_text(SEARCHED)
    (folder / "data").mkdir()
    (folder / "data/frappe").symlink_to("ml-1m")
    for name in ("new", "logs/2024-05-01"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(folder / "data/ml-1m/test")


def raw(folder: Path) -> None:
    """Raw files of all kinds."""
    write_movielens(folder / "ml-1m", users=9, movies=37)
    write_raw_data(folder)


FOLDERS = {"movielens": movielens, "shop": shop, "raw": raw}
PAGES = {
    "movielens": [
        *("README.md", "docs/running.md", "docs/predicting.md", "docs/ranking.md", "docs/comparing.md"),
        *("docs/reports.md", "docs/tuning.md"),
    ],
    "shop": [
        *("docs/your-own-data.md", "docs/retrieving.md", "docs/checkpoints.md", "docs/exporting.md"),
        *("docs/serving.md", "docs/catalogue.md"),
    ],
    "raw": ["docs/prepare.md"],
}
"""Folder -> pages, in the order in which they are followed."""
STAND_INS = {
    "movielens": {
        "RUN_FOLDER": "runs/movielens/deepfm",
        "4000": "4",
        "runs/clicks": "runs/movielens/deepfm",
        "requests/": "data/ml-1m/test",
        "request": "user_id",
        "bid": "rating",
        "runs/dcn": "runs/movielens/deepfm",
        "runs/three": "runs/frappe",
        "country": "occupation",
        "country,price,history": "user,age,genres",
    },
    "shop": {
        "visits.parquet": "data/shop/test",
        "RUN_FOLDER": "runs/shop",
        "RUN_A": "runs/shop",
        "RUN_B/checkpoints/step-40": "runs/shop/checkpoints/step-6",
        "NEW_RUN_FOLDER": "runs/new",
        "runs/gowalla": "runs/shop",
    },
    "raw": {"FOLDER": "published", "300000": "300", "200000,1000": "20,10"},
}
"""What there is for a word of a command that stands for the reader's own."""
OF_THE_PAGE = "<!-- figures: commands of this page "


def marked(page: Path) -> Iterator[Block]:
    return (block for block in blocks(page) if block.run)


@pytest.mark.long
@pytest.mark.parametrize("name", FOLDERS)
def test_pages_can_be_followed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a folder of its own, with the data and the runs of those before it."""
    FOLDERS[name](tmp_path)
    for shared in ("data", "runs"):
        (tmp_path / shared).mkdir(exist_ok=True)
    there, made = list(tmp_path.iterdir()), Made()
    for page in PAGES[name]:
        here = tmp_path / Path(page).stem
        here.mkdir()
        for path in there:
            (here / path.name).symlink_to(path)
        monkeypatch.chdir(here)
        with monkeypatch.context() as patch:
            shell = Shell(patch, STAND_INS[name], made)
            for block in marked(ROOT / page):
                shell.run(block)


def test_every_marked_page_is_followed() -> None:
    """A mark elsewhere would promise what is not so; nothing that made figures is run."""
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        where = {name for name, pages in PAGES.items() if str(page.relative_to(ROOT)) in pages}
        assert {block.run for block in marked(page)} == where, page.name
        assert not (where and OF_THE_PAGE in page.read_text()), page.name
        of_blocks = re.findall(r"^<!-- figures: (?!commands of this page).*-->\n\n(.*)$", page.read_text(), re.M)
        assert all(line.startswith("    ") for line in of_blocks), page.name
