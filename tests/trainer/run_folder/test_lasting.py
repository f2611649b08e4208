"""What a Ray job leaves is not put where Ray removes it."""

from pathlib import Path

import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.run_folder.lasting import check_lasting
from tests.trainer.command_line import refused
from tests.trainer.small_run import run_file, write_data

JOB = "ray/session_2026-01-01_00-00-00_000000_1/runtime_resources/working_dir_files/_ray_pkg_0123456789abcdef"


def test_relative_paths_of_a_ray_job_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray job submit --working-dir .` starts the command in such a folder."""
    job = tmp_path / JOB
    job.mkdir(parents=True)
    path = run_file(job / "run.yaml", write_data(tmp_path / "data", rows=60))
    monkeypatch.chdir(job)
    before = sorted(job.rglob("*"))
    for command in (
        ("train", path, "--set", "run=mine"),
        ("compare", path, "--models", "fm,lr", "--out", "two"),
    ):
        line = refused(monkeypatch, *command)
        assert f"{job}/" in line and "is gone with Ray's session; name an absolute path" in line
    with pytest.raises(UserError, match="--out: scores lies in the folder that Ray unpacks"):
        check_lasting("--out", Path("scores"))
    assert sorted(job.rglob("*")) == before


def test_other_folders_are_not(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "ray/session_latest/logs", tmp_path / "runtime_resources/working_dir_files"):
        check_lasting("run", path)
