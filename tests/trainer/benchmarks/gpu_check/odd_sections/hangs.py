import subprocess
from typing import Any


def run(task: Any, report: Any) -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        report("child", process.pid)
        wait_for_ever(process)


def wait_for_ever(process: "subprocess.Popen[bytes]") -> None:
    process.wait()
