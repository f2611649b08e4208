"""Where a user's own models are imported from: the folder that a run file's `import_from` names."""

import sys


def append_to_path(folder: str | None) -> None:
    """Makes a user's models importable. Appended, so that a folder of theirs shadows nothing."""
    if folder and folder not in sys.path:
        sys.path.append(folder)
