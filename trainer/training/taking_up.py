"""A run's folder is made, or taken up where it stopped; one whose run came to nothing is left as it was found."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from shardrec.data_pipeline.errors import LoggedError, ResumableError, UserError
from shardrec.data_pipeline.stores.location import Location
from shardrec.data_pipeline.stores.retries import StoreError
from shardrec.trainer.checkpoints.manifest import read_manifest
from shardrec.trainer.checkpoints.position import Position
from shardrec.trainer.checkpoints.set_aside import moved_aside, put_back
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.notes import has_note, leave_note, take_note_back
from shardrec.trainer.run_folder.as_found import AsFound
from shardrec.trainer.run_folder.command_logs import own_logs
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.terminal import messages
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.training.resuming import goes_on_from
from shardrec.trainer.training.state import TrainingState, last_step


@contextmanager
def taken_up(config: RunConfig, name: str, *, resume: bool, step: int | None = None) -> Iterator[RunFolder]:
    """Yields the folder of a new run, or of one to go on with, with logs of its own under `name`.

    step: the checkpoint to go on from: later ones are set aside. Where nothing comes of it, they are put back, and
    the run's files are as they were. A new folder whose run fails before its first checkpoint is removed. Raises
    UserError as `RunFolder.create` does.
    """
    was_there = RunFolder(config.run_folder).config_file.exists()
    RunFolder.check(config, resume=resume)
    folder = RunFolder(config.run_folder)
    found = _Found(folder, AsFound.of(folder) if step is not None else None)
    try:
        folder = RunFolder.create(config, resume=resume)
        with own_logs(folder, name) as folder:
            if step is not None:
                found.set_aside_after(step)
            yield folder
    except BaseException as error:
        if not isinstance(error, ResumableError):
            with suppress(OSError, UserError, RuntimeError):  # the first error counts; torchrun's store may be gone
                found.put_back()
        if isinstance(error, (UserError, KeyboardInterrupt, OSError)):
            full = isinstance(error.__cause__, OSError)  # where a worker's line may not have found room
            told = full or not isinstance(error, LoggedError)
            with suppress(StoreError):  # likewise
                if not was_there and told and not folder.steps():
                    folder.discard()
        raise


class _Found:
    """A run is found with its checkpoints and files, and left so where nothing comes of what is trained then."""

    def __init__(self, folder: RunFolder, files: AsFound | None) -> None:
        self._folder, self._files = folder, files
        self._steps = folder.steps() if files else []
        self._moved: dict[int, Location] = {}
        self._note = ""

    def set_aside_after(self, step: int) -> None:
        """Sets the checkpoints after `step` aside, with a line; unless an earlier process of this launch has."""
        note = goes_on_from(step, self._folder)
        if has_note(note):  # torchrun's next try goes on
            return
        for later in [later for later in self._steps if later > step]:
            at = self._folder.checkpoint(later)
            self._moved[later] = aside = moved_aside(at)
            messages().print(
                f"{self._folder.address}: goes on from step {step}; {at.name} is now {aside.name}", soft_wrap=True
            )
        leave_note(note)
        self._note = note

    def put_back(self) -> None:
        """Puts back what was set aside or written anew, where there is no checkpoint that was not there before."""
        if self._files is None or not self._moved:
            return
        if not {*self._folder.steps()} <= {*self._steps} - self._moved.keys():
            return
        for later, aside in self._moved.items():
            put_back(aside, self._folder.checkpoint(later))
        self._files.put_back()
        if self._note:
            take_note_back(self._note)


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
