"""Files of a checkpoint, which nothing ever writes again, get a second name in another one."""

import os
import shutil
from pathlib import Path


def link(source: Path, target: Path) -> None:
    """Gives a file a second name, in a folder that is made where it is not there; copies it where none can be given."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
