"""Long curves are thinned before they are drawn: means by stretches, with the least and the largest value of each."""

from collections.abc import Sequence
from typing import NamedTuple

MOST_POINTS = 240
"""More points than this are not told apart in a picture of a few hundred pixels."""


class Thinned(NamedTuple):
    """A thinned curve has a point for each stretch, and where values vary inside of stretches their range.

    points: (x, mean of y); ranges: (x, least y, largest y) of the same stretches, none of a curve that is whole.
    """

    points: list[tuple[float, float]]
    ranges: list[tuple[float, float, float]]


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> Thinned:
    """Returns a curve of `most` points at most, by stretches of equally many; its first and last point stay.

    The ranges hold every value that was left out: a peak of one point is still to be seen.
    """
    if len(points) <= most:
        return Thinned(list(points), [])
    inner, stretches = points[1:-1], most - 2
    kept, ranges = [points[0]], [(points[0][0], points[0][1], points[0][1])]
    for k in range(stretches):
        part = inner[k * len(inner) // stretches : (k + 1) * len(inner) // stretches]
        values = [y for _, y in part]
        x = part[len(part) // 2][0]
        kept.append((x, sum(values) / len(values)))
        ranges.append((x, min(values), max(values)))
    kept.append(points[-1])
    ranges.append((points[-1][0], points[-1][1], points[-1][1]))
    return Thinned(kept, ranges)
