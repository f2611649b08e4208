"""A feature's `ids` declares how its column's values become table rows; `ids.py` does it.

Crosses of features, which are made of such declarations, are in `feature_kinds.py`.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from shardrec.data_pipeline.declared.declaration import Declaration, Name
from shardrec.data_pipeline.files.relative_names import RelativeName


class Hash(Declaration):
    """A hash gives row XXH64 modulo `num_ids`, of a string's UTF-8 bytes or of an integer's 8 little-endian bytes."""

    kind: Literal["hash"] = "hash"
    num_ids: int = Field(gt=0, lt=2**63)
    seed: int = Field(default=0, ge=0, lt=2**64)

    @property
    def num_rows(self) -> int:
        """Returns how many rows there may be."""
        return self.num_ids


class Raw(Declaration):
    """Raw ids are the values: integers (unsigned ones by their bits), or a string's XXH64 (seed 0) as a signed integer.

    For tables with `dynamic`, which give rows to any 64-bit ids. A missing value is the id `MISSING`. Prepared rows
    hold integers; `prepared_column` is then the column that raw rows have.
    """

    kind: Literal["raw"] = "raw"
    prepared_column: Name | None = None

    @property
    def num_rows(self) -> int:
        """Returns how many ids there may be."""
        return 2**64


MISSING = -(2**63)


class Vocabulary(Declaration):
    """A vocabulary is a file of known values: the i-th (from 0) has row i + 1, and a value outside it row 0.

    `path` names a Parquet file with one column `value`, relative to the folder of the schema.
    """

    kind: Literal["vocabulary"] = "vocabulary"
    path: RelativeName
    size: int = Field(ge=0, lt=2**63, description="number of values in the file")

    @property
    def num_rows(self) -> int:
        """Returns how many rows there are, that of unknown values included."""
        return self.size + 1


class Bucketize(Declaration):
    """Buckets give row i to values in [boundaries[i - 1], boundaries[i]), which makes len(boundaries) + 1 rows."""

    kind: Literal["bucketize"] = "bucketize"
    boundaries: tuple[float, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ascending(self) -> "Bucketize":
        if any(a >= b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise ValueError("boundaries must ascend strictly")
        return self

    @property
    def num_rows(self) -> int:
        """Returns the number of buckets."""
        return len(self.boundaries) + 1


class Cross(Declaration):
    """A cross gives row XXH64 (with `seed`) over the 8-byte XXH64 (seed 0) of several columns, modulo `num_ids`.

    A cross-product transformation; each column is hashed as by `Hash`, the digests lie little-endian in their order.
    """

    kind: Literal["cross"] = "cross"
    columns: tuple[Name, ...] = Field(min_length=2, max_length=256)
    num_ids: int = Field(gt=0, lt=2**63)
    seed: int = Field(default=0, ge=0, lt=2**64)

    @property
    def num_rows(self) -> int:
        """Returns how many rows there may be."""
        return self.num_ids


PreparedBy = Annotated[Hash | Vocabulary | Bucketize | Cross, Field(discriminator="kind")]


class Identity(Declaration):
    """The column holds table rows already, integers in [0, num_ids); anything else is an error.

    `Schema.raw` needs both to serve raw rows. One row more than `prepared` makes is that of missing values, the last.
    """

    kind: Literal["identity"] = "identity"
    num_ids: int = Field(gt=0, lt=2**63)
    prepared: PreparedBy | None = None
    prepared_column: Name | None = None

    @model_validator(mode="after")
    def _enough_rows(self) -> "Identity":
        if self.prepared is not None and self.num_ids - self.prepared.num_rows not in (0, 1):
            raise ValueError(f"num_ids is {self.num_ids}, but `prepared` makes {self.prepared.num_rows} rows")
        return self

    @property
    def num_rows(self) -> int:
        """Returns how many rows there are."""
        return self.num_ids
