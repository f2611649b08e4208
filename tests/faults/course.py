"""The course of a run that is hurt: from its first start to its end, started again each time it ends before that."""

import random
import re
import signal
import time

import psutil

from tests.faults import faults
from tests.faults.launched import RESTARTS, Launched, StuckError
from tests.faults.trial import FAULTS, Outcome, Struck, Trial

BEGINNINGS = r": (starts a new run|goes on from step \d+( \(no checkpoint yet\))?)$|^shardrec: goes on |^warning: "
OURS = r"shardrec: |\S+: (interrupted|terminated)"
KILLED = (-9, 137)
STARTS_OF_A_FAULT = 4
"""Starts that end before the run is finished, of which one fault may be the cause, at most."""


def run_through(trial: Trial, run: Launched, outcome: Outcome) -> None:
    """Starts a run, lets all faults befall it, and goes on until it is finished. Raises StuckError where it is not."""
    draw = random.Random(f"{trial.launcher} {trial.seed}")
    run.start()
    for place, (fault, moment) in enumerate(trial.faults):
        outcome.struck.append(Struck(fault, moment))
        _befall(trial, place, run, outcome.struck, draw)
    while _goes_on(run, outcome.struck[-1]):
        pass


def _befall(trial: Trial, place: int, run: Launched, all_struck: list[Struck], draw: random.Random) -> None:
    """Lets a fault befall a run in its share of the steps, and waits until a step is made that was not made before.

    The wait is left out where the next fault is to befall a start.
    """
    count, struck, before = len(trial.faults), all_struck[-1], all_struck[-2:][0]
    steps = range(run.last_step * place // count + 1, run.last_step * (place + 1) // count + 1)
    while not faults.MOMENTS[struck.moment](run, draw, steps):
        if not _goes_on(run, before):
            return
    done, befell = run.progress()[1], time.monotonic()
    try:
        FAULTS[trial.launcher][struck.fault](run, draw)
        struck.befell = True
    except (ProcessLookupError, IndexError, psutil.Error):
        return  # it was over meanwhile
    if place + 1 < count and trial.faults[place + 1][1] == "start":
        return
    while not run.until(lambda: run.progress()[1] > done):
        if not _goes_on(run, struck):
            return
    struck.recovered = round(time.monotonic() - befell, 2)


def _goes_on(run: Launched, struck: Struck) -> bool:
    """Waits for a run's end, and starts it again where it was not finished; says whether it did."""
    code = run.end()
    if code == 0:
        return False
    struck.codes.append(code)
    words = [_last_words(said) for said in run.said()]
    struck.lines.append("; ".join(words))
    if any(not _is_in_order(run, lines) for lines in words) or not (any(words) or _ends_silently(run, words, code)):
        raise StuckError(f"ended with {code}, and said: {words}")
    if len(struck.codes) == STARTS_OF_A_FAULT:
        raise StuckError(f"does not go on, however often it is started: {struck.codes}, {struck.lines}")
    run.start()
    return True


def _ends_silently(run: Launched, words: list[str], code: int) -> bool:
    """Returns whether nobody could say a word: all were killed, or torchrun was ended before it started a rank."""
    return code in KILLED or (run.launcher == "torchrun" and not words and code == -signal.SIGTERM)


def _is_in_order(run: Launched, words: str) -> bool:
    """Returns whether the words are a line, or as many as there may have been attempts since the run was started."""
    lines = words.splitlines()
    attempts = 1 + RESTARTS if run.launcher == "torchrun" else 1
    return len(lines) <= attempts and all(re.match(OURS, line) for line in lines)


def _last_words(said: str) -> str:
    """What a command said as it ended: all but how it began, and what else could not be written."""
    return "\n".join(line for line in dict.fromkeys(said.splitlines()) if not re.search(BEGINNINGS, line))
