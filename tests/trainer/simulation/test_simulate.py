"""`shardrec simulate`: its files, a kill in the middle, what it refuses, and what the report says."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from shardrec.trainer.simulation.registry import check_policies
from shardrec.trainer.simulation.report import Lived
from shardrec.trainer.simulation.run_file import load_simulation
from shardrec.trainer.simulation.settings import SimulationSettings
from tests import ROOT
from tests.trainer.command_line import refused, shardrec
from tests.trainer.simulation.small_world import SMALL

# The command, ended as `kill -9` does when the state of the fifth day is about to appear.
KILLS_ITSELF = """
import os, signal, sys

def kill_on_day_five(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("state/day-0005"):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill_on_day_five)
from shardrec.trainer.cli import main
main()
"""


def run_file(folder: Path, **changes: Any) -> Path:
    """Writes a small simulation's run file, whose run folder is beside it."""
    path = folder / "simulation.yaml"
    path.write_text(yaml.safe_dump({"run": str(folder / "run"), "simulation": SMALL | changes}))
    return path


def test_a_killed_simulation_goes_on_bit_for_bit_and_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is killed within a day and gone on with, against one of two processes that is left alone."""
    path = run_file(tmp_path, days=12, policies=["popularity", "random"], users=40, tick_minutes=240, minor_minutes=240)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, "-c", KILLS_ITSELF, "simulate", str(path), "--quiet", "--set", f"run={killed}"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (killed / "popularity-0/state/day-0005").exists()
    assert not (killed / "random-0/summary.json").exists()
    assert "--resume" in refused(monkeypatch, "simulate", path, "--set", f"run={killed}")
    assert "was 12, now 13" in refused(
        monkeypatch, "simulate", path, "--set", f"run={killed}", "--set", "simulation.days=13", "--resume"
    )
    shardrec(monkeypatch, "simulate", path, "--set", f"run={killed}", "--resume", "--quiet")
    shardrec(monkeypatch, "simulate", path, "--set", f"run={whole}", "--workers", 2, "--quiet")
    names = [file.relative_to(whole) for file in sorted(whole.glob("*-0/**/*")) if file.is_file()]
    assert sum(name.match("log/day-*.parquet") for name in names) == 2 * 12
    for name in names:
        if name.name not in ("spent.json", "episode.json"):  # CPU seconds
            assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    assert {p.relative_to(killed) for p in killed.rglob("*")} == {p.relative_to(whole) for p in whole.rglob("*")}
    check_report(whole, capsys.readouterr().out)


def check_report(run: Path, printed: str) -> None:
    """The files of a report of two policies with a seed each."""
    rows = list(csv.DictReader((run / "table.csv").read_text().splitlines()))
    assert [row["policy"] for row in rows] == ["popularity", "random"] and rows[0]["days"] == "12"
    days = pq.read_table(run / "metrics.parquet").to_pylist()
    of_first = [row for row in days if row["policy"] == "popularity"]
    clicks, requests = (sum(row[name] for row in of_first) for name in ("clicks", "requests"))
    assert float(rows[0]["click_rate"]) == pytest.approx(clicks / (3 * requests))
    assert float(rows[0]["lift"]) == 1 and 0 < float(rows[1]["lift"]) < 1  # random, over popularity
    assert float(rows[0]["cpu_seconds"]) > 0 and rows[0]["click_rate_std"] == "nan"
    assert f"{clicks / (3 * requests):.4f}" in printed
    assert (run / "policies.png").read_bytes().startswith(b"\x89PNG")


def test_more_policies_and_seeds_join_and_the_report_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = run_file(tmp_path, days=2, policies="random", users=40, log_days=1), tmp_path / "run"
    assert "no day" in refused(monkeypatch, "simulate", path, "--report")
    shardrec(monkeypatch, "simulate", path, "--quiet")
    first = (run / "random-0/log/day-0002.parquet").stat().st_mtime_ns
    assert not (run / "random-0/log/day-0001.parquet").exists()  # log_days
    more = ("--set", "simulation.policies=[random, ideal]", "--set", "simulation.seeds=2")
    shardrec(monkeypatch, "simulate", path, "--quiet", "--resume", *more)
    assert (run / "random-0/log/day-0002.parquet").stat().st_mtime_ns == first
    table = (run / "table.csv").read_text()
    assert [line.split(",")[:3] for line in table.splitlines()[1:]] == [["random", "2", "2"], ["ideal", "2", "2"]]
    for name in ("table.csv", "policies.png", "metrics.parquet"):
        (run / name).unlink()
    capsys.readouterr()
    shardrec(monkeypatch, "simulate", path, "--report", *more)
    assert (run / "table.csv").read_text() == table and "ideal" in capsys.readouterr().out
    (run / "table.csv").write_text("mine")
    assert "not replaced" in refused(monkeypatch, "simulate", path, "--resume", *more)
    assert (run / "table.csv").read_text() == "mine"
    (run / "ideal-1/metrics.parquet").write_bytes(b"PAR1")
    assert "ideal-1: metrics.parquet or spent.json is not what" in refused(
        monkeypatch, "simulate", path, "--report", *more
    )


def test_an_episode_that_cannot_go_on_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path, run = run_file(tmp_path, days=1, policies=["random"], users=20), tmp_path / "run"
    shardrec(monkeypatch, "simulate", path, "--quiet")
    (run / "random-0/summary.json").unlink()
    (run / "random-0/state/day-0001/users.npz").write_bytes(b"spoiled")
    more = ("--quiet", "--resume", "--set", "simulation.policies=[random, ideal]")
    line = refused(monkeypatch, "simulate", path, *more)
    assert "random, seed 0: " in line and "remove" in line and str(run / "random-0") in line
    said = capfd.readouterr()
    assert "ideal" in said.out and "failed: random, seed 0" in said.err
    assert (run / "ideal-0/summary.json").exists() and not (run / "random-0/summary.json").exists()


def test_figures_are_of_the_days_that_they_name() -> None:
    def day(number: int, clicks: int) -> dict[str, Any]:
        rest = {"diversity_shown": number, "diversity_clicked": float("nan"), "activeness": 0.1 * number}
        return {"requests": 10, "clicks": clicks, "returns": number, "lost": 0.01 * number, **rest}

    figures = Lived("random", 0, [day(1, 2), day(2, 4), day(3, 6), day(4, 8)], 5.0).figures(shown=2)
    assert figures["click_rate"] == pytest.approx(20 / 80)
    assert figures["click_rate_last"] == pytest.approx(14 / 40)  # the last two of four
    assert figures["diversity_shown"] == 3.5 and figures["activeness"] == pytest.approx(0.35)
    assert figures["returns"] == 2.5 and figures["lost"] == 0.04
    assert figures["diversity_clicked"] != figures["diversity_clicked"]  # nobody clicked twice


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"policies": ["randm"]}, "unknown policy 'randm'; did you mean 'random'?"),
        ({"policies": ["random", "random"]}, "named twice"),
        ({"policies": []}, "simulation.policies"),
        ({"users": 0}, "simulation.users"),
        ({"user": 5}, "in simulation: unknown key 'user'; did you mean 'users'?"),
        ({"shown": 7}, "7 of 6 candidates cannot be shown"),
        ({"candidates": 40}, "only 12 news can be shown at a time"),
        ({"tick_minutes": 7}, "tick_minutes: expected a part of a day"),
        ({"minor_minutes": 45}, "minor_minutes: expected a whole number of ticks"),
        ({"clicks": {"boredom_hours": 0}}, "simulation.clicks.boredom_hours"),
        ({"linucb": {"ridge": 1e-300}}, "simulation.linucb.ridge"),
        ({"tick_minutes": 1e-4}, "simulation.tick_minutes"),
    ],
)
def test_bad_settings_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    assert said in refused(monkeypatch, "simulate", run_file(tmp_path, **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("override", ["data.path=data/demo", "data.schema=x/schema.yaml", "init_from=[{run: runs/x}]"])
def test_what_a_simulation_does_not_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    line = refused(monkeypatch, "simulate", run_file(tmp_path), "--set", override)
    assert f"{override.split('=')[0]}: a simulation trains on its own log" in line
    assert not (tmp_path / "run").exists()


def test_folders_of_others_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, run = run_file(tmp_path, days=1), tmp_path / "run"
    assert "no simulation to go on with" in refused(monkeypatch, "simulate", path, "--resume")
    run.mkdir()
    (run / "mine.txt").write_text("mine")
    assert "not empty" in refused(monkeypatch, "simulate", path)
    assert [p.name for p in run.iterdir()] == ["mine.txt"]
    (run / "mine.txt").unlink()
    (tmp_path / "elsewhere").mkdir()
    shardrec(monkeypatch, "simulate", path, "--quiet", "--set", "simulation.policies=random")
    (run / "ideal-0").symlink_to(tmp_path / "elsewhere")
    line = refused(monkeypatch, "simulate", path, "--resume", "--set", "simulation.policies=[random, ideal]")
    assert "a link" in line and not any((tmp_path / "elsewhere").iterdir())


def test_the_ready_file_and_the_documented_one_are_in_order(tmp_path: Path) -> None:
    page = (ROOT / "docs/simulation.md").read_text()
    (tmp_path / "example.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    for file in (ROOT / "trainer/runs/simulate_news.yaml", tmp_path / "example.yaml"):
        config = load_simulation(file)
        simulation = config.simulation
        check_policies(simulation.policies, config.model.get("name"))
        assert (simulation.users, simulation.days) == (SimulationSettings().users, SimulationSettings().days)


def test_progress_is_of_days(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shardrec(monkeypatch, "simulate", run_file(tmp_path, days=2, policies="random", users=20))
    assert "random, seed 0 (1 of 1)" in capfd.readouterr().err
    assert not (tmp_path / "run/progress.json").exists()
    assert json.loads((tmp_path / "run/random-0/summary.json").read_text()) == {"days": 2}
