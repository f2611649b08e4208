"""Records are the lines of metrics.jsonl, one for each recorded step or evaluation of a run."""

import json
import time
from pathlib import Path
from typing import Any

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.file_errors import about
from shardrec.data_pipeline.files.owned_files import not_through_links


def append_record(path: Path, kind: str, step: int, values: dict[str, Any]) -> None:
    """Appends one record."""
    line = json.dumps({"kind": kind, "step": step, "time": round(time.time(), 3), **values})
    with about(path), open(path, "a", opener=not_through_links) as file:
        file.write(line + "\n")


def read_records(path: Path) -> list[dict[str, Any]]:
    """Returns all complete records, none where there is no file. Raises UserError for a line that is no record."""
    if not path.exists():
        return []
    records = []
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        if (record := _record(line)) is not None:
            records.append(record)
        elif number < len(lines):  # a kill can cut the last line short
            raise UserError(f"{path}: line {number} is not a record (JSON with kind, step); remove it")
    return records


def _record(line: bytes) -> dict[str, Any] | None:
    """Returns what a line says; None where it is no record."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int or not isinstance(record.get("kind"), str):
        return None
    return record
