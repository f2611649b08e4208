"""Pages whose commands are run: README and how-to pages, in the order of their lines, on small data.

A block behind `<!-- run: NAME -->` is run among the data and the runs of that name, which its pages share. One whose
first line is `# FILE` is written to that file. Commands go to the command line in this process, with the options
below; requests go to a service in this process.
"""

import asyncio
import json
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shardrec.trainer.serving.application import application
from shardrec.trainer.serving.batcher import Batcher
from shardrec.trainer.serving.measures import Measures
from shardrec.trainer.serving.opened import OpenedBundle
from shardrec.trainer.serving.service import Service
from shardrec.trainer.serving.settings import Settings
from tests import ROOT
from tests.docs.commands import Block, arguments, blocks, simple_commands
from tests.trainer.command_line import shardrec

SMALL = ("trainer.max_steps=6", "launch.workers=1", "launch.backend=in_process", "launch.threads=1")
IN_BRIEF = {
    "train": [word for setting in SMALL for word in ("--set", setting)],
    "export": ["--check", "20"],
    "tune": ["--trials", "1", "--jobs", "0"],
}
"""What is added to a command, so that it takes a moment."""
SEARCHED = """
run: runs/searched
data: {path: data/ml-1m}
model: {name: fm, embedding_dim: 4}
tune: {space: {optimizer.tables.learning_rate: {log: [0.01, 1]}}}
"""
FILE = re.compile(r"# (\S+\.(?:py|yaml))$")


def shop(folder: Path) -> None:
    """Nothing more is there: the first page makes it all."""


def movielens(folder: Path) -> None:
    """MovieLens 1M as published, of 60 users and 40 movies, the project's run files and one with a search space."""
    pairs = [(user, n) for n in range(30) for user in range(1, 61)]
    lines = {
        "ratings.dat": [(user, 1 + user * n % 40, 1 + (user + n) % 5, 978_300_000 + 100 * n) for user, n in pairs],
        "users.dat": [(user, "MF"[user % 2], 25, user % 7, f"0{user}") for user in range(1, 61)],
        "movies.dat": [(movie, f"Film {movie} (19{50 + movie})", "Comedy|War") for movie in range(1, 41)],
    }
    (folder / "ml-1m").mkdir()
    for name, rows in lines.items():
        (folder / "ml-1m" / name).write_text("".join("::".join(map(str, row)) + "\n" for row in rows))
    (folder / "trainer").symlink_to(ROOT / "trainer")
    (folder / "RUN.yaml").write_text(SEARCHED)
    for name in ("new", "logs/2024-05-01"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(folder / "data/ml-1m/test")


FOLDERS = {"movielens": movielens, "shop": shop}
PAGES = {
    "movielens": ["README.md", "docs/running.md", "docs/predicting.md"],
    "shop": ["docs/your-own-data.md", "docs/retrieving.md", "docs/checkpoints.md"],
}
"""Folder -> pages, in the order in which they are followed."""
STAND_INS = {
    "movielens": {"RUN_FOLDER": "runs/movielens/deepfm", "4000": "4"},
    "shop": {
        "visits.parquet": "data/shop/test",
        "RUN_FOLDER": "runs/shop",
        "RUN_A": "runs/shop",
        "RUN_B/checkpoints/step-40": "runs/shop/checkpoints/step-6",
        "NEW_RUN_FOLDER": "runs/new",
    },
}
"""What there is for a word of a command that stands for the reader's own."""


class Shell:
    """It runs a page's blocks in one folder, and remembers the bundle that is served."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stand_ins: dict[str, str]) -> None:
        self.monkeypatch = monkeypatch
        self.stand_ins = stand_ins
        self.bundle = ""
        self.answer: Any = None

    def run(self, block: Block) -> None:
        """Runs a block, or writes the file that it is."""
        if named := FILE.match(block.lines[0]):
            Path(named[1]).write_text("\n".join(block.lines) + "\n")
            return
        for place, line in block.commands():
            if line.startswith("{"):
                shown = json.loads(line)
                assert self.answer.keys() == shown.keys(), place
                continue
            for words in simple_commands(line):
                self.command(words, place)

    def command(self, words: list[str], place: str) -> None:
        if (rest := arguments(words)) is not None:
            if rest[0] == "serve":
                self.bundle = rest[1]
            else:
                words = [self.stand_ins.get(word, word) for word in rest]
                shardrec(self.monkeypatch, *words, *IN_BRIEF.get(rest[0], ()))
        elif words[0] == "python":
            runpy.run_path(words[1], run_name="__main__")
        elif words[0] == "curl":
            self.answer = asyncio.run(self.asked(words))
        else:
            assert words[0] == ".", f"{place}: nothing runs {shlex.join(words)}"

    async def asked(self, words: list[str]) -> Any:
        """What the service answers to `curl localhost:8000/PATH -H HEADER -d BODY`."""
        path = re.sub(r"^(http://)?localhost:8000", "", words[1])
        body = words[words.index("-d") + 1] if "-d" in words else None
        measures = Measures()
        batcher = Batcher(asyncio.get_running_loop(), 100, 0.0, measures.batch)
        service = Service(Settings(self.bundle), OpenedBundle(self.bundle, 1), batcher, measures)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(application(service)), base_url="http://here"
        ) as client:
            headers = {"content-type": "application/json"}
            answer = await client.request("GET" if body is None else "POST", path, content=body, headers=headers)
        await asyncio.to_thread(batcher.close)
        assert answer.status_code == 200, answer.text
        return answer.json()


def marked(page: Path) -> Iterator[Block]:
    return (block for block in blocks(page) if block.run)


@pytest.mark.parametrize("name", FOLDERS)
def test_pages_can_be_followed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a folder of its own, with the data and the runs of those before it."""
    FOLDERS[name](tmp_path)
    for shared in ("data", "runs"):
        (tmp_path / shared).mkdir()
    made = list(tmp_path.iterdir())
    for page in PAGES[name]:
        here = tmp_path / Path(page).stem
        here.mkdir()
        for path in made:
            (here / path.name).symlink_to(path)
        monkeypatch.chdir(here)
        shell = Shell(monkeypatch, STAND_INS[name])
        for block in marked(ROOT / page):
            shell.run(block)


def test_every_marked_page_is_followed() -> None:
    """A mark elsewhere would promise what is not so."""
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        where = {name for name, pages in PAGES.items() if str(page.relative_to(ROOT)) in pages}
        assert {block.run for block in marked(page)} == where, page.name
        assert not (where and "<!-- figures: " in page.read_text()), page.name
