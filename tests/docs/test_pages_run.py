"""Pages whose commands are run: README and how-to pages, in the order of their lines, on small data.

A block behind `<!-- run: NAME -->` is run in the folder NAME, which all pages share. One whose first line is `# FILE`
is written to that file. Commands go to the command line in this process, with the options below; requests go to a service
in this process.
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
    "compare": ["--seeds", "2", *(word for setting in SMALL for word in ("--set", setting))],
    "tune": ["--trials", "2", "--jobs", "0"],
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
    """Nothing is there: the page makes it all."""


def movielens(folder: Path) -> None:
    """MovieLens 1M as published, of 60 users and 40 movies, beside the project's run files."""
    raw = folder / "ml-1m"
    raw.mkdir()
    ratings = [
        (user, 1 + (user * n) % 40, 1 + (user + n) % 5, 978_300_000 + 100 * n)
        for n in range(30)
        for user in range(1, 61)
    ]
    (raw / "ratings.dat").write_text("".join("::".join(map(str, row)) + "\n" for row in ratings))
    (raw / "users.dat").write_text(
        "".join(f"{user}::{'MF'[user % 2]}::25::{user % 7}::0{user}\n" for user in range(1, 61))
    )
    (raw / "movies.dat").write_text(
        "".join(f"{movie}::Film {movie} (19{50 + movie})::Comedy|War\n" for movie in range(1, 41))
    )
    (folder / "trainer").symlink_to(ROOT / "trainer")
    (folder / "RUN.yaml").write_text(SEARCHED)


FOLDERS = {"movielens": movielens, "shop": shop}
READ = ["README.md", "your-own-data.md"]
PAGES = [ROOT / name if name == "README.md" else ROOT / "docs" / name for name in READ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pages")
    for name, made in FOLDERS.items():
        (root / name).mkdir()
        made(root / name)
    return root


class Shell:
    """It runs a page's blocks in one folder, and remembers the bundle that is served."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
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
                shardrec(self.monkeypatch, *rest, *IN_BRIEF.get(rest[0], ()))
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_can_be_followed(page: Path, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell(monkeypatch)
    for block in marked(page):
        monkeypatch.chdir(folders / str(block.run))
        shell.run(block)


def test_every_marked_page_is_run() -> None:
    """A mark elsewhere would promise what is not so."""
    assert {page.name for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")) if any(marked(page))} == set(READ)
