"""The record of commands and of memory over time: few lines, no peak lost, and broken lines passed over."""

from pathlib import Path

import pytest

from shardrec.trainer.run_folder import launches as module
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.launches import LaunchLog, launches


def test_a_long_command_leaves_few_lines_and_every_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    log = LaunchLog(RunFolder(tmp_path), embedded=True)
    for sample in range(100_000):  # two days and more of samples
        now[0] += 2
        log.memory(7_000 if sample == 54_321 else 1_000 + sample % 10)
    log.close()
    lines = launches(RunFolder(tmp_path))
    memory = [line for line in lines if line["kind"] == "memory"]
    assert 100 < len(memory) < 250
    assert max(line["bytes"] for line in memory) == 7_000
    assert memory[-1]["time"] == now[0]
    times = [line["time"] for line in memory]
    assert times == sorted(times)


def test_a_line_that_a_kill_cut_short_is_passed_over(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    LaunchLog(folder, embedded=True).memory(5)
    with folder.launches_file.open("a") as file:
        file.write('{"kind": "mem\n[1]\n')
    LaunchLog(folder, embedded=True).memory(6)
    assert [line["kind"] for line in launches(folder)] == ["launch", "memory", "launch", "memory"]


def test_a_folder_that_cannot_be_written_costs_the_run_nothing(tmp_path: Path) -> None:
    log = LaunchLog(RunFolder(tmp_path / "absent"), embedded=True)
    log.memory(5)
    log.close()
    assert launches(RunFolder(tmp_path / "absent")) == []
