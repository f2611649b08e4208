"""A calibration is a map of a model's probabilities onto the rates at which labels come true, kept beside the run."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.checkpoints.manifest import fingerprint, read_manifest
from shardrec.trainer.run_folder.atomic import write_atomically
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.synced import send

LEAST = 1e-12
"""Probabilities nearer to 0 or 1 than this are taken as this near: float32 holds some as 1, which has no logit."""

MOST_BYTES = 64 << 20  # of a file that is read: an isotonic map of a million steps has 40 MB

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Measured(BaseModel):
    """What some rows say of predictions, before and after calibration: expected calibration error and log loss.

    cross_fitted: parts that were each calibrated by a fit on the others; 0: the fit has seen none of the rows.
    """

    rows: int
    cross_fitted: int
    ece: tuple[float, float]
    log_loss: tuple[float, float]


class Calibration(BaseModel):
    """A calibration maps a prediction p. isotonic: linear between the points (x, y), and constant beyond the ends;
    platt: to sigmoid(a logit(p) + b).

    split, rows, step, checkpoint: what it was fitted on, and which checkpoint scored it, by step and fingerprint.
    measured: by split, of rows that the fits they were calibrated by have not seen.
    """

    model_config = ConfigDict(frozen=True)

    method: Literal["isotonic", "platt"]
    x: list[Finite] = []
    y: list[Finite] = []
    a: Finite = 1.0
    b: Finite = 0.0
    split: str = ""
    rows: int = 0
    step: int = 0
    checkpoint: str = ""
    measured: dict[str, Measured] = {}

    @model_validator(mode="after")
    def _is_a_map(self) -> Self:
        """Raises ValueError for points that are no monotone map of probabilities."""
        if self.method == "isotonic":
            x, y = np.array(self.x), np.array(self.y)
            if len(x) != len(y) or not len(x) or (np.diff(x) <= 0).any() or (np.diff(y) < 0).any():
                raise ValueError("x has to ascend, and y not to descend, in as many points")
            if y[0] < 0 or y[-1] > 1:
                raise ValueError("y has to be from 0 to 1")
        elif self.a <= 0:
            raise ValueError("a has to be positive")
        return self

    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        """Returns the calibrated probabilities of [n] predictions, in their order."""
        predictions = np.asarray(predictions, dtype=np.float64)
        if self.method == "isotonic":
            return np.interp(predictions, self.x, self.y)
        return 1 / (1 + np.exp(-(self.a * logit(predictions) + self.b)))

    def save(self, folder: RunFolder) -> Path:
        """Writes the run folder's calibration.json, in place of one that is there; returns its path.

        Raises UserError where that cannot be written.
        """
        points = {"x", "y"} if self.method == "isotonic" else {"a", "b"}
        content = self.model_dump(exclude={"x", "y", "a", "b"} - points)
        try:
            write_atomically(folder.calibration_file, json.dumps(content) + "\n")
            send(folder.calibration_file)
        except OSError as error:
            raise UserError(f"{folder.calibration_file}: cannot be written: {error.strerror}") from error
        return folder.calibration_file

    @classmethod
    def load(cls, folder: RunFolder) -> "Calibration | None":
        """Reads the run folder's calibration.json; None where there is none. Raises UserError for a broken one."""
        path = folder.calibration_file
        if not path.exists():
            return None
        try:
            with path.open("rb") as file:
                content = file.read(MOST_BYTES + 1)
            if len(content) > MOST_BYTES:
                raise ValueError(f"it has more than {MOST_BYTES} bytes")
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            problem = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        except (OSError, ValueError) as error:
            problem = str(error)
        raise UserError(f"{path}: cannot be read as a calibration ({problem}); make it anew with `shardrec calibrate`")


def calibration_of(folder: RunFolder, step: int, wanted: bool | None, option: str) -> Calibration | None:
    """Returns the calibration to score a checkpoint with. wanted: None takes it where there is one.

    Raises UserError where it is wanted and not there, and where it is of another checkpoint; option: how to go without.
    """
    if wanted is False:
        return None
    found = Calibration.load(folder)
    if found is None:
        if wanted:
            raise UserError(
                f"{folder.address}: has no calibration.json; make it with `shardrec calibrate {folder.address}`"
            )
        return None
    if found.step != step:
        raise UserError(
            f"{folder.calibration_file}: was fitted to scores of step {found.step}, and step {step} is to score; "
            f"calibrate that with `shardrec calibrate --step {step}`, or {option}"
        )
    if found.checkpoint != fingerprint(read_manifest(folder.checkpoint(step))):
        of = "another checkpoint" if found.checkpoint else "a checkpoint that it does not name, maybe another"
        raise UserError(
            f"{folder.calibration_file}: was fitted to scores of {of} of step {step} than the one that is there; "
            f"calibrate that with `shardrec calibrate --step {step}`, or {option}"
        )
    return found


def logit(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns ln p / (1 - p), of probabilities kept `LEAST` away from 0 and 1."""
    p = np.clip(probabilities, LEAST, 1 - LEAST)
    return np.log(p) - np.log1p(-p)
