"""`shardrec bench histories`: all forms really train, each in a process of its own."""

import json
from pathlib import Path

import pytest

from shardrec.data_pipeline.prepare.generators.interests import InterestLog
from shardrec.data_pipeline.prepare.generators.planted import Histories
from shardrec.data_pipeline.prepare.generators.synthetic import write_log
from tests.trainer.command_line import refused, shardrec


@pytest.fixture
def data(tmp_path: Path) -> Path:
    log = InterestLog(Histories(items=300, mean_length=5, max_length=9), categories=20, interests=3, negatives=True)
    write_log(log, tmp_path / "data", 800, {"train": 1.0})
    return tmp_path / "data"


def test_ends_with_json_of_all_forms(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--models", "dien_auxiliary", "--precisions", "bf16", "--batch-size", 64, "--steps", 3, "--rounds", 1)
    shardrec(monkeypatch, "bench", "histories", data, *asked, "--set", "launch.threads=1")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["threads"], found["rows"], found["global_batch_size"]) == (1, 800, 64)
    (result,) = found["results"]
    assert (result["model"], result["precision"]) == ("dien_auxiliary", "bf16")
    for form in ("jagged", "padded", "tuned"):
        assert result[f"{form}_step_samples_per_second"] > 0
        assert result[f"{form}_end_to_end_samples_per_second"] > 0
        assert result[f"{form}_peak_memory_bytes"] > result[f"{form}_started_bytes"] > 50e6
    ours = result["jagged_end_to_end_samples_per_second"]
    for form in ("padded", "tuned"):
        theirs = result[f"{form}_end_to_end_samples_per_second"]
        assert result[f"end_to_end_ratio_to_{form}"] == pytest.approx(ours / theirs, rel=0.1)


def test_an_unknown_model_is_one_line(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = refused(monkeypatch, "bench", "histories", data, "--models", "din,dein")
    assert "unknown model 'dein'" in line and "din" in line
