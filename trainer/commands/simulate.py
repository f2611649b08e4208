"""`shardrec simulate`: policies serve simulated users, and learn from what these click."""

from typing import Annotated

import typer

from shardrec.trainer.commands.options import Overrides, Quiet, RunFile


def simulate(
    run_file: RunFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the simulation that is there")] = False,
    workers: Annotated[int, typer.Option(min=1, help="episodes that run side by side, each in a process")] = 1,
    quiet: Quiet = False,
) -> None:
    """Lets policies serve simulated users, and says which of them come off best."""
    from shardrec.trainer.simulation.simulate import simulate as simulate_policies

    config = simulate_policies(run_file, tuple(overrides or ()), resume=resume, workers=workers, quiet=quiet)
    typer.echo(f"run folder: {config.run}")
