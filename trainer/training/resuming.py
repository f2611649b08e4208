"""Whether a training starts a run or goes on with one is decided here, once, before anything is prepared."""

from collections.abc import Iterable
from typing import Literal

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.config.stages import resolve_stages
from shardrec.trainer.run_folder.folder import RunFolder, nothing_to_resume
from shardrec.trainer.run_folder.lasting import check_lasting
from shardrec.trainer.run_folder.lock import check_free, was_begun
from shardrec.trainer.run_folder.synced import fetch, holds_other_things
from shardrec.trainer.run_folder.terminal import messages

Resume = bool | Literal["auto"]
"""False starts a run, True goes on with one that is there, "auto" does what there is to do, and says which."""


def resumes(config: RunConfig, resume: Resume, step: int | None = None) -> bool:
    """Returns whether a training goes on with the run in its folder.

    step: the checkpoint to go on from, instead of the newest. Raises UserError where the folder holds something else,
    is in use, or does not hold the run or the checkpoint to go on from.
    """
    folder = RunFolder(config.run_folder)
    fetch(folder.path)
    going_on = _has_begun(folder) if resume == "auto" else resume
    check_free(folder.path)
    if config.stages:
        check_stages_folder(folder, resolve_stages(config), resume=going_on)
    else:
        RunFolder.check(config, resume=going_on)
    if step is not None:
        _check_step(config, folder, step, going_on=going_on)
    if resume == "auto":
        messages().print(_said(folder, going_on), markup=False, soft_wrap=True)
    return going_on


def _has_begun(folder: RunFolder) -> bool:
    return folder.config_file.exists() or folder.stages_file.exists()


def _said(folder: RunFolder, going_on: bool) -> str:
    if not going_on:
        return f"{folder.address}: starts a new run"
    if folder.stages_file.exists():
        return f"{folder.address}: goes on with its stages"
    newest = max(folder.steps(), default=None)
    return f"{folder.address}: goes on from " + ("step 0 (no checkpoint yet)" if newest is None else f"step {newest}")


def goes_on_from(step: int, folder: RunFolder) -> str:
    """Returns the name of the note that a launch has set aside what a run had after a step."""
    return f"{folder.address} goes on from {step}"


def _check_step(config: RunConfig, folder: RunFolder, step: int, *, going_on: bool) -> None:
    if not going_on:
        raise UserError(f"--step {step}: says where --resume goes on from; there is no run to go on with")
    if config.stages:
        raise UserError(f"--step {step}: of which stage? resume that one by {folder.address}/STAGE/config.yaml")
    from shardrec.trainer.launch.notes import has_note  # loads torch

    if not has_note(goes_on_from(step, folder)):
        folder.choose_step(step)


def check_stages_folder(whole: RunFolder, stages: Iterable[str], *, resume: bool) -> None:
    """Raises UserError where the folder of a run of stages holds something else, or such a run already, or none.

    stages: their names, which are those of the folders in it.
    """
    check_lasting("run", whole.path)
    if whole.config_file.exists():
        raise UserError(f"{whole.address}: holds a run without stages; name another `run`")
    if whole.stages_file.exists():
        if not resume:
            raise UserError(f"{whole.address}: holds a run already; continue it with --resume, or name another `run`")
    elif resume:
        raise nothing_to_resume(whole.path)
    elif holds_other_things(whole.path) or (
        whole.path.exists() and not (whole.path.is_dir() and was_begun(whole.path))
    ):
        raise UserError(f"{whole.address}: not a run folder and not empty; name another `run`")
    whole.check_no_links(("logs", *stages))
