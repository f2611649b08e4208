"""An iterator is made to run ahead in a background thread."""

import threading
from collections import deque
from collections.abc import Generator, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


def prefetched(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Yields `items`, made up to `depth` ahead by a thread of their own (depth 0: none is started).

    What `items` raises is raised here, at its place in the order. Closing this generator, or dropping it, stops the
    thread and waits for it.
    """
    if depth < 1:
        yield from items
        return
    ahead = _Ahead(items, depth)
    thread = threading.Thread(target=ahead.run, name="shardrec-prefetch", daemon=True)
    thread.start()
    try:
        while (item := ahead.next()) is not None:
            yield item[0]
    finally:
        ahead.stop()
        if thread is not threading.current_thread():  # in which the garbage collector may come upon what was dropped
            thread.join()


class _Ahead(Generic[T]):
    """This is what the two threads share; every change is made and announced under `_changed`."""

    def __init__(self, items: Iterable[T], depth: int) -> None:
        self._items = items
        self._depth = depth
        self._changed = threading.Condition()
        self._ready: deque[tuple[T]] = deque()
        self._done = self._stopped = False
        self._error: BaseException | None = None

    def run(self) -> None:
        """Does the background thread's work."""
        try:
            for item in self._items:
                with self._changed:
                    self._ready.append((item,))
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: len(self._ready) < self._depth or self._stopped)
                    if self._stopped:
                        return
                del item  # else it would live until the next one is made
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._done = True
                self._changed.notify_all()

    def next(self) -> tuple[T] | None:
        """Returns the next item, or None at the end. Raises what the thread raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._done)
            if self._ready:
                item = self._ready.popleft()
                self._changed.notify_all()
                return item
        if self._error is not None:
            raise self._error
        return None

    def stop(self) -> None:
        """Makes the thread end after the item that it is making."""
        with self._changed:
            self._stopped = True
            self._ready.clear()
            self._changed.notify_all()
