"""What failed over a network is tried again, after pauses that double: stores are away for a moment every day.

Each try is pyarrow's, which itself makes up to three requests of S3 where one fails.
"""

import random
import re
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

from shardrec.data_pipeline.errors import UserError

T = TypeVar("T")

ATTEMPTS = 6
FIRST_PAUSE = 1.0
"""Seconds after the first try; all pauses together are about half a minute."""

_REFUSED = re.compile(
    "ACCESS_DENIED|HTTP status 40[13]|INVALID_ACCESS_KEY|SIGNATURE|EXPIRED|UNRECOGNIZED_CLIENT|INVALID_CLIENT_TOKEN"
    "|NOT_SIGNED_UP|MISSING_AUTHENTICATION|permission denied",
    re.IGNORECASE,
)
_AWAY = re.compile("AWS Error|curl|google::|gRPC|hdfs|connection|timed? ?out", re.IGNORECASE)
_NOT_THERE = re.compile("NO_SUCH_BUCKET|Bucket .* not found")


class StoreError(UserError):
    """A store did not do what it was asked for, however often; or it will not."""


def is_away(error: BaseException) -> bool:
    """Says whether it is the store that failed, and not what was read of it that is damaged."""
    return isinstance(error, OSError) and not isinstance(error, FileNotFoundError) and bool(_AWAY.search(str(error)))


def tried(work: Callable[[], T], what: str, again: Callable[[OSError], bool] = lambda error: True) -> T:
    """Returns what `work` does, tried again where it fails by an OSError.

    what: what is done and to which file, for the error line. again: which errors are the store's; others, and
    FileNotFoundError, pass through. Raises StoreError where the store refuses the credentials, has no such bucket, or
    fails each time.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return work()
        except FileNotFoundError:
            raise
        except OSError as error:
            if not again(error):
                raise
            check_worth_another(error, what, attempt)
        pause(attempt)
    raise AssertionError


def gone_on_with(
    items: Callable[[int], Iterator[T]], size: Callable[[T], int], what: Callable[[int], str]
) -> Iterator[T]:
    """Yields what `items(0)` does; where a store fails, what `items(n)` does, n the sizes of all that was yielded.

    what: what is read there, for the error line. Nothing that was yielded is held on to. Raises StoreError as `tried`.
    """
    done = attempt = 0
    while True:
        left = items(done)
        try:
            while taken := list(islice(left, 1)):
                done, attempt = done + size(taken[0]), 0
                yield taken.pop()
            return
        except OSError as error:
            if not is_away(error):
                raise
            attempt += 1
            check_worth_another(error, what(done), attempt)
        pause(attempt)


def check_worth_another(error: OSError, what: str, attempt: int) -> None:
    """Returns where another try may go well. Raises StoreError where it will not, or `attempt` was the last."""
    cause = " ".join(str(error).split()).rstrip(":. ")
    if _REFUSED.search(cause):
        raise StoreError(f"{what}: refused ({cause}); check the credentials, then go on") from error
    if _NOT_THERE.search(cause):
        raise StoreError(f"{what}: no such bucket ({cause}); make it, or name another") from error
    if attempt >= ATTEMPTS:
        raise StoreError(
            f"{what}: failed {attempt} times, the last time by: {cause}; go on once the store is there"
        ) from error


def pause(attempt: int) -> None:
    """Waits after a try that failed, with chance in it, so that many workers do not come back at once."""
    time.sleep(FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
