"""A command that is told to end ends in a line, whatever it is doing: in the midst of an import, too."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import ROOT

SLOW = "import pathlib, time\npathlib.Path('begun').touch()\nfor _ in range(20):\n    time.sleep(0.05)\n"
COMMAND = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests in the background ignores it
from shardrec.trainer.run_folder.signals import ended_in_a_line
with ended_in_a_line():
    try:
        import slow
    except BaseException:
        pass  # as compiled code does that imports what it can do without
    import time
    time.sleep(20)
"""


@pytest.mark.parametrize(
    ("number", "line"), [(signal.SIGTERM, "shardrec: terminated\n"), (signal.SIGINT, "shardrec: interrupted\n")]
)
def test_a_signal_in_the_midst_of_an_import_is_not_lost(tmp_path: Path, number: signal.Signals, line: str) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    command = [sys.executable, "-c", COMMAND]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "begun").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        try:
            assert process.communicate(timeout=15)[1] == line
        finally:
            process.kill()
    assert process.returncode == 128 + number
