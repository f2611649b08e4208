"""Id maps are written as the rows of each rank's buckets, in int64 columns, beside the files of the tables.

A map's file is like a table's shard, in chunks with checksums, and whoever reads takes the rows of its own buckets out
of any ranks' files. Counters are sums over the ranks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.file_names import file_stems
from shardrec.data_pipeline.stores.location import Location
from shardrec.models.dynamic_ids import DynamicConfig, DynamicIds
from shardrec.sharding.checkpoints.entries import Entry
from shardrec.sharding.checkpoints.saved_tables import SavedRows
from shardrec.sharding.checkpoints.shard_files import Scratch, fill_rectangle
from shardrec.sharding.checkpoints.unwritten_file import UnwrittenFile, write_files
from shardrec.sharding.dynamic.id_map import IdCounters, IdMap

Saved = dict[str, dict[str, Any]]
"""A manifest says of each id space: `config` (a DynamicConfig), `counters`, and the entries of its `files`."""

_FOLDER = "id_maps"
_REMEDY = "use the settings it was made with, or another run folder"


def write_id_maps(folder: Location, maps: Mapping[str, IdMap]) -> Saved:
    """Writes this rank's buckets to new files under `folder/id_maps`; returns what a manifest says of them."""
    facts = id_map_facts(maps)  # before anything else changes them
    folder.mkdir(parents=True, exist_ok=True)
    return with_files(facts, write_files(id_map_files(folder, maps)))


def id_map_facts(maps: Mapping[str, IdMap]) -> Saved:
    """Returns what a manifest says of this rank's buckets as they are now, but for their files."""
    return {name: {"config": m.config.model_dump(), "counters": asdict(m.counters)} for name, m in maps.items()}


def id_map_files(folder: Location, maps: Mapping[str, IdMap]) -> list[UnwrittenFile]:
    """Returns the files of this rank's buckets, to be written under `folder/id_maps`."""
    stems = file_stems(maps)
    return [file for name, m in maps.items() for file in _map_files(folder / _FOLDER, stems[name], name, m)]


def _map_files(inside: Location, stem: str, name: str, id_map: IdMap) -> list[UnwrittenFile]:
    if not id_map.buckets:
        return []
    parts = {"rows": (id_map.row_state, id_map.first_row, id_map.geometry.rows)}
    if id_map.candidate_state:
        parts["candidates"] = (id_map.candidate_state, id_map.first_candidate, id_map.candidate_rows)
    files = []
    for kind, (tensors, first, row_count) in parts.items():
        path = inside / f"{stem}.{kind}.r{first}.safetensors"
        entry = {"table": name, "kind": kind, "num_embeddings": row_count, "row": first, "column": 0}
        files.append(UnwrittenFile(path, {**entry, "file": f"{_FOLDER}/{path.name}"}, tensors))
    return files


def with_files(facts: Saved, entries: Sequence[Entry]) -> Saved:
    """Returns what a manifest says of id maps, with the entries of their files among those that are given."""
    return {
        name: {**of_map, "files": [e for e in entries if "kind" in e and e["table"] == name]}
        for name, of_map in facts.items()
    }


def merged_id_maps(of_ranks: Iterable[Saved]) -> Saved:
    """Returns what all ranks wrote, as one."""
    merged: Saved = {}
    for saved in of_ranks:
        for name, facts in saved.items():
            whole = merged.setdefault(name, {"config": facts["config"], "counters": {}, "files": []})
            whole["files"] += facts["files"]
            for counter, count in facts["counters"].items():
                whole["counters"][counter] = whole["counters"].get(counter, 0) + count
    return merged


def saved_ids(name: str, facts: Mapping[str, Any]) -> DynamicIds:
    """Returns the id space of a saved map, by what a manifest says of it."""
    return DynamicIds(name, DynamicConfig.model_validate(facts["config"]))


class SavedIds(SavedRows):
    """An id map's columns in a checkpoint are [rows] int64 each."""

    word = "id map"


@dataclass(frozen=True)
class SavedIdMap:
    """A saved map is that of one id space in a checkpoint, whatever number of ranks wrote it.

    rows: `id`, `count` (0: a free row), `last_use` and `admitted`. candidates: `candidate_id`, `candidate_count` (0:
    none) and `candidate_last_use`; None where ids are admitted at once.
    """

    ids: DynamicIds
    counters: IdCounters
    rows: SavedIds
    candidates: SavedIds | None

    def whole(self) -> IdMap:
        """Reads all buckets into memory. Raises UserError for files that are missing, cut short or changed."""
        id_map = IdMap(self.ids.config, name=self.ids.name, seed=0)  # only draws of admission go by the seed
        _fill(self, id_map, Scratch())
        id_map.counters = replace(self.counters)
        return id_map

    @property
    def parts(self) -> tuple[SavedIds, ...]:
        """Returns the rows, and the candidates where there are any."""
        return (self.rows,) if self.candidates is None else (self.rows, self.candidates)

    @classmethod
    def of(cls, folder: Location, name: str, facts: Mapping[str, Any]) -> "SavedIdMap":
        """Returns the map `name` by what a manifest says of it."""
        kinds: dict[str, list[Entry]] = {"rows": [], "candidates": []}
        for entry in facts["files"]:
            kinds[entry["kind"]].append(entry)
        candidates = _columns(folder, kinds["candidates"]) if kinds["candidates"] else None
        return cls(saved_ids(name, facts), IdCounters(**facts["counters"]), _columns(folder, kinds["rows"]), candidates)


def _columns(folder: Location, entries: Sequence[Entry]) -> SavedIds:
    first = entries[0]
    row_count = first["num_embeddings"]
    tensors = dict.fromkeys(first["tensors"], (row_count,))
    return SavedIds(folder=folder, entries=entries, name=first["table"], num_embeddings=row_count, tensors=tensors)


def saved_id_maps(folder: Location, saved: Saved) -> dict[str, SavedIdMap]:
    """Returns the id maps of a checkpoint, by id space."""
    return {name: SavedIdMap.of(folder, name, facts) for name, facts in saved.items()}


def _fill(saved: SavedIdMap, id_map: IdMap, scratch: Scratch) -> None:
    """Copies the rows of a map's own buckets from a saved one."""
    own = ((id_map.row_state, id_map.first_row), (id_map.candidate_state, id_map.first_candidate))
    for part, (tensors, first) in zip(saved.parts, own, strict=False):
        for column, target in tensors.items():
            fill_rectangle(part.folder, part.entries, column, target, first, 0, scratch)


def read_id_maps(folder: Location, saved: Saved, maps: Mapping[str, IdMap], *, leads: bool) -> None:
    """Fills this rank's buckets from the files of any ranks; who `leads` takes the counters over.

    Raises UserError where the maps are other ones, and for files that are missing, cut short or changed.
    """
    for name in saved.keys() ^ maps.keys():
        there, here = ("dynamic", "fixed") if name in saved else ("fixed", "dynamic")
        raise UserError(f"{folder}: the ids of {name!r} are {there} there and {here} here; {_REMEDY}")
    scratch = Scratch()
    for name, id_map in maps.items():
        known = SavedIdMap.of(folder, name, saved[name])
        check_alike(f"{folder}:", name, known.ids.config, id_map.config)
        _fill(known, id_map, scratch)
        id_map.counters = known.counters if leads else IdCounters()


def check_alike(where: str, name: str, there: DynamicConfig, here: DynamicConfig) -> None:
    """Raises UserError, a line that begins with `where`, unless a map has as many rows and candidates as another."""
    alike = {"rows": there.rows == here.rows, "after": (there.after > 1) == (here.after > 1)}
    if here.after > 1:
        alike["candidates"] = there.candidates == here.candidates
    for key, same in alike.items():
        if not same:
            values = f"{getattr(there, key)} there and {getattr(here, key)} here"
            raise UserError(f"{where} the ids of {name!r} have dynamic.{key} {values}; {_REMEDY}")
