"""A service needs a few packages, and nothing that trains."""

import ast
import sys
from pathlib import Path


from tests import ROOT
from tests.test_layering import imported

ENTRIES = ("trainer/serving/worker.py", "trainer/serving/supervisor.py")
NEEDED = {"torch", "numpy", "pyarrow", "starlette", "uvicorn", "orjson", "prometheus_client"}


def packages_of(entries: tuple[str, ...]) -> set[str]:
    """Packages of others that files import, and files of ours that they import, anywhere in them."""
    waiting, seen, packages = {Path(entry) for entry in entries}, set[Path](), set[str]()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.Import):
                packages |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                packages.add((node.module or "").split(".")[0])
        for name in imported(path):
            parts = name.split(".")
            for count in range(1, len(parts) + 1):
                module = Path(*parts[:count])
                waiting |= {p for p in (module.with_suffix(".py"), module / "__init__.py") if (ROOT / p).is_file()}
        waiting -= seen
    return packages - set(sys.stdlib_module_names) - {"shardrec"}


def test_a_service_imports_nothing_that_trains() -> None:
    assert packages_of(ENTRIES) == NEEDED
