"""Final curves are those of a run's best checkpoint, in `curves.json`: split -> the step, and binned curves."""

import json
from contextlib import suppress
from typing import Any

from shardrec.trainer.run_folder.atomic import write_atomically
from shardrec.trainer.run_folder.folder import RunFolder


def keep_curves(folder: RunFolder, split: str, step: int, curves: dict[str, Any]) -> None:
    """Puts a split's curves in the place of earlier ones. They are for people: a full disk costs the run nothing."""
    with suppress(OSError):
        kept = final_curves(folder) | {split: {"step": step, **curves}}
        write_atomically(folder.curves_file, json.dumps(kept) + "\n")


def final_curves(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """Returns what was kept, by split; nothing where there is no such file, or none that can be read."""
    try:
        kept = json.loads(folder.curves_file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return {name: of for name, of in kept.items() if isinstance(of, dict)} if isinstance(kept, dict) else {}
