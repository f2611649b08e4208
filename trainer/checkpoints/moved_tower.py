"""A checkpoint whose tower has moved since stands beside the one that it came from, with the same tables.

So what moved outside of training (by dueling bandits, in a simulation) is where the next training starts.
"""

from collections.abc import Mapping

from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.owned_files import remove_made
from shardrec.data_pipeline.files.whole_files import sync
from shardrec.data_pipeline.stores.location import Location
from shardrec.trainer.checkpoints.linked_files import link
from shardrec.trainer.checkpoints.manifest import MANIFEST, TOWER_FILE, file_names, write_manifest
from shardrec.trainer.checkpoints.removal import remove_unfinished
from shardrec.trainer.checkpoints.saved_model import SavedModel
from shardrec.trainer.checkpoints.tower_file import UnwrittenTower, saved_tower
from shardrec.trainer.checkpoints.unfinished import finished
from shardrec.trainer.checkpoints.unsound_values import UnsoundValuesError, unsound_tower
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.lock import locked
from shardrec.trainer.run_folder.run_files import CHECKPOINTS
from shardrec.trainer.session.tower import MODEL


def save_moved_tower(folder: RunFolder, saved: SavedModel, parameters: Mapping[str, Tensor], step: int) -> Location:
    """Writes `checkpoints/step-N` of a run: its checkpoint `saved`, but for some of the tower's parameters.

    parameters: by the names that the model gives them; what they leave out, the optimizer's state and buffers (a target
    network) stay as they are. step: N, after that of `saved`. The files of tables are not copied where the file system
    can give them a second name. Complete or absent, like any checkpoint; a run that starts from the folder takes it, as
    the last one, and as the best where `saved` was.

    Raises UserError for parameters that the tower does not have, or not in this shape, UnsoundValuesError for values
    that training could not go on from, and for a step that is there or not after that of `saved`.
    """
    if folder.store is not None:
        raise UserError(f"{folder.address}: a run in a store, whose tower is not moved; copy it to a disk")
    if step <= saved.step or folder.checkpoint(step).exists():
        raise UserError(
            f"{folder.checkpoint(step)}: there already, or not after step {saved.step}; choose a later step"
        )
    tower = saved_tower(saved.path, saved.content)
    for name, values in parameters.items():
        before = tower.get(f"tower/{MODEL}{name}")
        if before is None or before.shape != values.shape:
            there = "no such parameter" if before is None else f"{name} as {list(before.shape)}"
            raise UserError(f"{saved.path}: has {there}, but {name} as {list(values.shape)} is to take its place")
        tower[f"tower/{MODEL}{name}"] = values.detach().to("cpu", before.dtype)
    if unsound := unsound_tower(tower):
        raise UnsoundValuesError(unsound)
    with locked(folder.path, "moved tower"):
        _write(folder, saved, tower, step)
    if folder.best_step() == saved.step:
        folder.mark_best(step)
    return folder.checkpoint(step)


def _write(folder: RunFolder, saved: SavedModel, tower: Mapping[str, Tensor], step: int) -> None:
    temporary = folder.path / CHECKPOINTS / f".step-{step}.tmp"
    remove_unfinished(folder)
    temporary.mkdir()
    try:
        for rows in (*saved.tables.values(), *(part for id_map in saved.id_maps.values() for part in id_map.parts)):
            for name in rows.file_sizes():
                link(saved.path / name, temporary / name)
        changed = {
            "position": {**saved.content["position"], "step": step},
            "tower": UnwrittenTower.of(tower, temporary / TOWER_FILE).written(),
        }
        write_manifest(temporary / MANIFEST, {**saved.content, **changed})
        for inside in {(temporary / name).parent for name in file_names(saved.content)}:
            sync(inside)
        finished(temporary, folder.checkpoint(step))
    except BaseException:
        remove_made(temporary)
        raise
