"""Files of a checkpoint, which nothing ever writes again, get a second name in another one."""

import os
import shutil
from pathlib import Path

from shardrec.data_pipeline.files.streams import fetch_file
from shardrec.data_pipeline.stores.location import Location


def link(source: Location, target: Path) -> None:
    """Gives a file a second name, in a folder that is made where it is not there; copies it where none can be given.

    One in a store is fetched. Raises StoreError as `tried` does.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(source, Path):
        fetch_file(source, target)
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
