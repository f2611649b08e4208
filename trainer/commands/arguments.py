"""Arguments of a command are checked before it sees them, for what is wrong with those of any command."""

from collections.abc import Sequence
from itertools import pairwise

from shardrec.data_pipeline.errors import UserError, in_quotes


def check_arguments(arguments: Sequence[str]) -> None:
    """Raises UserError for an empty one, as `"$DATA"` is where DATA is not set: as a path it is the current folder."""
    for before, argument in pairwise(("shardrec", *arguments)):
        name, equals, value = argument.partition("=")
        if argument == "" or (name.startswith("--") and equals and not value):
            where = name or (before if before.startswith("-") else f"the argument after {in_quotes(before)}")
            raise UserError(f"{where}: found nothing in it, expected a value; give one, or leave it out")
