"""The verdict on a run that was hurt: whether it is that which nothing befell, and what it has left behind."""

import re
import time
from collections.abc import Callable
from itertools import zip_longest

import psutil

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.run_folder.folder import RunFolder
from tests.faults.launched import Launched
from tests.faults.trial import Outcome
from tests.trainer.recorded import assert_same_checkpoint, records

OTHERS = r"logs/|tensorboard/|\.lock|tmp/pytorch-errorfile"  # logs of each start; a file of torchrun's agent
ENDS_WITHIN = 20.0  # seconds


def compare(run: Launched, expected: Launched, outcome: Outcome) -> None:
    """Compares a finished run with the one that nothing befell, and looks for what it has left behind."""
    found, there = run.whole(), expected.whole()
    summary, other = found.summary(), there.summary()
    if summary is None:
        outcome.wrong.append("no summary")
        return
    assert other is not None
    outcome.rows_lost = max(0, other["rows"] - summary["rows"])
    outcome.rows_repeated = max(0, summary["rows"] - other["rows"])
    last = f"step-{run.last_step}"
    try:
        assert_same_checkpoint(found.checkpoints / last, there.checkpoints / last)
        for record, expects in zip_longest(records(found), records(there)):
            assert record == expects, f"recorded {record}, not {expects}"
        assert summary["metrics"] == other["metrics"], f"{summary['metrics']}, not {other['metrics']}"
        outcome.equal = True
    except (AssertionError, OSError, UserError) as error:
        outcome.wrong.append(f"{type(error).__name__}: {str(error)[:500]}")
    starts = [record for record in found.records() if record["kind"] == "start"]
    outcome.steps_again = sum(start["steps_again"] for start in starts)
    outcome.left = sorted(_files(run, found) - _files(expected, there)) + processes_left(run.processes)


def _files(run: Launched, folder: RunFolder) -> set[str]:
    """What a run has left in its folder and among temporary files, whichever steps it has kept, but for its logs."""
    of_run = (path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*"))
    temporary = (f"tmp/{path.relative_to(run.temporary).as_posix()}" for path in run.temporary.rglob("*"))
    names = {name for name in (*of_run, *temporary) if not re.match(OTHERS, name)}
    return {re.sub(r"/step-\d+", "/step-N", name) for name in names}


def processes_left(there: Callable[[], list[psutil.Process]]) -> list[str]:
    """Waits until processes are gone, but not for ever, since Ray's take seconds; names those that are not."""
    until = time.monotonic() + ENDS_WITHIN
    while (left := there()) and time.monotonic() < until:
        time.sleep(0.05)
    return [f"process {process.pid}: {process.name()}" for process in left]
