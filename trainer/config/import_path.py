"""A user's own models are imported from the folder that a run file's `import_from` names."""

import sys


def append_to_path(folder: str | None) -> None:
    """Makes a user's models importable; the folder comes last, so that nothing in it shadows anything."""
    if folder and folder not in sys.path:
        sys.path.append(folder)
