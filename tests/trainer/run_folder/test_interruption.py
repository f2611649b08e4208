"""Ctrl-C: what a command says of what it leaves."""

from pathlib import Path

import pytest

from shardrec.trainer.run_folder.interruption import telling_how_to_go_on


def test_an_interrupted_command_says_how_to_go_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for begun, said in (("config.yaml", "nothing was kept"), (".", "go on with --resume")):
        with pytest.raises(KeyboardInterrupt), telling_how_to_go_on(tmp_path, tmp_path / "no", tmp_path / begun):
            raise KeyboardInterrupt
        assert capfd.readouterr().err.replace("\n", "") == f"{tmp_path}: interrupted; {said}"
    with pytest.raises(ValueError), telling_how_to_go_on(tmp_path, tmp_path):
        raise ValueError
    assert capfd.readouterr().err == ""
