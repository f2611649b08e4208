"""CUDA's tests are those that pytest skips without a GPU; they run in a process of their own, from the sources."""

import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import shardrec
from shardrec.trainer.benchmarks.gpu_check.sections.task import Report, Task, refuse

TESTS = ("tests/sharding", "tests/emulated_cuda", "tests/trainer/catalogue/test_top_n.py")
DRY = ("tests/emulated_cuda/test_device.py",)
"""What a dry run has in their place: tests of the emulated GPU."""
ENDING_SECONDS = 20.0


def run(task: Task, report: Report) -> None:
    """Reports how many passed, failed and were skipped, and of each that failed the last line; raises for these."""
    root = Path(shardrec.__file__).resolve().parents[1]
    if not (root / "tests").is_dir():
        report("left out", f"{root} has no tests: they come with the sources, not with the package")
        return
    found = task.folder / "tests.xml"
    chosen = ["-m", "gpu", *TESTS] if task.device == "cuda" else list(DRY)
    # -W: of the versions of libraries that a machine has, some warn of others
    command = [sys.executable, "-m", "pytest", "-W", "default", "-rs", f"--junit-xml={found}", *chosen]
    report("command", " ".join(command[1:]))
    with subprocess.Popen(command, cwd=root) as process:
        in_time = _wait(process, task.seconds - ENDING_SECONDS)
    if not found.is_file():
        refuse([f"pytest ended with {process.returncode} and left no report; see log.txt"])
    figures, failures = outcome(found)
    for name, value in figures.items():
        report(name, value)
    report("failures", failures)
    problems = [f"{len(failures)} of {figures['tests']} tests failed"] if failures else []
    problems += [] if in_time else [f"were stopped after {task.seconds - ENDING_SECONDS:.0f} s"]
    problems += [] if figures["passed"] else ["no test passed"]
    refuse(problems)


def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Waits for pytest, says whether it ended by itself; one that is interrupted still reports what it has found."""
    try:
        process.wait(max(1.0, seconds))
        return True
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(ENDING_SECONDS / 2)
    except subprocess.TimeoutExpired:
        process.kill()
    return False


def outcome(file: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Returns counts and seconds of a junit file, and of each test that failed its name and the last line of why."""
    cases = list(ElementTree.parse(file).getroot().iter("testcase"))
    failures, skipped = [], 0
    for case in cases:
        said = next((child for child in case if child.tag in ("failure", "error")), None)
        if said is not None:
            lines = (said.text or said.get("message") or "").strip().splitlines() or [""]
            errors = [line for line in lines if line.startswith("E  ")] or lines
            name = f"{case.get('classname')}::{case.get('name')}"
            failures.append({"test": name, "error": errors[-1].removeprefix("E").strip(), "where": lines[-1].strip()})
        skipped += any(child.tag == "skipped" for child in case)
    figures = {
        "tests": len(cases),
        "passed": len(cases) - skipped - len(failures),
        "skipped": skipped,
        "failed": len(failures),
        "seconds": round(sum(float(case.get("time") or 0) for case in cases), 1),
    }
    return figures, failures
