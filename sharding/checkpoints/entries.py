"""Manifest entries say what is in each file of tables and id maps; they are checked before anything goes by them.

A manifest may be anybody's, or damaged: names stay inside the checkpoint, sizes agree with each other, and what is read
at once stays small.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NotRequired

import torch
from pydantic import ConfigDict, Field, ValidationError, with_config
from pydantic.type_adapter import TypeAdapter
from typing_extensions import TypedDict

from shardrec.data_pipeline.declared.declaration import first_problem
from shardrec.data_pipeline.files.relative_names import RelativeName
from shardrec.models.dynamic_ids import BucketGeometry, DynamicConfig
from shardrec.sharding.dynamic.id_map import IdCounters

CODES = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
SAVED_DTYPES = {code: dtype for dtype, code in CODES.items()}
"""The dtypes of saved tensors by their codes in safetensors headers."""

Entry = dict[str, Any]
"""A manifest entry says what is in one file: table, place of the shard, and its tensors. JSON can hold it."""

CHUNK_BYTES = 32 << 20
"""A chunk of rows has so many bytes: what is in memory beside the table, and what one checksum covers."""

WIDEST = 1 << 20  # columns of a row
Count = Annotated[int, Field(ge=0, lt=2**62)]
_STRICT = ConfigDict(strict=True, extra="allow")  # what a later version adds is its own affair


@with_config(_STRICT)
class _Tensor(TypedDict):
    dtype: Literal["F32", "F16", "I64"]
    shape: Annotated[list[Count], Field(min_length=1, max_length=2)]
    start: Count
    chunk_rows: Annotated[int, Field(gt=0, lt=2**62)]
    crc32: list[Annotated[int, Field(ge=0, lt=2**32)]]


@with_config(_STRICT)
class _File(TypedDict):
    table: str
    file: RelativeName
    row: Count
    column: Count
    num_embeddings: Annotated[int, Field(gt=0, lt=2**62)]
    tensors: Annotated[dict[Annotated[str, Field(max_length=100)], _Tensor], Field(min_length=1)]


@with_config(_STRICT)
class _TableFile(_File):
    embedding_dim: Annotated[int, Field(gt=0, le=WIDEST)]
    physical_dim: Annotated[int, Field(gt=0, le=WIDEST)]
    dtype: Annotated[str, Field(max_length=100)]
    optimizer: Annotated[str, Field(max_length=100)]
    dynamic: NotRequired[str | None]


@with_config(_STRICT)
class _IdMapFile(_File):
    kind: Literal["rows", "candidates"]


@with_config(_STRICT)
class _IdMap(TypedDict):
    config: dict[str, Any]
    counters: dict[str, Count]
    files: list[_IdMapFile]


_WEIGHTS = {"fp32": "F32", "fp16": "F16"}
_COLUMNS = {
    "rows": {"id", "count", "last_use", "admitted"},
    "candidates": {"candidate_id", "candidate_count", "candidate_last_use"},
}
_TABLES, _ID_MAPS = TypeAdapter(list[_TableFile]), TypeAdapter(dict[str, _IdMap])
_OF_THE_WHOLE = ("num_embeddings", "embedding_dim", "physical_dim", "dtype", "optimizer", "dynamic")


def file_metadata(entry: Mapping[str, Any]) -> dict[str, str]:
    """Returns what the header of an entry's file says of it."""
    if "kind" in entry:
        return {"id_map": entry["table"], "kind": entry["kind"], "row": str(entry["row"])}
    return {key: str(entry[key]) for key in ("table", "row", "column")}


def check_entries(tables: Any, id_maps: Any) -> None:
    """Raises ValueError, in one line, for entries that are not what `write_tables` and `write_id_maps` return."""
    try:
        _TABLES.validate_python(tables)
        _ID_MAPS.validate_python(id_maps)
        for name, facts in id_maps.items():
            _check_id_map(name, facts)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None
    for entry in tables:
        _check_file(entry, {"weight"})
        weight = entry["tensors"]["weight"]
        if len(weight["shape"]) != 2 or weight["dtype"] != _WEIGHTS.get(entry["dtype"], weight["dtype"]):
            raise ValueError(f"{entry['file']}: its weight is not rows of {entry['dtype']}")
    _check_alike(tables, _OF_THE_WHOLE)
    files = [entry["file"] for entry in (*tables, *(e for facts in id_maps.values() for e in facts["files"]))]
    if len(set(files)) < len(files):
        raise ValueError("two entries are of one file")
    if spaces := {entry["dynamic"] for entry in tables if entry.get("dynamic")} - id_maps.keys():
        raise ValueError(f"no id map {min(spaces)!r}, whose ids tables have")


def _check_id_map(name: str, facts: Mapping[str, Any]) -> None:
    """Raises ValueError where what is said of an id map's files contradicts itself, or its settings."""
    config = DynamicConfig.model_validate(facts["config"])
    if config.rows is None:
        raise ValueError(f"id map {name!r}: its settings name no rows")
    if unknown := facts["counters"].keys() - IdCounters.__dataclass_fields__.keys():
        raise ValueError(f"id map {name!r}: unknown counter {min(unknown)!r}")
    geometry = BucketGeometry.of(config.rows)
    row_counts = {"rows": geometry.rows}
    if config.after > 1:
        row_counts["candidates"] = geometry.scaled(config.candidates).rows
    for kind, columns in _COLUMNS.items():
        files = [entry for entry in facts["files"] if entry["kind"] == kind]
        for entry in files:
            _check_file(entry, columns)
        _check_alike(files, ("num_embeddings", "table"))
        shapes = [tensor["shape"] for entry in files for tensor in entry["tensors"].values()]
        if any(len(shape) != 1 for shape in shapes) or sum(shape[0] for shape in shapes) != (
            row_counts.get(kind, 0) * len(columns)
        ):
            raise ValueError(f"id map {name!r}: its {kind} are not those of {config.rows} rows by its settings")


def _check_file(entry: Mapping[str, Any], needed: set[str]) -> None:
    """Raises ValueError where the sizes of a file's tensors contradict each other, or the table's."""
    where, tensors = f"{entry['file']}:", entry["tensors"]
    if missing := needed - tensors.keys():
        raise ValueError(f"{where} no {min(missing)!r} in it")
    if not entry["file"].endswith(".safetensors"):
        raise ValueError(f"{where} not a safetensors file's name")
    for name, tensor in tensors.items():
        rows, width = tensor["shape"][0], math.prod(tensor["shape"][1:])
        if len({t["shape"][0] for t in tensors.values()}) > 1 or entry["row"] + rows > entry["num_embeddings"]:
            raise ValueError(f"{where} {name!r} has {rows} rows from {entry['row']}, of {entry['num_embeddings']}")
        if len(tensor["shape"]) == 2 and entry["column"] + width > entry.get("embedding_dim", 1):
            raise ValueError(f"{where} {name!r} has {width} columns from {entry['column']}")
        step = tensor["chunk_rows"]
        if len(tensor["crc32"]) != -(-rows // step):
            raise ValueError(f"{where} {name!r} has {len(tensor['crc32'])} checksums for {rows} rows, {step} a chunk")
        if step > 1 and step * width * SAVED_DTYPES[tensor["dtype"]].itemsize > CHUNK_BYTES:
            raise ValueError(f"{where} {name!r} has chunks of {step} rows, more than {CHUNK_BYTES >> 20} MiB")


def _check_alike(entries: Iterable[Mapping[str, Any]], keys: Iterable[str]) -> None:
    """Raises ValueError where two files of one table differ in what they say of the whole of it."""
    first: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        known = first.setdefault(entry["table"], entry)
        for key in keys:
            if known.get(key) != entry.get(key):
                raise ValueError(f"{known['file']} and {entry['file']} have another {key} of one table")
        described = [{n: (t["dtype"], len(t["shape"])) for n, t in e["tensors"].items()} for e in (known, entry)]
        if described[0] != described[1]:
            raise ValueError(f"{known['file']} and {entry['file']} hold other tensors of one table")
