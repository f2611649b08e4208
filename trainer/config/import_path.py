"""A user's own models are imported from the folder that a run file's `import_from` names; ours are not."""

import sys

from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.config.trust import is_foreign


def make_importable(config: RunConfig) -> None:
    """Makes a run's model importable; its folder comes last on sys.path, so that nothing in it shadows anything."""
    if is_foreign(str(config.model.get("name"))):
        append_to_path(config.import_from)


def append_to_path(folder: str | None) -> None:
    """Puts a folder last on sys.path, unless it is there."""
    if folder and folder not in sys.path:
        sys.path.append(folder)
