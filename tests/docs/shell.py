"""A shell that follows a page: it runs the page's blocks in one folder, in this process and in brief."""

import asyncio
import json
import re
import runpy
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from shardrec.trainer.comparison.compare import train_one
from shardrec.trainer.config.load import load, read
from shardrec.trainer.serving.application import application
from shardrec.trainer.serving.batcher import Batcher
from shardrec.trainer.serving.measures import Measures
from shardrec.trainer.serving.opened import OpenedBundle
from shardrec.trainer.serving.service import Service
from shardrec.trainer.serving.settings import Settings
from tests.docs.commands import Block, arguments, simple_commands
from tests.trainer.command_line import shardrec

SMALL = ("trainer.max_steps=6", "launch.workers=1", "launch.backend=in_process", "launch.threads=1")
SETTINGS = [word for setting in SMALL for word in ("--set", setting)]
IN_BRIEF = {
    "train": SETTINGS,
    "compare": [*SETTINGS, "--seeds", "1"],
    "export": ["--check", "20"],
    "tune": [*SETTINGS, "--trials", "1", "--jobs", "0"],
    "contrast": ["--draws", "20"],
}
"""What is added to a command, so that it takes a moment."""
FILE = re.compile(r"# (\S+\.(?:py|yaml))$")


@dataclass
class Made:
    """What the pages of one folder have made so far, and later pages need not make again."""

    bundles: dict[tuple[str, ...], Path] = field(default_factory=dict)
    opened: dict[Path, OpenedBundle] = field(default_factory=dict)


class Shell:
    """It runs a page's blocks in one folder, and remembers the bundle that is served."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stand_ins: dict[str, str], made: Made) -> None:
        self.monkeypatch = monkeypatch
        self.stand_ins = stand_ins
        self.made = made
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
            self.shardrec([self.stand_ins.get(word, word) for word in rest])
            return
        while "=" in words[0]:
            assert words[0].startswith("PYTHONPATH="), place
            self.monkeypatch.syspath_prepend(words[0].removeprefix("PYTHONPATH="))
            words = words[1:]
        if words[0].rpartition("/")[2] == "python":
            before = set(sys.modules)
            runpy.run_path(words[1], run_name="__main__")
            for name in set(sys.modules) - before:
                self.monkeypatch.delitem(sys.modules, name)  # another page's may be called alike
        elif words[0] == "curl":
            self.answer = asyncio.run(self.asked(words))
        else:
            assert words[0] == ".", f"{place}: nothing runs {shlex.join(words)}"

    def shardrec(self, words: list[str]) -> None:
        """Runs a command; what makes a bundle of a run again is given the one that is there."""
        if words[0] == "serve":
            self.bundle = words[1]
            return
        if words[0] == "compare":
            self.train_here(Path(words[1]))
        if words[0] == "export":
            out = Path(words[words.index("--out") + 1])
            there = self.made.bundles.setdefault(tuple(word for word in words if word != str(out)), out.absolute())
            if there != out.absolute():
                out.parent.mkdir(parents=True, exist_ok=True)
                out.symlink_to(there)
                return
        shardrec(self.monkeypatch, *words, *IN_BRIEF.get(words[0], ()))

    def train_here(self, file: Path) -> None:
        """Trains the runs of a comparison in this process, where it finds them: it would start another one."""
        for model in read(file)["variants"]:
            config = load(file, (*SMALL, "trainer.seed=0"), variant=model)
            out = Path(config.run).parent
            train_one(config.model_copy(update={"run": str(out / model / "seed-0")}), out, quiet=True)

    async def asked(self, words: list[str]) -> Any:
        """What the service answers to `curl localhost:8000/PATH -H HEADER -d BODY`."""
        path = re.sub(r"^(http://)?localhost:8000", "", words[1])
        body = words[words.index("-d") + 1] if "-d" in words else None
        place = Path(self.bundle).resolve()
        opened = self.made.opened.setdefault(place, self.made.opened.get(place) or OpenedBundle(self.bundle, 1))
        measures = Measures()
        batcher = Batcher(asyncio.get_running_loop(), 100, 0.0, measures.batch)
        service = Service(Settings(self.bundle), opened, batcher, measures)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(application(service)), base_url="http://here"
        ) as client:
            headers = {"content-type": "application/json"}
            answer = await client.request("GET" if body is None else "POST", path, content=body, headers=headers)
        await asyncio.to_thread(batcher.close)
        assert answer.status_code == 200, answer.text
        return answer.json()
