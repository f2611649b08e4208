"""The library is compiled once, by a compiler that is there; without one torch operations take its place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shardrec.sharding.kernels.build import library_file
from tests import ROOT


def test_is_compiled_once_into_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing is left beside it; the line that says so comes before the wait."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = library_file()
    assert found is not None and list((tmp_path / "shardrec").iterdir()) == [found]
    assert capfd.readouterr().err.count("\n") == 1
    changed = found.stat().st_mtime_ns
    assert library_file() == found and found.stat().st_mtime_ns == changed
    assert not capfd.readouterr().err


@pytest.mark.parametrize(
    ("compiler", "said"),
    [("", "no C++ compiler found"), ("exit 3", "do not compile"), ("echo error: no >&2; exit 1", "(error: no)")],
)
def test_without_a_compiler_that_works_torch_updates_rows(tmp_path: Path, compiler: str, said: str) -> None:
    """One line says so, and a table is trained all the same."""
    program = tmp_path / "bin" / "c++"
    program.parent.mkdir()
    if compiler:
        program.write_text(f"#!/bin/sh\n{compiler}\n")
        program.chmod(0o755)
    code = """
import torch
from shardrec.sharding.updates.row_tables import RowTables
from shardrec.sharding.updates.rules import Sgd
tables = RowTables([(3, 2)], [0], [Sgd(learning_rate=1.0)], dtypes=[torch.float32], device=torch.device("cpu"))
assert tables.compiled is None
tables(torch.tensor([1, 1]), torch.tensor([0, 2])).sum().backward()
assert tables.weights[0].tolist() == [[0, 0], [-2, -2], [0, 0]]
"""
    # only the compiler's folder: `sh` is found by its own path
    environment = {**os.environ, "PATH": str(program.parent), "CXX": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = str(ROOT)
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    lines = [line for line in run.stderr.splitlines() if line.startswith("shardrec: ")]
    assert said in lines[-1] and "torch operations" in lines[-1]
    assert not list((tmp_path / "cache").rglob("*.so"))
