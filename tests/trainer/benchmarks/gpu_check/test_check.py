"""`shardrec bench gpu` on the CPU: sections are gone through, and what one of them does harms no other."""

import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from shardrec.trainer.benchmarks.gpu_check import plan, process
from shardrec.trainer.benchmarks.gpu_check.check import check_gpu
from shardrec.trainer.benchmarks.gpu_check.plan import SECTIONS, Section
from shardrec.trainer.benchmarks.gpu_check.sections import __doc__ as map_of_sections
from tests.trainer.command_line import refused, shardrec


def test_a_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--device", "cpu", "--small", "--sections", "facts,row_memory,dynamic_tables", "--out", tmp_path / "out")
    shardrec(monkeypatch, "bench", "gpu", *asked)
    states = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert states == dict.fromkeys(("facts", "row_memory", "dynamic_tables"), "passed")
    record = json.loads((tmp_path / "out/gpu-check.json").read_text())
    assert (record["device"], record["small"]) == ("cpu", True)
    facts, memory, dynamic = (section["figures"] for section in record["sections"])
    assert facts["fbgemm_on_the_device"] is True and facts["bf16_products_tflops"] > 0
    assert [row["memory"] for row in memory["memory"]] == ["device", "managed", "host", "cached"]
    assert all(row["largest_difference"] == 0 for row in memory["memory"][1:])
    assert [row["tables"] for row in dynamic["steps"]] == ["static", "dynamic"]
    assert dynamic["stream"][0]["events"] == 20_000
    page = (tmp_path / "out/gpu-check.md").read_text()
    assert all(f"## {section['title']}\n" in page for section in record["sections"])


def test_each_section_is_a_module() -> None:
    names = [section.name for section in SECTIONS]
    assert map_of_sections and all(f"- `{name}.py`" in map_of_sections for name in names)
    assert sum(section.least for section in SECTIONS) < 8 * 60  # any of them could begin


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections that raise, die, hang and work, in this order."""
    sections = [Section(name, name.capitalize(), 3 if name == "hangs" else 60, 0) for name in ODD]
    monkeypatch.setattr(plan, "SECTIONS", tuple(sections))
    monkeypatch.setattr(process, "SECTIONS", "tests.trainer.benchmarks.gpu_check.odd_sections")


ODD = ("raises", "dies", "hangs", "works")


def test_what_one_section_does_harms_no_other(odd: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr("shardrec.trainer.benchmarks.gpu_check.check._check_device", lambda device, small: None)
    monkeypatch.setattr("shardrec.trainer.benchmarks.gpu_check.record.Record.write", _watched(tmp_path, seen))
    lines: list[str] = []
    record = check_gpu(tmp_path, "cpu", small=False, names=(), minutes=5, progress=lines.append)
    raises, dies, hangs, works = json.loads((tmp_path / "gpu-check.json").read_text())["sections"]
    assert (raises["state"], raises["error"]) == ("failed", "ZeroDivisionError: of no use")
    assert raises["figures"] == {"figure": 1} and "raises.py" in "".join(raises["traceback"])
    assert (dies["state"], dies["figures"]) == ("failed", {"figure": 2}) and "SIGSEGV" in dies["error"]
    assert "dies.py" in "".join(dies["traceback"])
    assert (hangs["state"], hangs["error"]) == ("stopped", "took longer than 3 s")
    assert "wait_for_ever" in "".join(hangs["traceback"])
    assert _has_ended(hangs["figures"]["child"])  # what it started ended with it
    assert works["state"] == "passed" and works["figures"]["rows"][1]["rate"] == "nan"
    assert [found.name for found in record.failed] == ["raises", "dies", "hangs"]
    assert len(lines) == 4 and lines[0].startswith("Raises: failed")
    assert any(s["sections"][0]["figures"] and s["sections"][0]["state"] == "running" for s in seen)  # as it goes
    assert "| a\\|b | 1,234 |" in (tmp_path / "gpu-check.md").read_text()


def _has_ended(number: int) -> bool:
    """Whether a process is over; who adopted it may take a while to notice."""
    try:
        process = psutil.Process(number)
        return process.status() == psutil.STATUS_ZOMBIE or process.wait(10) is None
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return process.status() == psutil.STATUS_ZOMBIE


def _watched(folder: Path, seen: list[dict[str, Any]]) -> Any:
    """`Record.write`, after which `seen` has what lies on the disk."""
    from shardrec.trainer.benchmarks.gpu_check.record import Record

    write = Record.write

    def written(self: Record) -> None:
        write(self)
        seen.append(json.loads((folder / "gpu-check.json").read_text()))

    return written


def test_no_section_begins_without_its_time(odd: None, tmp_path: Path) -> None:
    record = check_gpu(tmp_path, "cpu", small=True, names=("works",), minutes=0.01)
    assert [found.state for found in record.sections] == ["left out"] and not record.failed


def test_wrong_options_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*options: object) -> str:
        return refused(monkeypatch, "bench", "gpu", "--out", tmp_path / "out", *options)

    assert "add --small" in said("--device", "cpu")
    assert "torch finds no GPU here" in said()
    assert "unknown section 'dlrn'" in said("--device", "cpu", "--small", "--sections", "dlrn")
    assert "expected cuda or cpu" in said("--device", "tpu")
    assert not (tmp_path / "out").exists()
