"""An unfinished checkpoint is one that is being written, and that nobody takes for a checkpoint."""

from pathlib import Path

from shardrec.data_pipeline.files.whole_files import sync
from shardrec.data_pipeline.stores.location import Location
from shardrec.trainer.checkpoints.set_aside import moved_aside
from shardrec.trainer.run_folder.folder import RunFolder


def begun(folder: RunFolder, step: int) -> Location:
    """Returns where a step's checkpoint is written: beside its place on a disk; in a store, in its place."""
    checkpoints = folder.checkpoints
    return checkpoints / f".step-{step}.tmp" if isinstance(checkpoints, Path) else folder.checkpoint(step)


def finished(written: Location, final: Location) -> None:
    """Makes what was written, with its manifest, the checkpoint."""
    if not isinstance(written, Path) or not isinstance(final, Path):
        return
    sync(written)
    if final.exists():  # without a manifest, as a copy that was broken off leaves it
        moved_aside(final)
    written.rename(final)
    sync(final.parent)
