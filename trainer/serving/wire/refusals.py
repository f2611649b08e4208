"""A refusal is what a client is told instead of an answer: a status and one line, with row and field at fault."""

from typing import Any


class Refusal(Exception):  # noqa: N818 (an answer, no error of ours)
    """A refusal ends the handling of one request, and of that request alone.

    status: of HTTP. line: what was found, what was expected. row, field: where, if it is about one. retry: the request
    may be sent again after some seconds.
    """

    def __init__(
        self, status: int, line: str, *, row: int | None = None, field: str | None = None, retry: bool = False
    ) -> None:
        super().__init__(line)
        self.status, self.line, self.row, self.field, self.retry = status, line, row, field, retry

    def content(self) -> dict[str, Any]:
        """Returns the body of the answer."""
        where = {"row": self.row, "field": self.field}
        return {"error": self.line} | {key: value for key, value in where.items() if value is not None}


def malformed(line: str, *, row: int | None = None, field: str | None = None) -> Refusal:
    """Returns the refusal of a body that is not what the endpoint reads."""
    return Refusal(400, line, row=row, field=field)


def wrong(line: str, *, row: int | None = None, field: str | None = None) -> Refusal:
    """Returns the refusal of values that the bundle cannot score."""
    return Refusal(422, line, row=row, field=field)


def busy(line: str) -> Refusal:
    """Returns the refusal of a request that may be sent again soon."""
    return Refusal(503, line, retry=True)
