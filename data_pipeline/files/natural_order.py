"""Names with numbers are ordered as people order them: day_9 comes before day_10."""

import re


def natural_key(name: str) -> tuple[tuple[tuple[int, int], ...], str]:
    """Returns what names are sorted by: characters by their code, but a run of digits as one number.

    Numbers stand where digits stand among characters, so that names whose numbers are equally long are in the order of
    plain strings. Names that differ in leading zeros alone are in that order too.
    """
    zero = ord("0")
    tokens = re.findall(r"[0-9]+|[^0-9]", name, re.DOTALL)
    return tuple((zero, int(t)) if t[0] in "0123456789" else (ord(t), -1) for t in tokens), name
