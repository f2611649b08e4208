"""A trial process trains the runs that it is told, one after another, and ends with who started it.

A line of JSON on standard input is a run; a line on the descriptor that is its argument says what came of it: null, or
the line that the run failed with.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

from shardrec.data_pipeline.errors import LoggedError, UserError
from shardrec.trainer.config.load import parse
from shardrec.trainer.tuning.failed_line import failed_line

POLL_SECONDS = 0.5
BROKEN = 3
"""The status of a process that a run went down in: after a CUDA error nothing more can be computed in it."""


def main() -> None:
    """Trains until standard input closes."""
    replies = os.fdopen(int(sys.argv[1]), "w", buffering=1)
    _end_with(os.getppid())
    for line in sys.stdin:
        job = json.loads(line)
        config = parse(job["config"], "trial")
        failure, is_broken = None, False
        try:
            from shardrec.trainer.launch.freed_memory import give_back_freed_memory
            from shardrec.trainer.reports.after_training import reported
            from shardrec.trainer.training.train_run import train_run

            with reported(config) as report:
                train_run(config, quiet=True, group=Path(job["group"]), at_end=report)
            give_back_freed_memory()  # the next trial needs it
        except (UserError, OSError) as error:
            failure, is_broken = failed_line(error, config.run_folder), isinstance(error, LoggedError)
        except Exception as error:
            failure, is_broken = failed_line(error, config.run_folder), True
        print(json.dumps(failure), file=replies, flush=True)
        if is_broken:
            os._exit(BROKEN)


def _end_with(parent: int) -> None:
    """Ends this process as soon as its parent has ended: after a kill nobody works on in the search's folder."""

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=follow, name="parent", daemon=True).start()


if __name__ == "__main__":
    main()
