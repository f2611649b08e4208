"""One function is applied to several input files: in this process, or on local Ray workers with the same results."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

from shardrec.data_pipeline.local_ray import local_ray

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Workers are `number` processes for as long as the context lasts.

    One is this process. More are a Ray of our own on this machine (or the one that this process is connected to).
    """

    def __init__(self, number: int = 1) -> None:
        self._number = number
        self._ray = ExitStack()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ray.close()

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yields function(item) for all items, in their order. What the function raises is raised here."""
        if min(self._number, len(items)) <= 1:
            yield from map(function, items)
        else:
            yield from self._on_ray(function, items)

    def _on_ray(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        import ray  # starting without it is much faster, and one worker does not need it

        if not ray.is_initialized():
            self._ray.enter_context(local_ray(self._number, logging_level=logging.ERROR))

        def work(item: Any) -> Any:
            return function(item)

        remote = ray.remote(num_cpus=1, max_retries=0)(work)
        waiting = [remote.remote(item) for item in items]
        try:
            while waiting:
                yield ray.get(waiting.pop(0))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
