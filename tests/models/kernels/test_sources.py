"""A library is compiled once, by a compiler that is there; without one, one line says so."""

import re
from pathlib import Path

import pytest

from shardrec.models.kernels import sources
from shardrec.models.kernels.sources import KernelSources, compiler
from shardrec.models.layers.kernels.build import TOWERS
from shardrec.sharding.kernels.build import ROWS


@pytest.fixture(autouse=True)
def _said_anew() -> None:
    sources.say.cache_clear()


@pytest.fixture
def kernels(tmp_path: Path) -> KernelSources:
    """A function that says which level runs, in a folder of its own."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "forms.h").write_text("int which();\n")
    (folder / "own.cpp").write_text('namespace INSTRUCTIONS {\n#include "forms.h"\nint which() { return 7; }\n}\n')
    entry = '#include <cstdint>\n#include "levels.h"\nextern "C" int own() { return FORM(which()); }\n'
    (folder / "exports.cpp").write_text(entry)
    return KernelSources("own", folder, "say seven", "nobody says seven")


def test_is_compiled_once_into_the_cache(
    kernels: KernelSources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing is left beside it; the line that says so comes before the wait. Other sources are another library."""
    if compiler() is None:
        pytest.skip("no C++ compiler here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXXFLAGS", "-O0")  # sooner
    found = kernels.library_file()
    assert found is not None and list((tmp_path / "shardrec").iterdir()) == [found]
    assert capfd.readouterr().err.count("\n") == 1
    changed = found.stat().st_mtime_ns
    assert kernels.library_file() == found and found.stat().st_mtime_ns == changed
    assert not capfd.readouterr().err
    library = kernels.load({})
    assert library is not None and library.own() == 7 and library.kernel_level(0) == 0
    own = kernels.folder / "own.cpp"
    own.write_text(own.read_text().replace("7", "8"))
    changed_library = kernels.load({})
    assert changed_library is not None and changed_library.own() == 8


@pytest.mark.parametrize(
    ("program_text", "said"),
    [
        ("", "no C++ compiler found: slower torch operations take the place of compiled kernels; install g++"),
        ("exit 3", "do not compile"),
        ("echo error: no >&2; exit 1", "(error: no): nobody says seven"),
    ],
)
def test_without_a_compiler_that_works_one_line_says_so(
    kernels: KernelSources,
    program_text: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One, of however many libraries, where there is none."""
    program = tmp_path / "bin" / "c++"
    program.parent.mkdir()
    if program_text:
        program.write_text(f"#!/bin/sh\n{program_text}\n")
        program.chmod(0o755)
    for name, value in {"PATH": program.parent, "CXX": "", "XDG_CACHE_HOME": tmp_path / "cache"}.items():
        monkeypatch.setenv(name, str(value))
    assert kernels.library_file() is None
    assert program_text or kernels.load({}) is None
    *before, last = capfd.readouterr().err.splitlines()
    assert said in last and len(before) == bool(program_text)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_file_that_cannot_be_loaded_is_named(
    kernels: KernelSources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "own.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(KernelSources, "library_file", lambda of: broken)
    assert kernels.load({}) is None
    assert f"{broken} cannot be loaded" in capfd.readouterr().err


@pytest.mark.parametrize("library", [ROWS, TOWERS])
def test_each_type_of_a_library_has_a_name_of_its_own(library: KernelSources) -> None:
    """Sources share a namespace: of two types of one name a linker keeps one destructor, and calls it for both."""
    definition = re.compile(r"^(?:template <.*?> )?(?:struct|class) (\w+)[^;]*\{", re.MULTILINE)
    sources_of = [*library.folder.glob("*.cpp"), *library.folder.glob("*.h")]
    names = [name for path in sources_of for name in definition.findall(path.read_text())]
    assert len(names) > 10 and sorted(names) == sorted(set(names))
