"""A run's folder is made, or taken up where it stopped; one whose run came to nothing is left as it was found."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shardrec.data_pipeline.errors import LoggedError, UserError
from shardrec.data_pipeline.stores.location import Location
from shardrec.trainer.checkpoints.manifest import read_manifest
from shardrec.trainer.checkpoints.position import Position
from shardrec.trainer.checkpoints.set_aside import moved_aside, put_back
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.run_folder.command_logs import own_logs
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.resuming import restarts
from shardrec.trainer.run_folder.terminal import messages
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.training.state import TrainingState, last_step


@contextmanager
def taken_up(config: RunConfig, name: str, *, resume: bool, step: int | None = None) -> Iterator[RunFolder]:
    """Yields the folder of a new run, or of one to go on with, with logs of its own under `name`.

    step: the checkpoint to go on from: later ones are set aside, and put back where nothing comes of it. A new folder
    whose run fails before its first checkpoint is removed. Raises UserError as `RunFolder.create` does.
    """
    was_there = RunFolder(config.run_folder).config_file.exists()
    RunFolder.check(config, resume=resume)
    folder, moved = RunFolder(config.run_folder), {}
    try:
        folder = RunFolder.create(config, resume=resume)
        with own_logs(folder, name) as folder:
            moved = _later_set_aside(folder, step)
            yield folder
    except (UserError, KeyboardInterrupt, OSError) as error:
        if moved and folder.steps() == [s for s in folder.steps() if s not in moved and s <= (step or 0)]:
            for later, aside in moved.items():
                put_back(aside, folder.checkpoint(later))
        full = isinstance(error.__cause__, OSError)  # where a worker's line may not have found room
        told = full or not isinstance(error, LoggedError)
        if not was_there and told and not folder.steps():
            folder.discard()
        raise


def _later_set_aside(folder: RunFolder, step: int | None) -> dict[int, Location]:
    """Sets the checkpoints after `step` aside, with a line; returns where they are."""
    if step is None or restarts():  # torchrun's next try goes on
        return {}
    moved = {later: moved_aside(folder.checkpoint(later)) for later in folder.steps() if later > step}
    for later, aside in moved.items():
        messages().print(
            f"{folder.address}: goes on from step {step}; step-{later} is now {aside.name}", soft_wrap=True
        )
    return moved


def finished_summary(blueprint: Blueprint, folder: RunFolder) -> dict[str, Any] | None:
    """Returns the summary of a run that is over and has nothing left to train under today's settings; else None."""
    summary, steps = folder.summary(), folder.steps()
    paths = blueprint.config.data.split("train")
    if summary is None or not steps or paths is None:
        return None
    loader, settings = blueprint.loader(paths, training=True), blueprint.config.trainer
    try:
        content = read_manifest(folder.checkpoint(steps[-1]))
        loader.check_state(content["order"])
    except UserError:
        return None  # which is found again, and told, where the checkpoint is taken up
    state = TrainingState(last_step(settings, loader.steps_per_epoch))
    state.take_up(Position(**content["position"]), steps, settings.early_stopping)
    return summary if state.is_finished else None
