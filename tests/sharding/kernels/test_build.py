"""The library is compiled once, by a compiler that is there; without one torch operations take its place."""

from pathlib import Path

import pytest

from shardrec.sharding.kernels import library
from shardrec.sharding.kernels.build import compiler, library_file


def test_is_compiled_once_into_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing is left beside it; the line that says so comes before the wait."""
    if compiler() is None:
        pytest.skip("no C++ compiler here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXXFLAGS", "-O0")  # sooner
    found = library_file()
    assert found is not None and list((tmp_path / "shardrec").iterdir()) == [found]
    assert capfd.readouterr().err.count("\n") == 1
    changed = found.stat().st_mtime_ns
    assert library_file() == found and found.stat().st_mtime_ns == changed
    assert not capfd.readouterr().err


@pytest.mark.parametrize(
    ("program_text", "said"),
    [("", "no C++ compiler found"), ("exit 3", "do not compile"), ("echo error: no >&2; exit 1", "(error: no)")],
)
def test_without_a_compiler_that_works_one_line_says_so(
    program_text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "bin" / "c++"
    program.parent.mkdir()
    if program_text:
        program.write_text(f"#!/bin/sh\n{program_text}\n")
        program.chmod(0o755)
    for name, value in {"PATH": program.parent, "CXX": "", "XDG_CACHE_HOME": tmp_path / "cache"}.items():
        monkeypatch.setenv(name, str(value))
    assert library_file() is None
    *_, last = capfd.readouterr().err.splitlines()
    assert said in last and "rows of tables are updated by torch operations" in last
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_file_that_cannot_be_loaded_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "rows.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(library, "library_file", lambda: broken)
    assert library.library.__wrapped__() is None
    assert f"{broken} cannot be loaded" in capfd.readouterr().err
