"""`shardrec simulate` lets every policy serve every seed's users, each in a folder of its own, and reports on all.

RUN/POLICY-SEED/     an episode (episode.py)
RUN/simulation.yaml  the run file, resolved
RUN/metrics.parquet, table.csv, policies.png  what all of them came to (report.py)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.differences import first_difference
from shardrec.trainer.config.load import load_as
from shardrec.trainer.run_folder.atomic import write_atomically
from shardrec.trainer.run_folder.command_logs import command_name
from shardrec.trainer.run_folder.interruption import telling_how_to_go_on
from shardrec.trainer.run_folder.lasting import check_lasting, check_on_disk
from shardrec.trainer.run_folder.lock import LOCK, locked
from shardrec.trainer.run_folder.progress import PROGRESS, ProgressFile, ProgressView
from shardrec.trainer.run_folder.terminal import messages
from shardrec.trainer.simulation.episode import FOLDERS, episode_folder, finished
from shardrec.trainer.simulation.registry import check_nets, check_policies
from shardrec.trainer.simulation.report import SimulationReport
from shardrec.trainer.simulation.run_file import SimulationConfig, load_simulation
from shardrec.trainer.simulation.side_by_side import EpisodeKey, EpisodeOutcome, one_by_one, side_by_side

RUN_FILE = "simulation.yaml"
_FREE = ("simulation.policies", "simulation.seeds", "launch")


class Simulated(NamedTuple):
    """A simulation that was gone through has a report, and the episodes that could not go on."""

    report: SimulationReport
    failures: tuple[EpisodeOutcome, ...] = ()

    def check(self) -> None:
        """Raises UserError where an episode has failed."""
        if self.failures:
            first, more = self.failures[0], len(self.failures) - 1
            others = f" (and {more} more)" if more else ""
            raise UserError(
                f"{first.key}: {first.failure}{others}; mend that and go on with --resume, or with "
                "other settings in another `run`"
            )


def simulate_policies(
    run_file: Path, overrides: Sequence[str] = (), *, resume: bool = False, workers: int = 1, quiet: bool = False
) -> Simulated:
    """Lives through all episodes of a run file that are not over, and writes the report after each.

    workers: how many episodes run side by side, each in a process of its own. Those that fail are part of the result.
    Raises UserError for what is wrong with the run file or the folder, before anything is written.
    """
    config = load_simulation(run_file, overrides)
    check_policies(config.simulation.policies, config.model.get("name"))
    run = config.run_folder
    check_folder(config, resume=resume)
    SimulationReport.check_writable(run)
    keys = _keys_left(config)
    check_nets(config, dict.fromkeys(key.policy for key in keys))
    with telling_how_to_go_on(run, run / RUN_FILE), locked(run, command_name("simulate")):
        write_atomically(run / RUN_FILE, config.dump())
        keys = _keys_left(config)
        shown = ProgressFile(run, enabled=not quiet)
        with ProgressView(run, quiet=quiet, first="simulating"):
            done = one_by_one(config, keys, shown) if workers == 1 else side_by_side(config, keys, shown, workers)
            failures = tuple(outcome for outcome in done if not _took_up(config, outcome))
        (run / PROGRESS).unlink(missing_ok=True)
        report = SimulationReport(config)
        report.write()
    return Simulated(report, failures)


def _took_up(config: SimulationConfig, outcome: EpisodeOutcome) -> bool:
    """Says whether an episode is over, and writes the report anew if so; says why if not."""
    if outcome.failure is None:
        SimulationReport(config).write(picture=False)
    else:
        messages().print(f"failed: {outcome.key}: {outcome.failure}", soft_wrap=True, markup=False)
    return outcome.failure is None


def report_again(run_file: Path, overrides: Sequence[str] = ()) -> Simulated:
    """Writes the report of what is there so far. Raises UserError where nothing is."""
    report = SimulationReport(load_simulation(run_file, overrides))
    if not report.lived:
        raise UserError(f"{report.run}: no day of a simulation is over yet; run it without --report")
    report.write()
    return Simulated(report)


def episode_keys(config: SimulationConfig) -> list[EpisodeKey]:
    """Returns every policy under every seed, so that a seed is complete before the next begins."""
    simulation = config.simulation
    return [EpisodeKey(policy, seed) for seed in range(simulation.seeds) for policy in simulation.policies]


def _keys_left(config: SimulationConfig) -> list[EpisodeKey]:
    return [key for key in episode_keys(config) if not finished(episode_folder(config.run, *key))]


def check_folder(config: SimulationConfig, *, resume: bool) -> None:
    """Raises UserError where the folder holds something else, or a simulation and `resume` is not asked, or another."""
    run = config.run_folder
    check_lasting("run", run)
    check_on_disk("run", run)
    before = run / RUN_FILE
    if not before.exists():
        if resume:
            raise UserError(f"{run}: holds no simulation to go on with; leave --resume out to start one")
        if run.exists() and (not run.is_dir() or any(path.name != LOCK for path in run.iterdir())):
            raise UserError(f"{run}: not a simulation's folder and not empty; name another `run`")
        return
    if not resume:
        raise UserError(f"{run}: holds a simulation already; continue it with --resume, or name another `run`")
    if change := first_difference(load_as(SimulationConfig, before), config, _FREE):
        raise UserError(
            f"{run}: holds a simulation of other settings ({change.key} was {change.before}, now {change.now}); ask "
            "for the same, or name another `run`"
        )
    episodes = [episode_folder(run, *key) for key in episode_keys(config)]
    for place in (place for folder in episodes for place in (folder, *(folder / name for name in FOLDERS))):
        if place.is_symlink():
            raise UserError(f"{place}: a link, through which nothing is written or removed; move what it leads to here")
