"""A command in a process of its own, which has imported everything: it can be killed."""

import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from shardrec.__main__ import main
from tests.processes import forkserver


def started(*words: object, log: Path) -> BaseProcess:
    """Starts `shardrec ...`, whose output goes to `log`."""
    context = forkserver()
    process = context.Process(target=command, args=(log, [str(word) for word in words]))
    process.start()
    return process


def command(log: Path, words: list[str]) -> None:
    """Runs a command in this process, which is its own."""
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["shardrec", *words]
    main()
