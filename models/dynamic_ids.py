"""Tables for unbounded ids are declared by how many rows they have, which ids get one, and which lose theirs.

A table's rows are dealt to its ids by buckets (`sharding/dynamic/`), so that `rows` is rounded up to whole ones. That
is done where tables are declared: a table then has as many rows as it says, for all who read, place or save them.
"""

from dataclasses import dataclass, replace
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

WAYS = 32
"""The rows of a set. A million rows evict from a fill of 91 % on; with 16 ways it is 84 %, and finding takes 0.8 of the
time."""

FEW_WAYS = 8  # of tables under FEWEST_BUCKETS * WAYS rows

BUCKET_ROWS = 4096
"""The rows of a bucket, in tables that have enough: fewer fill buckets too unequally, more leave too few to deal."""

FEWEST_BUCKETS, MOST_BUCKETS = 16, 1024


@dataclass(frozen=True)
class BucketGeometry:
    """A table has `buckets` >= 2 buckets of `bucket_sets` sets of `ways` rows, a multiple of 8."""

    buckets: int
    bucket_sets: int
    ways: int

    @classmethod
    def of(cls, rows: int) -> Self:
        """Returns the geometry of at least `rows` rows, a function of their number alone.

        Up to 1 % more from 50,000 rows on, 0.4 % from a million; of fewer, less than 16 sets more.
        """
        ways = WAYS if rows >= FEWEST_BUCKETS * WAYS else FEW_WAYS
        sets = max(2, -(-rows // ways))
        buckets = min(MOST_BUCKETS, max(rows // BUCKET_ROWS, FEWEST_BUCKETS), sets)
        bucket_sets = -(-sets // buckets)
        return cls(-(-sets // bucket_sets), bucket_sets, ways)

    def scaled(self, factor: float) -> Self:
        """Returns as many buckets and sets, of `factor` times as many ways: an id has the same sets in both."""
        return replace(self, ways=8 * max(1, round(self.ways * factor / 8)))

    @property
    def bucket_rows(self) -> int:
        """Returns how many rows a bucket has."""
        return self.bucket_sets * self.ways

    @property
    def rows(self) -> int:
        """Returns how many rows all buckets have."""
        return self.buckets * self.bucket_rows


class DynamicConfig(BaseModel):
    """A dynamic table's settings say which ids get a row, and whose row is taken for them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rows: int | None = Field(
        default=None,
        gt=0,
        lt=2**40,
        description="ids that have a row at a time, rounded up to whole buckets (by less than 1 % of 50,000); default: "
        "as many as the schema declares ids",
    )
    after: int = Field(
        default=1,
        ge=1,
        lt=2**31,
        description="an id gets a row in the step in which it has occurred so often; 1: at once",
    )
    probability: float | None = Field(
        default=None, gt=0, le=1, description="instead of `after`: each occurrence gets its id a row with this chance"
    )
    candidates: float = Field(
        default=1.0,
        gt=0,
        le=7,
        description="with `after`: ids counted that have no row yet, for each row; rounded to quarters",
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
        if self.after == 1 and self.candidates != 1:
            raise ValueError(
                f"candidates is {self.candidates:g}, but without `after` nobody waits for a row; leave it out, or set "
                "after to 2 or more"
            )
        if self.evict == "age" and self.age is None:
            raise ValueError("evict: age needs `age`, the number of steps after which an unused row may be taken")
        if self.evict == "lru" and self.age is not None:
            raise ValueError(f"age is {self.age}, but evict: lru takes the row unused for longest anyway; leave it out")
        return self


@dataclass(frozen=True)
class DynamicIds:
    """An id space is the ids that share rows: those of all features that read tables called after `name`.

    Tables that the same feature reads (Wide&Deep's `wide/` and `deep/`) share them too, and must agree on `config`,
    whose `rows` are given.
    """

    name: str
    config: DynamicConfig

    @property
    def geometry(self) -> BucketGeometry:
        """Returns how the rows that ids may have are grouped."""
        assert self.config.rows is not None
        return BucketGeometry.of(self.config.rows)

    @property
    def default_row(self) -> int:
        """Returns the row, a table's last one, of all ids that have none of their own."""
        return self.geometry.rows

    @property
    def num_embeddings(self) -> int:
        """Returns the number of rows of a table: those that ids may have, and the default row."""
        return self.geometry.rows + 1
