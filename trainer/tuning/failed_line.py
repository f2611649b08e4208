"""A trial that fails costs the search one line."""

from pathlib import Path

from shardrec.data_pipeline.errors import UserError


def failed_line(error: BaseException, folder: Path) -> str:
    """Returns what ended a trial: a user error's own line, else the error and where the log is."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    logs = sorted(folder.glob("**/logs/**/driver.log"), key=lambda log: log.stat().st_mtime)
    return f"{type(error).__name__}: {text}" + (f"; see {logs[-1]}" if logs else "")
