"""What workers hand back to the launcher: rank 0's result, or the line that stopped the run on some worker.

They are files among the logs; of a run in a store, workers on other machines hand them back through it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardrec.data_pipeline.errors import ResumableError, UserError
from shardrec.data_pipeline.stores.retries import StoreError
from shardrec.trainer.run_folder.atomic import write_atomically
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.synced import fetch, push


def leave_failure(folder: RunFolder, error: UserError) -> None:
    """Leaves the one line that the launcher prints. The first worker to fail is the one that counts."""
    text = json.dumps({"error": str(error), "resumable": isinstance(error, ResumableError)})
    try:
        with folder.error_file.open("x") as file:
            file.write(text)
        if folder.elsewhere:
            folder.stored(folder.error_file).write_text(text)
    except (OSError, StoreError):
        pass  # another worker was first; or the disk is full, and the error itself has to get through


def failure_left(folder: RunFolder) -> UserError | None:
    """Returns what stopped the run on some worker, if anything did."""
    try:
        left = json.loads(_left(folder, folder.error_file))
        return (ResumableError if left.get("resumable") else UserError)(left["error"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def leave_result(folder: RunFolder, result: Mapping[str, Any]) -> None:
    """Leaves what rank 0 returns to the launcher."""
    write_atomically(folder.result_file, json.dumps(result))
    push(folder.path)
    if folder.elsewhere:
        folder.stored(folder.result_file).write_text(json.dumps(result))


def result_left(folder: RunFolder) -> dict[str, Any]:
    """Returns what rank 0 has left; where it ran on another machine, this one's mirror has what it wrote then, too."""
    is_here = folder.result_file.exists()
    left: dict[str, Any] = json.loads(_left(folder, folder.result_file))
    if not is_here:
        folder.stored(folder.result_file).unlink(missing_ok=True)
        push(folder.path, is_last=True)
        fetch(folder.path, is_ours=True)
    return left


def _left(folder: RunFolder, file: Path) -> str:
    """Returns the text of a file that a worker left here, or on another machine. Raises FileNotFoundError."""
    if folder.store is None or file.exists():
        return file.read_text()
    return folder.stored(file).read_text()
