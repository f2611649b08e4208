"""Whether a checkpoint is damaged is found out by reading all of it, once something went wrong with it."""

from collections import deque

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.stores.location import Location
from shardrec.trainer.checkpoints.manifest import LaterVersionError
from shardrec.trainer.checkpoints.saved_model import SavedModel
from shardrec.trainer.checkpoints.tower_file import saved_tower


def damage(checkpoint: Location) -> str | None:
    """Returns what is wrong with the bytes of a checkpoint; None where every checksum is right. Memory is constant."""
    try:
        saved = SavedModel.read(checkpoint)
        saved_tower(saved.path, saved.content)
        id_maps = [part for id_map in saved.id_maps.values() for part in id_map.parts]
        for rows in (*saved.tables.values(), *id_maps):
            for tensor in rows.tensors:
                deque(rows.blocks(tensor), maxlen=0)
    except LaterVersionError:
        return None
    except (UserError, OSError) as error:
        return str(error)
    return None
