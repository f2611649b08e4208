"""A feature's `transforms` declare how its column's numbers change; `transforms.py` does it."""

from math import inf
from typing import Annotated, Literal

from pydantic import Field, model_validator

from shardrec.data_pipeline.declared.declaration import Declaration


class Log(Declaration):
    """Logs turn x into sign(x) ln(1 + |x|)."""

    kind: Literal["log"] = "log"


class Standardise(Declaration):
    """Standardising turns x into (x - mean) / deviation, both fitted on training rows at preparation."""

    kind: Literal["standardise"] = "standardise"
    mean: float = Field(allow_inf_nan=False)
    deviation: float = Field(gt=0, allow_inf_nan=False)


class Clip(Declaration):
    """Clipping turns x into min(max(x, low), high)."""

    kind: Literal["clip"] = "clip"
    low: float | None = Field(default=None, allow_inf_nan=True)
    high: float | None = Field(default=None, allow_inf_nan=True)

    @model_validator(mode="after")
    def _ascending(self) -> "Clip":
        low, high = (-inf if self.low is None else self.low), (inf if self.high is None else self.high)
        if not low <= high:
            raise ValueError(f"low must not be above high, found {self.low} and {self.high}")
        return self


DenseTransform = Annotated[Log | Standardise | Clip, Field(discriminator="kind")]
