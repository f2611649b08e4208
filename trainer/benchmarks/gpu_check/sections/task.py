"""A task is what a section is given: the device, how large a run is meant, where to write, and how long it may take."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from shardrec.data_pipeline.errors import UserError

Report = Callable[[str, Any], None]
"""Takes a figure by its name: a number, a text, a list of these, or a list of rows {column: value}; later ones win."""


@dataclass(frozen=True)
class Task:
    """A task says how a section is to run. small: sizes for a dry run on CPU; seconds: what the section may take.

    folder: for files that stay; scratch: for those that do not, the section's own.
    """

    device: Literal["cpu", "cuda"]
    small: bool
    folder: Path
    scratch: Path
    seconds: float

    @property
    def torch_device(self) -> torch.device:
        """Returns the device of tensors."""
        return torch.device(self.device, 0) if self.device == "cuda" else torch.device("cpu")


def refuse(problems: list[str]) -> None:
    """Raises UserError with all that a section found wrong, if anything."""
    if problems:
        raise UserError("; ".join(problems))
