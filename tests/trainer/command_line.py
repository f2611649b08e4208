"""The command line in this process: `shardrec ...`, as it ends."""

import sys

import pytest

from shardrec.trainer.cli import main


def _ended(monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...]) -> str | int | None:
    """Returns what a command exits with."""
    monkeypatch.setattr(sys, "argv", ["shardrec", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def shardrec(monkeypatch: pytest.MonkeyPatch, *arguments: object, status: int = 0) -> None:
    """Runs a command that is to end with `status`."""
    code = _ended(monkeypatch, arguments)
    assert (code or 0) == status, code


def refused(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    """The one line of the error that a command ends with."""
    line = _ended(monkeypatch, arguments)
    assert isinstance(line, str) and line.startswith("shardrec: error: ") and "\n" not in line, line
    return line
