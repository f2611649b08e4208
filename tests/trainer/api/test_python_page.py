"""docs/python.md is a session that runs, as a script and in a real Jupyter kernel."""

import re
import runpy
from pathlib import Path

import nbclient
import nbformat
import pytest

from tests import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)


def test_as_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """It is `__main__` for as long as it runs, as its own model's home."""
    (tmp_path / "session.py").write_text("\n".join(BLOCKS))
    monkeypatch.chdir(tmp_path)
    runpy.run_path("session.py", run_name="__main__")
    printed = capfd.readouterr()
    *_, auc, of_own = re.findall(r"^(0\.\d+)", printed.out, re.MULTILINE)
    assert float(auc) > 0.7 and float(of_own) > 0.7
    assert "starting workers" in printed.err  # the progress
    assert {p.name for p in tmp_path.iterdir()} == {"session.py", "clicks", "runs"}


@pytest.mark.long
def test_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is another matter there: trainings, which print into their cells, and a model that is defined in one."""
    blocks = [block for block in BLOCKS if "model." not in block]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(block) for block in blocks])
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    printed = {i: "".join(o.get("text", "") for o in cell.outputs) for i, cell in enumerate(notebook.cells)}
    trained = next(i for i, block in enumerate(blocks) if "summary = shardrec.train" in block)
    streams = {o["name"] for o in notebook.cells[trained].outputs if o["output_type"] == "stream"}
    assert streams == {"stdout", "stderr"}, "progress and the result are both in the cell"
    assert "starting workers" in printed[trained] and "runs/clicks" in printed[trained]
    assert (tmp_path / "runs/clicks/summary.json").exists() and (tmp_path / "runs/own/summary.json").exists()
