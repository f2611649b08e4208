"""What a command leaves has to outlast it, which the folder that Ray unpacks a job's files into does not."""

import re
from pathlib import Path

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.stores.mirrors import address, mirrored

_OF_A_SESSION = re.compile(r"/session_[^/]+/runtime_resources/working_dir_files(/|$)")


def check_on_disk(key: str, path: Path) -> None:
    """Raises UserError where what the user gave as `key` is in a store, for commands that go on with files alone."""
    if mirrored(path) is not None:
        raise UserError(f"{key}: {address(path)} is in a store, where this command does not work; name a folder")


def check_lasting(key: str, path: Path) -> None:
    """Raises UserError where `path`, which the user gave as `key`, is gone with the Ray session that the job runs in.

    `ray job submit --working-dir .` starts a command in such a folder, so that any relative path lies there.
    """
    if _OF_A_SESSION.search(path.absolute().as_posix()):
        raise UserError(
            f"{key}: {path} lies in the folder that Ray unpacks a job's working directory into, and is gone with Ray's "
            "session; name an absolute path, on storage that all nodes share"
        )
