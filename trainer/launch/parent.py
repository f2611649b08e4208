"""A process that works for another one ends when that one is gone: after a kill nobody works on in its folders."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Ends this process, which `multiprocessing` started, as soon as the one that started it has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, name="parent", daemon=True).start()
