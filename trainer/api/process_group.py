"""Models that are open in a process share one process group, which is there as long as any of them uses it."""

import torch.distributed as dist

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.launch.environment import Environment


class SharedGroup:
    """A shared group counts who uses the process's group of one, and ends it after the last, if it made it."""

    def __init__(self) -> None:
        self._users = 0
        self._is_ours = False

    def join(self, environment: Environment, timeout: float) -> None:
        """Adds a user. Raises UserError in one of several processes, whose group is for all of them."""
        if dist.is_initialized() and dist.get_world_size() > 1:
            raise UserError(
                f"open: this process is one of {dist.get_world_size()} in a process group, and a model is opened in "
                "one alone; score with `shardrec predict`, which runs on all of them"
            )
        self._is_ours = self._is_ours or not dist.is_initialized()
        environment.join(timeout)
        self._users += 1

    def leave(self) -> None:
        """Takes a user away."""
        self._users -= 1
        if self._users == 0 and self._is_ours:
            self._is_ours = False
            if dist.is_initialized():
                dist.destroy_process_group()


GROUP = SharedGroup()
"""The one of this process."""
