"""One exception is shown to users as a line instead of a traceback; what the line shows of a value is bounded."""

import reprlib


class UserError(ValueError):
    """A user's error says in one line what was found, what was expected and what to do; the command then exits with 1.

    Anything that a user can cause (run files, data, paths, flags) raises this; a bug of ours raises anything else.
    """

    exit_status = 1


class LoggedError(UserError):
    """The line of an error names a log with more about it, which has to stay."""


class ResumableError(UserError):
    """A training was told to end, and has left what to go on from: schedulers know the status for one to try again."""

    exit_status = 75


def shortened(value: object, length: int = 80) -> str:
    """Returns what an error line shows of a value: text as it is, anything else as Python writes it, on one line.

    Of more than `length` characters it is the beginning (of text, with how many there are). What cannot be printed is
    escaped.
    """
    text = value if isinstance(value, str) else _Beginning(length).repr(value)
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:length])
    if len(text) <= length:
        return shown
    return f"{shown}... ({len(text):,} characters)" if text is value else f"{shown}..."


def cut_at_a_word(text: str, length: int) -> str:
    """Returns a sentence as it is or, where it has more than `length` characters, its first words and `...`."""
    if len(text) <= length:
        return text
    return (text[:length].rpartition(" ")[0] or text[:length]) + " ..."


class _Beginning(reprlib.Repr):
    """Only the beginning of what Python writes for a value is made, however large the value is."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 2 * length
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = length

    def repr_int(self, x: int, level: int) -> str:
        """Returns the number, or its size: Python itself refuses to write one of thousands of digits."""
        return repr(x) if x.bit_length() < 4 * self.maxlong else f"an integer of {x.bit_length()} bits"

    def repr_bytes(self, x: bytes, level: int) -> str:
        """Returns the first bytes."""
        return repr(x[: self.maxstring])


def installed_by(extra: str) -> str:
    """Returns what an error line says of packages that few commands need, by the name under which setup.py has them."""
    return f"in a clone of shardrec, pip install '.[{extra}]'"


def in_quotes(value: object) -> str:
    """Returns what an error line shows of a value, text as Python writes it: in quotes, and in one line."""
    return shortened(repr(value) if isinstance(value, str) else value)


def printable(name: str) -> str:
    """Returns a name as lines of text show it: as it is, or in quotes where it would break the line or not be seen."""
    return name if name.isprintable() and name.strip() == name != "" else repr(name)
