"""Lived days are what an episode has kept of the days that are over, read back by their types."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shardrec.data_pipeline.declared.declaration import first_problem


class _Day(BaseModel):
    """A day, as `Measures.end` tells of it."""

    model_config = ConfigDict(strict=True)

    day: int
    requests: int
    clicks: int
    click_rate: float
    diversity_shown: float
    diversity_clicked: float
    activeness: float
    returns: float
    lost: float


class LivedDays(BaseModel):
    """Lived days have a row each; cpu_seconds: what all of them took."""

    model_config = ConfigDict(strict=True)

    days: Annotated[list[_Day], Field(alias="rows", min_length=1)]
    cpu_seconds: float

    @classmethod
    def of(cls, kept: object) -> "LivedDays":
        """Returns what JSON or Parquet had. Raises ValueError, in a line, for what no episode keeps."""
        try:
            return cls.model_validate(kept)
        except ValidationError as error:
            raise ValueError(first_problem(error)) from None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Returns the days as they were kept."""
        return [day.model_dump() for day in self.days]
