"""A checkpoint is removed by the files that its manifest names: what else lies in its folder stays, where it was."""

import re
from contextlib import suppress
from pathlib import Path

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.owned_files import remove_files, remove_if_empty, remove_made
from shardrec.trainer.checkpoints.manifest import MANIFEST, file_names, read_manifest
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.holds import held_steps


def prune(folder: RunFolder, keep: int, *spared: int | None) -> None:
    """Deletes all but the last `keep` checkpoints, those of steps to be spared, and those that somebody reads."""
    spared = (*spared, *held_steps(folder))
    for step in folder.steps()[:-keep]:
        if step not in spared and not folder.checkpoint(step).is_symlink():
            doomed = folder.checkpoints / f".step-{step}.old"
            folder.checkpoint(step).rename(doomed)  # a half-deleted folder must not look complete
            if step in held_steps(folder):  # a reader came at the same moment, and waits for it
                doomed.rename(folder.checkpoint(step))
            else:
                _remove(doomed, folder.checkpoint(step))


def remove(checkpoint: Path) -> None:
    """Deletes a checkpoint."""
    _remove(checkpoint, checkpoint)


def remove_unfinished(folder: RunFolder) -> None:
    """Deletes what a killed run left half-written or half-deleted."""
    for path in folder.checkpoints.iterdir():
        match = re.fullmatch(r"\.step-(\d+)\.(tmp|old)", path.name)
        if match is None or path.is_symlink():
            continue
        if match[2] == "tmp":
            remove_made(path)
        else:
            _remove(path, folder.checkpoint(int(match[1])))


def _remove(doomed: Path, place: Path) -> None:
    """Deletes the files that a manifest names; what else lies among them goes back to where it was."""
    with suppress(UserError):
        remove_files(doomed, file_names(read_manifest(doomed)))
        remove_files(doomed, [MANIFEST])
    remove_if_empty(doomed)
    if doomed.exists() and not place.exists():
        doomed.rename(place)
