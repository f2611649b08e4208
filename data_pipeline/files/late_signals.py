"""A signal whose handler raises comes late where it would be raised out of an import.

Python may keep the locks of its imports then, so that a later import waits for ever, and compiled code that imports
(pyarrow does so with pandas) forgets the error.
"""

import os
import threading
from types import FrameType

AGAIN_AFTER = 0.05  # seconds


def comes_late(number: int, frame: FrameType | None) -> bool:
    """Returns whether a signal must not be raised at a frame; it is then sent to this process again, a little later."""
    if not _is_importing(frame):
        return False
    again = threading.Timer(AGAIN_AFTER, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()
    return True


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
