"""What a run file says of a table for unbounded ids: how many rows, which ids get one, which lose theirs."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class DynamicConfig(BaseModel):
    """Admission and eviction of the ids of one table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int = Field(
        gt=0, description="ids that have a row at a time, rounded up to whole buckets (by less than 1 % of 50,000)"
    )
    after: int = Field(
        default=1, ge=1, description="an id gets a row in the step in which it has occurred so often; 1: at once"
    )
    probability: float | None = Field(
        default=None, gt=0, le=1, description="instead of `after`: each occurrence gets its id a row with this chance"
    )
    candidates: float = Field(
        default=1.0, gt=0, le=7, description="with `after`: ids counted that have no row yet, for each row"
    )
    evict: Literal["lfu", "lru", "age"] = Field(
        default="lfu",
        description="which id makes room where all rows are taken: the least frequent one, the one unused for longest, "
        "or only one that is unused for `age` steps",
    )
    age: int | None = Field(
        default=None,
        ge=1,
        lt=2**31,
        description="steps without an occurrence after which a row may be taken: by `lfu` before any other, by `age` "
        "alone",
    )

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        """Raises ValueError for settings that exclude or need each other."""
        if self.probability is not None and self.after > 1:
            raise ValueError(
                f"after is {self.after} and probability {self.probability}, but ids are admitted by count or by "
                f"chance; leave one out"
            )
        if self.evict == "age" and self.age is None:
            raise ValueError("evict: age needs `age`, the number of steps after which an unused row may be taken")
        if self.evict == "lru" and self.age is not None:
            raise ValueError(f"age is {self.age}, but evict: lru takes the row unused for longest anyway; leave it out")
        return self
