"""A reporter writes what a run leaves for people and programs: metrics.jsonl, TensorBoard, summary.json."""

import json
import math
from typing import TYPE_CHECKING, Any

from shardrec.models.undefined import undefined_in
from shardrec.trainer.run_folder.atomic import write_atomically
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.progress import ProgressFile

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Reporter:
    """A reporter writes on the leading worker and does nothing on the others."""

    def __init__(self, folder: RunFolder, *, leads: bool, tensorboard: bool) -> None:
        self.folder, self.leads = folder, leads
        self.progress = ProgressFile(folder.logs, enabled=leads)
        self._tensorboard = tensorboard
        self._writer: SummaryWriter | None = None

    def start(self, step: int, *, is_evaluated: bool = True) -> None:
        """Begins at `step`: drops what was recorded after it before, and of an evaluation that is yet to be made."""
        if not self.leads:
            return
        self.close()  # of what it went back from
        self.folder.forget_records_after(step, is_evaluated=is_evaluated)
        if self._tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # a third of a second, which only this worker takes

            self._writer = SummaryWriter(str(self.folder.path / "tensorboard"), purge_step=step + 1)

    def record(self, kind: str, step: int, values: dict[str, Any], prefix: str = "") -> None:
        """Writes one line in metrics.jsonl, and each number as the TensorBoard scalar `prefix/name`.

        Undefined ones are null in the line, which says why under `undefined`, and text in TensorBoard.
        """
        if not self.leads:
            return
        undefined = undefined_in(values)
        self.folder.record(kind, step, finite(values) | ({"undefined": undefined} if undefined else {}))
        if self._writer is not None:
            for name, value in values.items():
                if name in undefined:
                    self._writer.add_text(f"{prefix or kind}/{name}", str(value), step)
                elif isinstance(value, int | float):
                    self._writer.add_scalar(f"{prefix or kind}/{name}", value, step)

    def close(self) -> None:
        """Ends TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()


def write_summary(folder: RunFolder, summary: dict[str, Any]) -> None:
    """Writes summary.json."""
    write_atomically(folder.summary_file, json.dumps(finite(summary), indent=2) + "\n")


def finite(values: Any) -> Any:
    """Returns the values with null for the numbers that JSON lacks (NaN, infinities)."""
    if isinstance(values, dict):
        return {key: finite(value) for key, value in values.items()}
    return None if isinstance(values, float) and not math.isfinite(values) else values
