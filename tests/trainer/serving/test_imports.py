"""A service needs a few packages, and nothing that trains; its image has these."""

import ast
import json
import re
import sys
from pathlib import Path

from tests import ROOT

ENTRIES = ("trainer/serving/worker.py", "trainer/serving/supervisor.py")
NEEDED = {"torch", "numpy", "pyarrow", "starlette", "uvicorn", "orjson", "prometheus_client"}


BY_NAME = {"httptools", "uvloop"}
"""What uvicorn loads by name."""


def packages_of(*entries: str, started: bool = False) -> set[str]:
    """Packages of others that files and those of ours that they import need; with `started` when they are loaded."""
    waiting, seen, packages = {Path(entry) for entry in entries}, set[Path](), set[str]()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        tree = ast.parse((ROOT / path).read_text())
        names: set[str] = set()
        for node in tree.body if started else ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                room = ".".join(("shardrec", *path.parts[: -node.level], "")) if node.level else ""
                names |= {f"{room}{node.module}.{alias.name}" for alias in node.names}
        packages |= {name.split(".")[0] for name in names}
        for name in names:
            parts = name.removeprefix("shardrec.").split(".")
            for count in range(1, len(parts) + 1):
                module = Path(*parts[:count])
                waiting |= {p for p in (module.with_suffix(".py"), module / "__init__.py") if (ROOT / p).is_file()}
        waiting -= seen
    return packages - set(sys.stdlib_module_names) - {"shardrec"}


def test_a_service_imports_nothing_that_trains() -> None:
    assert packages_of(*ENTRIES) == NEEDED


DOCKERFILE = (ROOT / "docs/recipes/Dockerfile").read_text().replace("\\\n", "")


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def test_the_image_installs_what_a_service_and_the_command_import() -> None:
    installs = [line.split() for line in instructions("RUN")]
    assert all(line[:2] == ["pip", "install"] for line in installs)
    options = {"pip", "install", "--constraint", "constraints.txt", "--index-url", '"$TORCH_INDEX"', "--no-deps", "."}
    assert {word for line in installs for word in line} - options == (
        NEEDED | BY_NAME | packages_of("trainer/cli.py", started=True)
    )


def test_the_image_is_small_unprivileged_and_ends_in_order() -> None:
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", instructions("FROM")[0])
    assert not {"root", "0"} & set(instructions("USER")[-1].split(":"))
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    entry, command = (json.loads(instructions(name)[0]) for name in ("ENTRYPOINT", "CMD"))  # no shell takes signals
    assert entry[:2] == ["shardrec", "serve"] and command
    assert json.loads(instructions("HEALTHCHECK")[0].partition(" CMD ")[2])[0] == "python"
    for line in instructions("COPY"):
        assert all((ROOT / source).exists() for source in line.split()[:-1])
    assert not instructions("ADD")
