"""A library of kernels is compiled by the C++ compiler of the machine, once, into a folder of the user's cache.

It is plain C to its callers, so that one file serves every version of Python and of torch. Each set of instructions
that a processor may have is compiled for apart, and the one to run is chosen when the library is loaded.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_ENTRY = "exports.cpp"
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
_AVX2 = ("-mavx2", "-mfma", "-mf16c", "-mbmi2")
_AVX512 = ("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mprefer-vector-width=512")


@dataclass(frozen=True)
class KernelSources:
    """The sources of a library are a folder's `exports.cpp`, compiled once, and all others, once for each `levels.h`.

    purpose: what it is for, as in "kernels that ..."; instead: what happens where there is none.
    fused: whether a product and a sum are one where a processor can: faster, and other bits than on other processors.
    """

    name: str
    folder: Path
    purpose: str
    instead: str
    fused: bool = False

    def library_file(self) -> Path | None:
        """Returns the library, made here if need be; None where it cannot be made, which is said in one line."""
        folder = _cache_folder()
        if folder is None:
            say("no home folder to keep compiled kernels in: slower torch operations take their place; set HOME")
            return None
        target = folder / f"{self.name}-{self._fingerprint()}.so"
        if target.exists():
            return target
        program = compiler()
        if program is None:
            say("no C++ compiler found: slower torch operations take the place of compiled kernels; install g++")
            return None
        say(f"compiling the kernels that {self.purpose} into {target.parent}, once ...")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="kernels-", dir=target.parent) as work:
                os.replace(self._compile(program, Path(work)), target)
        except (OSError, subprocess.CalledProcessError) as error:
            output = getattr(error, "stderr", "") or ""
            line = next((line for line in output.splitlines() if "error" in line), str(error))
            say(f"the kernels do not compile ({line.strip()}): {self.instead}")
            return None
        return target

    def load(self, functions: Mapping[str, Sequence[Any]], returned: Any = None) -> ctypes.CDLL | None:
        """Returns the loaded library, None where there is none, which is said in one line.

        functions: the ctypes of the arguments of each that is called; returned: of what they return, None: nothing.
        """
        path = self.library_file()
        if path is None:
            return None
        try:
            loaded = ctypes.CDLL(str(path))
        except OSError as error:  # as where a home is shared by machines of several systems
            say(f"{path} cannot be loaded ({error}): {self.instead}; remove it")
            return None
        for name, arguments in functions.items():
            function = getattr(loaded, name)
            function.argtypes, function.restype = list(arguments), returned
        return loaded

    def _compile(self, program: str, folder: Path) -> Path:
        """Compiles the library into a folder. Raises CalledProcessError."""
        levels: dict[str, tuple[str, ...]] = {"plain": ()}
        if platform.machine() in ("x86_64", "AMD64"):
            levels |= {"avx2": _AVX2, "avx512": _AVX2 + _AVX512}
        entry, *others = sorted(self.folder.glob("*.cpp"), key=lambda path: (path.name != _ENTRY, path.name))
        jobs = {"exports": (str(entry),)} | {
            f"{level}-{source.stem}": (f"-DINSTRUCTIONS={level}", *instructions, str(source))
            for level, instructions in levels.items()
            for source in others
        }
        flags = *_FLAGS, *self._flags(), f"-I{_HERE}", f"-I{self.folder}", "-c"
        objects = {str(folder / f"{name}.o"): arguments for name, arguments in jobs.items()}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda to: _run(program, *flags, *objects[to], "-o", to), objects))
        library = folder / "library.so"
        # in this order: of functions that several objects have, the linker takes the first, which any processor can run
        _run(program, "-shared", "-fopenmp", *objects, "-o", str(library))
        return library

    def _flags(self) -> list[str]:
        """Returns the library's own flags and, after them, those that the user has for every program."""
        own = shlex.split(os.environ.get("CXXFLAGS", ""))
        return [f"-ffp-contract={'fast' if self.fused else 'off'}", *own]

    def _fingerprint(self) -> str:
        """Returns what names a library: of other sources, flags or processors there is another one."""
        flags = f"{platform.machine()} {_FLAGS} {_AVX2} {_AVX512} {self._flags()}"
        digest = hashlib.blake2b(flags.encode(), digest_size=8)
        for path in (*sorted(_HERE.glob("*.h")), *sorted(self.folder.glob("*.h")), *sorted(self.folder.glob("*.cpp"))):
            digest.update(path.read_bytes())
        return digest.hexdigest()


def compiler() -> str | None:
    """Returns the C++ compiler: what CXX names, else c++ or g++, where there is one."""
    return shutil.which(os.environ.get("CXX", "")) or shutil.which("c++") or shutil.which("g++")


@cache
def say(line: str) -> None:
    """Prints a line on stderr, once in a process: what keeps one library from being made keeps the others too."""
    print(f"shardrec: {line}", file=sys.stderr, flush=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _cache_folder() -> Path | None:
    """Returns where compiled kernels are kept: in the user's cache; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "shardrec"
    except RuntimeError:
        return None
