"""Numbers as people read them, and the round ticks of an axis."""

import math
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeGuard

SMALL = 1e-3
"""Ticks of smaller numbers are written with an exponent."""
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
DASH, SPACE = "\u2013", "\u00a0"
"""What stands for no number; and between a number and its unit, where no line is to break."""


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Returns about `count` multiples of 1, 2 or 5 times a power of ten that lie between `low` and `high`."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda size: abs(math.log(size / raw)))
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Returns the ticks' labels, all in the one unit and with as many decimals as tell them apart."""
    largest = max(map(abs, values), default=0.0)
    if 0 < largest < SMALL:
        return [f"{value:.3g}" if abs(value) > 1e-9 * largest else "0" for value in values]
    divisor, unit = next(((d, u) for d, u in _UNITS if largest >= 10 * d or (largest >= d and d > 1e3)), (1.0, ""))
    scaled = [value / divisor for value in values]
    step = min((b - a for a, b in pairwise(scaled)), default=abs(scaled[0]) if scaled else 1)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    zero = f"{0:.{min(decimals, 8)}f}" if not unit else "0"
    return [zero if abs(v) < step / 1e6 else f"{v:,.{min(decimals, 8)}f}{unit}" for v in scaled]


def number(value: object, digits: int = 4) -> str:
    """Returns a number with so many decimals, or significant digits where it is small; a dash for what is none."""
    if not is_number(value):
        return DASH
    if float(value).is_integer() and abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 1000:
        return f"{value:,.1f}"
    if value and abs(value) < 10.0 ** -(digits - 1):
        return f"{value:.3g}"
    return f"{value:.{digits}f}"


def count(value: object) -> str:
    """Returns a whole number with separators; a dash for what is none."""
    return f"{value:,.0f}" if is_number(value) else DASH


def short(value: object) -> str:
    """Returns a number in three digits: `12.3k`, `1.02M`; a dash for what is none."""
    if not is_number(value):
        return DASH
    divisor, unit = next(((d, u) for d, u in _UNITS if abs(value) >= d), (1.0, ""))
    scaled = value / divisor
    decimals = 0 if unit == "" and float(value).is_integer() else max(0, 2 - int(math.log10(max(1.0, abs(scaled)))))
    return f"{scaled:,.{decimals}f}{unit}"


def duration(seconds: object) -> str:
    """Returns a time span: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 05 min`, `3 d 04 h`."""
    if not is_number(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.1f}{SPACE}s" if seconds < 10 else f"{seconds:.0f}{SPACE}s"
    whole = int(seconds + 0.5)
    for size, unit, part, name in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return SPACE.join((str(whole // size), unit, f"{whole % size // part:02d}", name))
    return f"{whole}{SPACE}s"


def is_number(value: object) -> TypeGuard[float]:
    """Says whether a value of a file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
