"""`shardrec bench ids` as a user runs it."""

import json

import pytest
from rich.console import Console

from shardrec.trainer.benchmarks.ids import print_ids
from tests.trainer.command_line import refused, shardrec


def test_a_small_stream(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--events", 2001, "--space", 500, "--rows", 64, "--batch-size", 200, "--set", "launch.threads=1")
    shardrec(monkeypatch, "bench", "ids", *small)
    said = capsys.readouterr().out
    assert "every count that must be 0 is 0" in said
    assert json.loads(said.splitlines()[-1])["events"] == 2001
    assert "candidates is 2" in refused(monkeypatch, "bench", "ids", "--after", 1, "--candidates", 2)
    assert "--space 100000000000000" in refused(monkeypatch, "bench", "ids", "--space", 10**14)


def test_a_count_that_is_wrong_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    right = {"balance": 0, "rows_of_others": 0, "too_early": 0, "overcounted": 0}
    assert print_ids(right, Console()) and not print_ids(right | {"too_early": 3}, Console())
    assert "wrong: too early" in capsys.readouterr().out
