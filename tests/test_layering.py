"""The four layers and their import order: trainer -> sharding -> models -> data_pipeline."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("data_pipeline", "models", "sharding", "trainer")
FILES = sorted(p.relative_to(ROOT) for layer in LAYERS for p in (ROOT / layer).rglob("*.py"))


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_to_the_right_only(path: Path) -> None:
    above = LAYERS[LAYERS.index(path.parts[0]) + 1 :]
    assert not {name for name in imported(path) if name.split(".")[0] in above}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_only_the_table_of_contents_knows_particular_models(path: Path) -> None:
    if path in (Path("models/__init__.py"),) or path.parts[:2] == ("models", "layers"):
        return
    shared = {"base", "inputs", "tasks", "metrics", "layers", "collective", "user_item", "histories", "dynamic_ids"}
    particular = {f"models.{p.stem}" for p in (ROOT / "models").glob("*.py")} - {f"models.{s}" for s in shared}
    assert not imported(path) & particular
