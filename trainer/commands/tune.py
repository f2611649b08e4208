"""`shardrec tune`: settings searched for by validation rows."""

import re
from pathlib import Path
from typing import Annotated

import typer

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.commands.options import Overrides, Quiet, RunFile, Trust, Variant

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def tune(
    run_file: RunFile,
    variant: Variant = None,
    overrides: Overrides = None,
    trials: Annotated[int | None, typer.Option(min=1, help="in all; default: tune.trials of the run file")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="trials side by side, each in a process; 0: in this one")] = 1,
    timeout: Annotated[
        str | None, typer.Option(metavar="2h", help="no trial begins after it: 90s, 30m, 2h, 1d")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the search that is there")] = False,
    out: Annotated[Path | None, typer.Option(help="folder of the search; default: RUN-tune")] = None,
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Searches for the settings with the best validation metric, as `tune` of the run file says."""
    seconds = seconds_of(timeout)
    from shardrec.trainer.config.trust import trust_folders
    from shardrec.trainer.run_folder.interruption import telling_how_to_go_on
    from shardrec.trainer.run_folder.terminal import results
    from shardrec.trainer.tuning.plan import RunFile as Declared
    from shardrec.trainer.tuning.plan import planned
    from shardrec.trainer.tuning.search import search
    from shardrec.trainer.tuning.study import STUDY_FILE, check_installed

    if trust:
        trust_folders(run_file.parent)
    check_installed()
    plan = planned(Declared.read(run_file, overrides or (), variant), out, trials)
    with telling_how_to_go_on(plan.out, plan.out / STUDY_FILE):
        found = search(plan, jobs=jobs, timeout=seconds, resume=resume, quiet=quiet)
    found.print(results())
    if not found.ranked:
        raise UserError(found.nothing_finished)


def seconds_of(text: str | None) -> float | None:
    """Returns the seconds of `90s`, `30m`, `2h` or `1d`; those of a number are itself. Raises UserError for others."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", text)
    if match is None:
        raise UserError(f"--timeout {text!r}: expected a time such as 90s, 30m, 2h or 1d")
    return float(match[1]) * _SECONDS[match[2]]
