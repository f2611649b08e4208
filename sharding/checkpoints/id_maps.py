"""Id maps to and from files: the rows of each rank's buckets as int64 columns, beside the files of the tables.

A map's file is like a table's shard, in chunks with checksums, and whoever reads takes the rows of its own buckets out
of any ranks' files. Counters are sums over the ranks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.whole_files import sync
from shardrec.models.dynamic_ids import DynamicConfig, DynamicIds
from shardrec.sharding.checkpoints.saved_tables import SavedRows
from shardrec.sharding.checkpoints.shard_files import Entry, Scratch, fill_rectangle, write_file
from shardrec.sharding.dynamic.id_map import IdCounters, IdMap

Saved = dict[str, dict[str, Any]]
"""By id space: `config` (a DynamicConfig), `counters`, and the `files`' entries of `rows` and `candidates`."""

_FOLDER = "id_maps"
_REMEDY = "use the settings it was made with, or another run folder"


def write_id_maps(folder: Path, maps: Mapping[str, IdMap]) -> Saved:
    """Writes this rank's buckets to new files under `folder/id_maps`; returns what a manifest says of them."""
    if not maps:
        return {}
    inside = folder / _FOLDER
    inside.mkdir(parents=True, exist_ok=True)
    found = {name: _write_map(inside, name, held) for name, held in maps.items()}
    sync(inside)
    return found


def _write_map(inside: Path, name: str, held: IdMap) -> dict[str, Any]:
    parts = {"rows": (held.row_state, held.first_row, held.geometry.rows)}
    if held.candidate_state:
        parts["candidates"] = (held.candidate_state, held.first_candidate, held.candidate_rows)
    files: list[Entry] = []
    for kind, (tensors, first, rows) in parts.items():
        if not held.buckets:
            continue
        path = inside / f"{quote(name, safe='')}.{kind}.r{first}.safetensors"
        described = write_file(path, tensors, {"id_map": name, "kind": kind, "row": str(first)})
        where = {"table": name, "kind": kind, "num_embeddings": rows, "row": first, "column": 0}
        files.append({**where, "file": f"{_FOLDER}/{path.name}", "tensors": described})
    return {"config": held.config.model_dump(), "counters": asdict(held.counters), "files": files}


def merged_id_maps(of_ranks: Iterable[Saved]) -> Saved:
    """What all ranks wrote, as one."""
    found: Saved = {}
    for saved in of_ranks:
        for name, said in saved.items():
            whole = found.setdefault(name, {"config": said["config"], "counters": {}, "files": []})
            whole["files"] += said["files"]
            for what, count in said["counters"].items():
                whole["counters"][what] = whole["counters"].get(what, 0) + count
    return found


def saved_ids(name: str, said: Mapping[str, Any]) -> DynamicIds:
    """The id space of a saved map."""
    return DynamicIds(name, DynamicConfig.model_validate(said["config"]))


class SavedIds(SavedRows):
    """Columns [rows] int64 of an id map."""

    word = "id map"


@dataclass(frozen=True)
class SavedIdMap:
    """The map of one id space in a checkpoint, whatever number of ranks wrote it.

    rows: `id`, `count` (0: a free row), `last_use` and `admitted`. candidates: `candidate_id`, `candidate_count` (0:
    none) and `candidate_last_use`; None where ids are admitted at once.
    """

    ids: DynamicIds
    counters: IdCounters
    rows: SavedIds
    candidates: SavedIds | None

    def whole(self) -> IdMap:
        """All buckets in memory. Raises UserError for files that are missing, cut short or changed."""
        held = IdMap(self.ids.config, name=self.ids.name, seed=0)  # what only draws of admission go by
        _fill(self, held, Scratch())
        held.counters = replace(self.counters)
        return held

    @property
    def parts(self) -> tuple[SavedIds, ...]:
        return (self.rows,) if self.candidates is None else (self.rows, self.candidates)

    @classmethod
    def of(cls, folder: Path, name: str, said: Mapping[str, Any]) -> "SavedIdMap":
        """What a manifest says of the map `name`."""
        kinds: dict[str, list[Entry]] = {"rows": [], "candidates": []}
        for entry in said["files"]:
            kinds[entry["kind"]].append(entry)
        candidates = _columns(folder, kinds["candidates"]) if kinds["candidates"] else None
        return cls(saved_ids(name, said), IdCounters(**said["counters"]), _columns(folder, kinds["rows"]), candidates)


def _columns(folder: Path, entries: Sequence[Entry]) -> SavedIds:
    rows, first = entries[0]["num_embeddings"], entries[0]
    tensors = dict.fromkeys(first["tensors"], (rows,))
    return SavedIds(folder=folder, entries=entries, name=first["table"], num_embeddings=rows, tensors=tensors)


def saved_id_maps(folder: Path, saved: Saved) -> dict[str, SavedIdMap]:
    """The id maps of a checkpoint, by id space."""
    return {name: SavedIdMap.of(folder, name, said) for name, said in saved.items()}


def _fill(there: SavedIdMap, held: IdMap, scratch: Scratch) -> None:
    """Copies the rows of a map's own buckets."""
    own = ((held.row_state, held.first_row), (held.candidate_state, held.first_candidate))
    for part, (tensors, first) in zip(there.parts, own, strict=False):
        for column, target in tensors.items():
            fill_rectangle(part.folder, part.entries, column, target, first, 0, scratch)


def read_id_maps(folder: Path, saved: Saved, maps: Mapping[str, IdMap], *, leads: bool) -> None:
    """Fills this rank's buckets from the files of any ranks; who `leads` takes the counters over.

    Raises UserError where the maps are other ones, and for files that are missing, cut short or changed.
    """
    for name in saved.keys() ^ maps.keys():
        there, here = ("dynamic", "fixed") if name in saved else ("fixed", "dynamic")
        raise UserError(f"{folder}: the ids of {name!r} are {there} there and {here} here; {_REMEDY}")
    scratch = Scratch()
    for name, held in maps.items():
        known = SavedIdMap.of(folder, name, saved[name])
        check_alike(f"{folder}:", name, known.ids.config, held.config)
        _fill(known, held, scratch)
        held.counters = known.counters if leads else IdCounters()


def check_alike(where: str, name: str, there: DynamicConfig, here: DynamicConfig) -> None:
    """Raises UserError, a line that begins with `where`, unless a map has as many rows and candidates as another."""
    alike = {"rows": there.rows == here.rows, "after": (there.after > 1) == (here.after > 1)}
    if here.after > 1:
        alike["candidates"] = there.candidates == here.candidates
    for what, same in alike.items():
        if not same:
            found, wanted = getattr(there, what), getattr(here, what)
            raise UserError(
                f"{where} the ids of {name!r} have dynamic.{what} {found} there and {wanted} here; {_REMEDY}"
            )
