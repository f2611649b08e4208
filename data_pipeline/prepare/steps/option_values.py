"""The words and numbers that options of importers may be, with their defaults: all that a command's help needs."""

from typing import Literal

Axis = Literal["item", "user"]
"""What a row of lists of ratings is about."""

Sampling = Literal["uniform", "popular"]
"""How items of negatives are drawn: all alike, or as often as they occur."""

CriteoNumbers = Literal["dense", "bucketize"]
"""What becomes of Criteo's integers: numbers of log x, or ids of buckets."""

TimeType = Literal["integer", "number", "string"]
"""How the times of a log are compared."""

ROW_GROUP_ROWS = 65_536
RATINGS_ROW_GROUP_ROWS = 1024  # rows are lists of hundreds of ratings
FILE_ROWS = 16 * ROW_GROUP_ROWS

FIELD_IDS = (200_000, 50_000, 10_000, 2_000, 500, 200, 100, 50)  # as in real logs, a few large fields and many small
"""Ids of each field of a synthetic log."""
