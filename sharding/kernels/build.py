"""The library of kernels is compiled by the C++ compiler of the machine, once, into a folder of the user's cache.

It is plain C to its callers, so that one file serves every version of Python and of torch. Each set of instructions
that a processor may have is compiled for apart, and the one to run is chosen when the library is loaded.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).parent
_SOURCES = ("ids.h", "rows.h", "forms.h", "ids.cpp", "rows.cpp", "exports.cpp")
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fopenmp", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
_AVX2 = ("-mavx2", "-mf16c", "-mbmi2")
_AVX512 = ("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mprefer-vector-width=512")


def library_file() -> Path | None:
    """Returns the compiled library, made here if need be; None where it cannot be made, which is said in one line."""
    folder = _folder()
    if folder is None:
        say("no home folder to keep compiled kernels in: rows of tables are updated by torch operations; set HOME")
        return None
    target = folder / f"rows-{_fingerprint()}.so"
    if target.exists():
        return target
    program = compiler()
    if program is None:
        say("no C++ compiler found: rows of tables are updated by torch operations, which is slower; install g++")
        return None
    say(f"compiling the kernels that update rows of tables into {target.parent}, once ...")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="kernels-", dir=target.parent) as work:
            os.replace(_compile(program, Path(work)), target)
    except (OSError, subprocess.CalledProcessError) as error:
        output = getattr(error, "stderr", "") or ""
        line = next((line for line in output.splitlines() if "error" in line), str(error))
        say(f"the kernels do not compile ({line.strip()}): rows of tables are updated by torch operations")
        return None
    return target


def compiler() -> str | None:
    """Returns the C++ compiler: what CXX names, else c++ or g++, where there is one."""
    return shutil.which(os.environ.get("CXX", "")) or shutil.which("c++") or shutil.which("g++")


def _compile(program: str, folder: Path) -> Path:
    """Compiles the library into a folder. Raises CalledProcessError."""
    forms: dict[str, tuple[str, ...]] = {"plain": ()}
    if platform.machine() in ("x86_64", "AMD64"):
        forms |= {"avx2": _AVX2, "avx512": _AVX2 + _AVX512}
    jobs = {"exports": ("exports.cpp",)} | {
        f"{name}-{source}": (f"-DINSTRUCTIONS={name}", *flags, f"{source}.cpp")
        for name, flags in forms.items()
        for source in ("rows", "ids")
    }
    objects = []
    for name, arguments in jobs.items():
        objects.append(str(folder / f"{name}.o"))
        _run(program, *_FLAGS, *_own_flags(), "-c", *arguments, "-o", objects[-1])
    library = folder / "rows.so"
    # in this order: of functions that several objects have, the linker takes the first, which any processor can run
    _run(program, "-shared", "-fopenmp", *objects, "-o", str(library))
    return library


def _run(*command: str) -> None:
    subprocess.run(command, cwd=_HERE, check=True, capture_output=True, text=True)


def _fingerprint() -> str:
    """Returns what names a library: of other sources, flags or processors there is another one."""
    flags = f"{platform.machine()} {_FLAGS} {_AVX2} {_AVX512} {_own_flags()}"
    digest = hashlib.blake2b(flags.encode(), digest_size=8)
    for name in _SOURCES:
        digest.update((_HERE / name).read_bytes())
    return digest.hexdigest()


def _own_flags() -> list[str]:
    """Returns the flags that the user has for every program."""
    return shlex.split(os.environ.get("CXXFLAGS", ""))


def _folder() -> Path | None:
    """Returns where compiled kernels are kept: in the user's cache; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "shardrec"
    except RuntimeError:
        return None


def say(line: str) -> None:
    """Prints a line on stderr."""
    print(f"shardrec: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    library_file()
