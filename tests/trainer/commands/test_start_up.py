"""What a command loads before it has anything to do: help and errors of a run file start no torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.command_line import shardrec

HEAVY = {"torch", "torchrec", "fbgemm_gpu", "ray", "pandas", "sklearn", "matplotlib", "tensorboard", "scipy"}
LIGHT = 400  # modules that importing the run file's sections may load; with TorchRec they were 2,505

RUN = """
import json, sys
sys.argv = ["shardrec", *sys.argv[1:]]
from shardrec.trainer.cli import main
try:
    main()
except SystemExit as ended:
    sys.stderr.write(str(ended.code or ""))
print(json.dumps(sorted(sys.modules)))
"""


def loaded(program: str, *arguments: object) -> tuple[set[str], str]:
    """Returns the modules that a program of its own process has loaded at its end, and what it wrote to stderr."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(json.loads(ended.stdout.splitlines()[-1])), ended.stderr


def test_reading_run_files_is_light() -> None:
    names = "json, sys, shardrec.trainer.config.load, shardrec.trainer.config.variants"
    modules, _ = loaded(f"import {names}; print(json.dumps(list(sys.modules)))")
    assert not HEAVY & modules
    assert len(modules) < LIGHT


@pytest.mark.parametrize("command", ["", "train", "compare", "bench step", "prepare"])
def test_help_is_light(command: str) -> None:
    modules, _ = loaded(RUN, *command.split(), "--help")
    assert not (HEAVY | {"numpy", "pyarrow", "yaml"}) & modules


@pytest.mark.parametrize("command", ["train", "plan"])
def test_an_error_in_a_run_file_is_light(tmp_path: Path, command: str) -> None:
    (tmp_path / "run.yaml").write_text("run: x\ndata: {path: d}\nmodel: deepfm\ntrainer: {epoch: 3}\n")
    modules, said = loaded(RUN, command, tmp_path / "run.yaml")
    assert "in trainer: unknown key 'epoch'; did you mean 'epochs'?" in said
    assert not HEAVY & modules


def test_a_misspelt_model_is_light(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("run: x\ndata: {path: d}\nvariants: {}\n")
    modules, said = loaded(RUN, "train", tmp_path / "run.yaml", "--variant", "deepfn")
    assert "unknown variant or model 'deepfn'; did you mean 'deepfm'?" in said
    assert not HEAVY & modules


def test_a_package_that_is_not_installed_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("run: x\n")
    _, said = loaded("import sys; sys.modules['yaml'] = None\n" + RUN, "train", tmp_path / "run.yaml")
    assert said.startswith(
        "shardrec: error: needs the Python package yaml, which is not installed; in a clone of shardrec"
    )


def test_a_word_that_is_no_choice_is_said_in_the_words_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shardrec(monkeypatch, "export", "run", "--out", "bundle", "--rows", "fp8", status=2)
    said = capfd.readouterr().err
    assert "'fp8' is not one of 'fp16', 'int8'" in said and "Value error" not in said
