"""Captured output is what libraries print, kept out of the user's way: in a log file instead of on the terminal.

Redirection is at the level of file descriptors, since Ray's daemons, gloo, glog and FBGEMM write there and not through
Python. It is process-wide, and processes started meanwhile inherit it.
"""

import ctypes
import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from shardrec.data_pipeline.files.file_errors import NO_ROOM
from shardrec.data_pipeline.files.owned_files import not_through_links


class _Log(io.FileIO):
    """A log takes what there is room for: a full disk shall stop what has to be kept, with its own line."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            return memoryview(data).nbytes


@contextmanager
def captured_output(path: str | Path) -> Iterator[TextIO]:
    """Appends all that this process and its children write to stdout and stderr to a file; yields the former stderr.

    Python's `sys.stdout` and `sys.stderr` follow, also where something other than a file descriptor stood there (a
    notebook, a test). May be nested. Raises OSError where the file cannot be opened, with nothing redirected.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        raw = io.BufferedWriter(_Log(path, "a", opener=not_through_links))
        log = stack.enter_context(
            io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        )
        outside = stack.enter_context(_outside(sys.stderr))
        before = sys.stdout, sys.stderr
        _flush()
        saved = os.dup(1), os.dup(2)
        try:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            sys.stdout = sys.stderr = log
            yield outside
        finally:
            _flush()
            sys.stdout, sys.stderr = before
            for descriptor, copy in enumerate(saved, start=1):
                os.dup2(copy, descriptor)
                os.close(copy)


@contextmanager
def _outside(stream: TextIO) -> Iterator[TextIO]:
    """Yields a handle to where `stream` leads, which descriptors moved later do not change."""
    try:
        descriptor = os.dup(stream.fileno())
    except (OSError, ValueError):  # not backed by a descriptor, so not moved either
        yield stream
        return
    with os.fdopen(descriptor, "w", buffering=1, encoding=stream.encoding, errors=stream.errors) as handle:
        yield handle


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    ctypes.CDLL(None).fflush(None)  # C's own buffers, or they would come out on the wrong side
