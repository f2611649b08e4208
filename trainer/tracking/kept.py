"""What is kept of a tracker in the run folder: its own run, so that a resumed training goes on with it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from shardrec.trainer.run_folder.atomic import write_atomically


@dataclass
class Kept:
    """Kept are the tracker's name of a run, and the last step that was sent of each kind of record.

    Steps that a resumed training makes again are not sent again.
    """

    run: str | None = None
    sent: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> "Kept":
        """Returns what a file holds; nothing where it is missing or broken."""
        try:
            found = json.loads(file.read_bytes())
            return cls(found["run"], {str(kind): int(step) for kind, step in found["sent"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def write(self, file: Path) -> None:
        """Writes all of it, or leaves what was there."""
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(asdict(self)) + "\n")
