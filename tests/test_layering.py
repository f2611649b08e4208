"""The order of floors: a folder imports only from its own layer's lower floors and from lower layers.

`trainer -> sharding -> models -> data_pipeline`, and inside each layer the order below. Two rooms of one floor do not
know each other.
"""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from shardrec.models import MODELS
from tests import ROOT

LAYERS = ("data_pipeline", "models", "sharding", "trainer", "shardrec")  # lowest first
FLOORS: dict[str, tuple[tuple[str, ...], ...]] = {  # highest first; what is not named is a layer's own file
    "trainer": (
        ("cli", "api"),
        ("commands",),
        ("comparison", "off_policy", "ranking", "retrieval", "serving", "tuning"),
        ("reports",),
        ("benchmarks",),
        ("scoring", "simulation"),
        ("training", "tables"),
        ("export",),
        ("catalogue",),
        ("checkpoints", "planning"),
        ("session",),
        ("launch", "tracking"),
        ("run_folder",),
        ("config",),
    ),
    "sharding": (
        ("checkpoints",),
        ("distribution",),
        ("planning",),
        ("exchange", "lookup"),
        ("dynamic",),
        ("updates",),
        ("tables",),
        ("kernels",),
    ),
    "data_pipeline": (
        ("prepare",),
        ("loading",),
        ("sampling",),
        ("reading",),
        ("features",),
        ("batch", "declared", "files", "local_ray"),
        ("stores",),
        ("errors",),
    ),
    "data_pipeline.files": (
        ("streams",),
        ("whole_files",),
        ("owned_files", "sealed_parquet"),
        ("interrupts",),
        ("file_errors", "file_names", "late_signals", "natural_order", "processes", "relative_names"),
    ),
    "data_pipeline.declared": (
        ("declaration",),
        ("comma_lists", "documents", "flags", "name_patterns", "sizes"),
    ),
    "data_pipeline.prepare": (
        ("commands",),
        ("history_commands",),
        ("options",),
        ("importers", "generators"),
        ("behaviour",),
        ("steps",),
    ),
}
LOADER = Path("trainer/export/loader")
"""The folder that every bundle has a copy of, where shardrec is not: its files import each other, relatively, alone."""

FILES = sorted(
    path.relative_to(ROOT)
    for layer in LAYERS
    for path in (ROOT / layer).rglob("*.py")
    if not any(parent.is_symlink() for parent in path.parents)
)


def module(path: Path) -> str:
    """`trainer/cli.py` -> `trainer.cli`."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imported(path: Path) -> set[str]:
    """Our modules that a file imports anywhere, also inside functions, without the leading `shardrec.`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            where = f"{path}:{node.lineno} imports"
            if path.parent == LOADER:
                assert node.level == 1 or str(node.module).split(".")[0] != "shardrec", f"{where} what no bundle has"
            else:
                assert node.level == 0, f"{where} relatively"
            room = ".".join(("shardrec", *path.parent.parts, "")) if node.level else ""
            names |= {f"{room}{node.module}.{alias.name}" for alias in node.names}
    assert not {name for name in names if name.split(".")[0] in LAYERS[:-1]}, f"{path}: import it as shardrec. ..."
    return {name.removeprefix("shardrec.") for name in names if name.startswith("shardrec.")}


def floor(package: str, name: str) -> int | None:
    """On which floor of `package` the module `name` is; None where it is not inside, or is the package itself."""
    inside = name.removeprefix(f"{package}.")
    if inside == name:
        return None
    room = inside.split(".")[0]
    return next((i for i, rooms in enumerate(FLOORS[package]) if room in rooms), None)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_to_lower_layers(path: Path) -> None:
    above = LAYERS[LAYERS.index(path.parts[0]) + 1 :]
    assert not {name for name in imported(path) if name.split(".")[0] in above}


@pytest.mark.parametrize("package", FLOORS)
def test_imports_point_to_lower_floors(package: str) -> None:
    wrong = []
    for path in FILES:
        mine = floor(package, module(path))
        if mine is None:
            continue
        room = module(path).removeprefix(f"{package}.").split(".")[0]
        for name in imported(path):
            theirs = floor(package, name)
            if theirs is not None and theirs <= mine and name.removeprefix(f"{package}.").split(".")[0] != room:
                wrong.append(f"{path} -> {name}")
    assert not wrong


@pytest.mark.parametrize("package", FLOORS)
def test_every_room_has_a_floor(package: str) -> None:
    inside = {module(p).removeprefix(f"{package}.").split(".")[0] for p in FILES if module(p).startswith(f"{package}.")}
    assert inside == {room for rooms in FLOORS[package] for room in rooms}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_only_the_table_of_contents_knows_particular_models(path: Path) -> None:
    if path in (Path("models/__init__.py"),) or path.parts[:2] == ("models", "layers"):
        return
    particular = {path.partition(":")[0].removeprefix("shardrec.") for path in MODELS.paths.values()}
    assert not {name for name in imported(path) if ".".join(name.split(".")[:2]) in particular}


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=str)
def test_every_folder_has_a_map(path: Path) -> None:
    """An `__init__.py` names each file and each folder beside it, in one line each."""
    lines = (ast.get_docstring(ast.parse((ROOT / path).read_text())) or "").splitlines()
    there = {p.name for p in FILES if p.parent == path.parent and p.name != "__init__.py"}
    there |= {
        f"{p.parent.name}/" for p in FILES if p.name == "__init__.py" and p.parent.parent == path.parent != p.parent
    }
    for name in sorted(there):
        assert any(line.startswith(f"- `{name}`") for line in lines), f"{path}: no line about {name}"


def test_no_import_circles() -> None:
    modules = {module(path) for path in FILES}
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for path in FILES:
        for name in imported(path):
            parts = name.split(".")
            of_ours = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
            graph[module(path)] |= {next((m for m in of_ours if m in modules), "")} - {"", module(path)}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_no_two_folders_import_each_other() -> None:
    pairs = {
        (path.parent, Path(*name.split(".")).parent)
        for path in FILES
        for name in imported(path)
        if (ROOT / Path(*name.split("."))).with_suffix(".py").exists()
    }
    assert not {(one, other) for one, other in pairs if one != other and (other, one) in pairs}


def test_no_function_has_more_than_60_lines() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
