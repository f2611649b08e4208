"""A manifest says what a checkpoint holds and how far its run had come; it is checked before anything goes by it.

It is written last, with a checksum of itself and of every file. A folder without one is no checkpoint.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, ValidationError

from shardrec.data_pipeline.declared.declaration import first_problem
from shardrec.data_pipeline.errors import UserError, in_quotes
from shardrec.data_pipeline.files.file_errors import about
from shardrec.data_pipeline.stores.location import Location, StorePath
from shardrec.sharding.checkpoints.entries import check_entries
from shardrec.trainer.checkpoints.position import Position

FORMAT = 1
MANIFEST = "manifest.json"
TOWER_FILE = "tower.safetensors"
LARGEST = 1 << 30  # bytes: some 200,000 tables of 10 billion rows each


class LaterVersionError(UserError):
    """The error of a checkpoint that holds what this version does not know of: it is whole for another one."""


class _File(BaseModel):
    model_config = ConfigDict(strict=True)

    bytes: Annotated[int, Field(ge=0, lt=2**62)]
    crc32: Annotated[int, Field(ge=0, lt=2**32)]


class _Content(BaseModel):
    """The content of a manifest; its entries are checked by who reads such files (`check_entries`)."""

    format: int
    world_size: Annotated[int, Field(gt=0, le=2**20)]
    device: str
    position: Position
    order: dict[str, Any]
    tables: list[Any]
    id_maps: dict[str, Any] = {}
    tower: _File
    generators: list[Base64Bytes]


def read_manifest(checkpoint: Location) -> dict[str, Any]:
    """Returns the checked content of a checkpoint's manifest.

    Raises UserError where it is missing or damaged, of another format, or not what a checkpoint's says.
    """
    path = checkpoint / MANIFEST
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise UserError(f"{path}: {size:,} bytes, where {LARGEST:,} are the most; is it a manifest?")
        document = json.loads(path.read_bytes())
        content = document["content"]
        damaged = zlib.crc32(_canonical(content)) != document["crc32"]
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {checkpoint.name} is not a complete checkpoint") from None
    except (ValueError, KeyError, TypeError, RecursionError):  # whatever bytes do not hold JSON of this form
        damaged = True
    if damaged:
        raise UserError(f"{path}: damaged (its checksum differs); delete {checkpoint} to go on from an earlier one")
    _check(path, content)
    return content


def _check(path: Location, content: Any) -> None:
    """Raises UserError where a manifest, whole as it is, is not that of a checkpoint, or is of a later version."""
    if isinstance(content, dict) and content.get("format") != FORMAT:
        raise _later(path, f"format {content.get('format')}, this version reads {FORMAT}")
    try:
        checked = _Content.model_validate(content)
        if len(checked.generators) != checked.world_size:
            raise ValueError(f"{len(checked.generators)} generators of {checked.world_size} workers")
        if missing := {"step", "epoch", "step_in_epoch", "rows"} - content["position"].keys():
            raise ValueError(f"position: no {min(missing)!r} in it")
        if unknown := content["position"].keys() - Position.__dataclass_fields__.keys():
            raise _later(path, f"position: {in_quotes(min(unknown))} is known to no version up to this one")
        check_entries(content["tables"], content.get("id_maps", {}))
    except LaterVersionError:
        raise
    except ValidationError as error:
        problem = first_problem(error)
    except ValueError as error:
        problem = str(error)
    else:
        return
    raise UserError(
        f"{path}: not a checkpoint's manifest: {problem}; restore it from a copy, or use another checkpoint"
    )


def _later(path: Location, what: str) -> LaterVersionError:
    return LaterVersionError(f"{path}: {what}; go on with the version that wrote it, or from an earlier step (--step)")


def fingerprint(content: Mapping[str, Any]) -> str:
    """Returns what tells a checkpoint from every other one, also of the same step: its content has all checksums."""
    return hashlib.sha256(_canonical(content)).hexdigest()[:16]


def write_manifest(path: Location, content: Mapping[str, Any]) -> None:
    """Writes a manifest with its own checksum, which is on disk, or in its store, when this returns."""
    document = {"crc32": zlib.crc32(_canonical(content)), "content": content}
    data = json.dumps(document).encode()  # `json.dump` encodes in Python, ten times as slow
    if isinstance(path, StorePath):
        path.write_bytes(data)
        return
    with about(path), path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def file_entry(data: bytes) -> dict[str, int]:
    """Returns what the manifest says of a file: its size and checksum."""
    return {"bytes": len(data), "crc32": zlib.crc32(data)}


def file_names(content: Mapping[str, Any]) -> list[str]:
    """Returns the files of a checkpoint, relative to its folder, by its manifest's content; not the manifest itself."""
    of_maps = (entry for id_map in content.get("id_maps", {}).values() for entry in id_map["files"])
    return [*(entry["file"] for entry in (*content["tables"], *of_maps)), TOWER_FILE]


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
