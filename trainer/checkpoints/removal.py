"""A checkpoint is removed by the files that its manifest names: what else lies in its folder stays, where it was.

In a store all objects of its folder go, the manifest first.
"""

import re
from contextlib import suppress
from pathlib import Path

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.owned_files import remove_files, remove_if_empty, remove_made
from shardrec.data_pipeline.stores.location import Location, StorePath
from shardrec.trainer.checkpoints.manifest import MANIFEST, file_names, read_manifest
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.holds import held_steps


def prune(folder: RunFolder, keep: int, *spared: int | None) -> None:
    """Deletes all but the last `keep` checkpoints, those of steps to be spared, and those that somebody reads."""
    spared = (*spared, *held_steps(folder))
    for step in folder.steps()[:-keep]:
        doomed = folder.checkpoint(step)
        if step in spared or doomed.is_symlink():
            continue
        if isinstance(doomed, StorePath):
            _remove_from_store(folder, doomed, step)
        else:
            _remove_from_disk(folder, doomed, step)


def _remove_from_disk(folder: RunFolder, checkpoint: Path, step: int) -> None:
    doomed = checkpoint.with_name(f".step-{step}.old")
    checkpoint.rename(doomed)  # a half-deleted folder must not look complete
    if step in held_steps(folder):  # a reader came at the same moment, and waits for it
        doomed.rename(checkpoint)
    else:
        _remove(doomed, checkpoint)


def _remove_from_store(folder: RunFolder, checkpoint: StorePath, step: int) -> None:
    manifest = checkpoint / MANIFEST
    content = manifest.read_bytes()
    manifest.unlink(missing_ok=True)  # so that it is complete no more
    if step in held_steps(folder):
        manifest.write_bytes(content)
    else:
        checkpoint.remove()


def remove(checkpoint: Location) -> None:
    """Deletes a checkpoint."""
    if isinstance(checkpoint, StorePath):
        checkpoint.remove()
    else:
        _remove(checkpoint, checkpoint)


def remove_unfinished(folder: RunFolder) -> None:
    """Deletes what a killed run left half-written or half-deleted."""
    checkpoints = folder.checkpoints
    if isinstance(checkpoints, StorePath):
        _remove_unfinished_objects(checkpoints)
        return
    for path in checkpoints.iterdir():
        match = re.fullmatch(r"\.step-(\d+)\.(tmp|old)", path.name)
        if match is None or path.is_symlink():
            continue
        if match[2] == "tmp":
            remove_made(path)
        else:
            _remove(path, checkpoints / f"step-{match[1]}")


def _remove_unfinished_objects(checkpoints: StorePath) -> None:
    for path, status in checkpoints.listed().items():
        if status is None and re.fullmatch(r"step-\d+", path.name) and not (path / MANIFEST).exists():
            path.remove()


def _remove(doomed: Path, place: Path) -> None:
    """Deletes the files that a manifest names; what else lies among them goes back to where it was."""
    with suppress(UserError):
        remove_files(doomed, file_names(read_manifest(doomed)))
        remove_files(doomed, [MANIFEST])
    remove_if_empty(doomed)
    if doomed.exists() and not place.exists():
        doomed.rename(place)
