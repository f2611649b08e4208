import io
import os
import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from shardrec.trainer.run_folder.captured_output import captured_output

SCRIPT = """
import ctypes, os, subprocess, sys
from shardrec.trainer.run_folder.captured_output import captured_output
libc = ctypes.CDLL(None)
old_stdout = sys.stdout
print("before")
libc.printf(b"c before\\n")
with captured_output({log!r}) as terminal:
    print("python"); print("python error", file=sys.stderr); print("old handle", file=old_stdout)
    libc.printf(b"c library\\n")
    os.write(2, b"descriptor\\n")
    subprocess.run(["echo", "child"])
    print("for the user", file=terminal)
print("after")
print("after, error", file=sys.stderr)
"""


def test_all_that_is_written_inside_goes_to_the_file_and_only_that(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "driver.log"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(log=str(log))], capture_output=True, text=True, check=True
    )
    assert sorted(done.stdout.split("\n")) == ["", "after", "before", "c before"]
    assert done.stderr == "for the user\nafter, error\n"
    assert sorted(log.read_text().splitlines()) == sorted(
        ["python", "python error", "old handle", "c library", "descriptor", "child"]
    )


def test_it_appends(tmp_path: Path) -> None:
    for line in ("first", "second"):
        with captured_output(tmp_path / "log"):
            print(line)
    assert (tmp_path / "log").read_text() == "first\nsecond\n"


def test_nested_captures_and_errors_leave_everything_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    streams, descriptors = (sys.stdout, sys.stderr), set(os.listdir("/dev/fd"))
    with pytest.raises(ZeroDivisionError), captured_output(tmp_path / "outer") as terminal:
        os.write(1, b"outer\n")
        with pytest.raises(KeyError), captured_output(tmp_path / "inner") as seen_from_inside:
            os.write(1, b"inner\n")
            seen_from_inside.write("to the outer file\n")
            raise KeyError
        os.write(2, b"outer again\n")
        terminal.write("shown\n")
        raise ZeroDivisionError
    os.write(1, b"back\n")
    assert (sys.stdout, sys.stderr) == streams
    assert set(os.listdir("/dev/fd")) == descriptors
    assert (tmp_path / "inner").read_text() == "inner\n"
    assert (tmp_path / "outer").read_text() == "outer\nto the outer file\nouter again\n"
    found = capfd.readouterr()
    assert (found.out, found.err) == ("back\n", "shown\n")


def test_a_stream_without_a_descriptor_is_the_terminal_as_it_is(tmp_path: Path) -> None:
    notebook = io.StringIO()
    with redirect_stderr(notebook), captured_output(tmp_path / "log") as terminal:
        print("chatter", file=sys.stderr)
        print("shown", file=terminal)
    assert notebook.getvalue() == "shown\n"
    assert (tmp_path / "log").read_text() == "chatter\n"


def test_a_file_that_cannot_be_opened_redirects_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError), captured_output(tmp_path):
        pass
    os.write(1, b"still here\n")
    assert capfd.readouterr().out == "still here\n"
