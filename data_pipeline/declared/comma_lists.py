"""Lists that are written as one word with commas, as options of commands take them."""

from collections.abc import Callable
from typing import TypeVar

N = TypeVar("N", int, float)


def names_in(text: str) -> list[str]:
    """Returns the names of `din, deepfm`, without blanks around them; empty ones are passed over."""
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers_in(text: str, kind: Callable[[str], N]) -> list[N]:
    """Returns the numbers of `0.8,0.1,0.1`, each made by `kind`. Raises ValueError where one of them is no number."""
    return [kind(number) for number in text.split(",")]
