import os
import signal
from typing import Any


def run(task: Any, report: Any) -> None:
    report("figure", 2)
    os.kill(os.getpid(), signal.SIGSEGV)
