"""A section is one part of a run file: nothing in it is unknown, and nothing in it changes."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of the run file is immutable, and unknown keys in it are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)
