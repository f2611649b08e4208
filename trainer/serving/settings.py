"""Settings of a service: where it listens, how many processes it has, and what it refuses."""

import json
import os
from dataclasses import asdict, dataclass
from typing import Self

from shardrec.data_pipeline.errors import UserError

MANIFEST = "bundle.json"

MEBIBYTE = 1 << 20


def check_folder(path: str) -> None:
    """Raises UserError where there is no bundle at `path`."""
    if not os.path.isfile(os.path.join(path, MANIFEST)):
        found = f"there is no {MANIFEST} in it" if os.path.isdir(path) else "no such folder"
        raise UserError(f"{path}: {found}, expected a bundle, which `shardrec export` makes")


@dataclass(frozen=True)
class Settings:
    """Settings go to each worker process as one argument, in JSON.

    bundle: the folder, or a link to it, as it was given. max_batch: rows that are scored together; max_rows: rows of
    one request; max_body: bytes of one request's body; max_concurrency: requests that one worker has in hand;
    timeout: seconds until a request is answered, with its score or with 503; drain: seconds that open connections
    have for a last request when the service ends; watch: seconds between looks at where `bundle` leads, 0 for none;
    allow_changes: a reload may change the columns and outputs that clients rely on.
    """

    bundle: str
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    threads: int = 1
    max_batch: int = 1024
    batch_wait: float = 0.0
    max_rows: int = 10_000
    max_body: int = 8 * MEBIBYTE
    max_concurrency: int = 256
    timeout: float = 10.0
    drain: float = 1.0
    watch: float = 0.0
    allow_changes: bool = False
    access_log: bool = False

    def to_json(self) -> str:
        """Returns the settings as text for `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Returns the settings that `to_json` wrote."""
        return cls(**json.loads(text))
