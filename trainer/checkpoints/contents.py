"""`shardrec checkpoint show` says what is in a checkpoint, read in constant memory with every byte checked."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from shardrec.data_pipeline.errors import printable
from shardrec.data_pipeline.stores.location import Location
from shardrec.sharding.checkpoints.id_maps import SavedIdMap
from shardrec.sharding.checkpoints.saved_tables import SavedTable
from shardrec.trainer.checkpoints.id_map_facts import READ, id_map_facts
from shardrec.trainer.checkpoints.saved_model import SavedModel
from shardrec.trainer.checkpoints.tower_file import saved_tower
from shardrec.trainer.run_folder.terminal import PlainTable, plain_table, print_whole
from shardrec.trainer.session.tower import MODEL


def checkpoint_contents(
    path: Location, step: int | None = None, *, values: bool = True, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Returns what `shardrec checkpoint show --json` prints: the run's place, `tables`, `id_maps` and `tower` by name.

    values: the rows of tables and id maps are read; else only the sizes of files are checked. progress: is told which
    one is read. Raises UserError for the first file that is missing, cut short or changed.
    """
    saved = SavedModel.open(path, step)
    position = saved.content["position"]
    tables = {}
    for name, table in saved.tables.items():
        if values:
            progress(f"reading table {name}")
        tables[name] = _table_facts(table, values)
    id_maps = {}
    for name, id_map in saved.id_maps.items():
        if values:
            progress(f"reading the id map of {name}")
        id_maps[name] = _id_map_facts(id_map, position["step"], values)
    return {
        "checkpoint": str(saved.path),
        **{key: position[key] for key in ("step", "epoch", "step_in_epoch", "rows")},
        "world_size": saved.content["world_size"],
        "device": saved.content["device"],
        "tables": tables,
        "id_maps": id_maps,
        "tower": {name: _tower_facts(tensor) for name, tensor in tower_tensors(saved).items()},
    }


def tower_tensors(saved: SavedModel) -> dict[str, Tensor]:
    """Returns all tensors of a checkpoint's tower file, by the names that its model gives them.

    They are parameters (`NAME`), moments (`buffer NAME`) and optimizer state (`optimizer NAME/STATE`).
    """
    words = {"tower": "", "tower_buffer": "buffer ", "tower_optimizer": "optimizer "}
    tensors = {}
    for name, tensor in saved_tower(saved.path, saved.content).items():
        kind, _, rest = name.partition("/")
        tensors[words[kind] + rest.removeprefix(MODEL)] = tensor
    return tensors


def _table_facts(table: SavedTable, values: bool) -> dict[str, Any]:
    sizes = table.file_sizes()
    state = {}
    for name in table.tensors:
        if name != "weight":
            summary = summarise(table, name) if values else {}
            state[name] = {key: summary[key] for key in ("norm", "zeros", "not_finite") if values}
    return {
        "rows": table.num_embeddings,
        "dim": table.embedding_dim,
        "dtype": table.dtype,
        "optimizer": table.optimizer,
        "dynamic": table.dynamic,
        "bytes": sum(sizes.values()),
        "files": len(sizes),
        **(summarise(table, "weight") if values else {}),
        "state": state,
    }


def _id_map_facts(id_map: SavedIdMap, step: int, values: bool) -> dict[str, Any]:
    sizes = [size for part in id_map.parts for size in part.file_sizes().values()]
    result: dict[str, Any] = {
        "rows": id_map.rows.num_embeddings,
        "candidate_rows": id_map.candidates.num_embeddings if id_map.candidates else 0,
        "bytes": sum(sizes),
        "files": len(sizes),
        **asdict(id_map.counters),
    }
    if values:
        facts = id_map_facts(id_map, step)
        result |= {name: facts[name] for name in ("occupied", "candidates")}
        for part in id_map.parts:
            for column in part.tensors.keys() - READ:  # only to check their bytes
                deque(part.blocks(column), maxlen=0)
    return result


def summarise(table: SavedTable, tensor: str) -> dict[str, Any]:
    """Says what the values of a tensor are like, in one pass.

    norm: Frobenius. mean_row_norm: the mean of the rows' Euclidean norms. zeros: the share of values that are exactly
    0; dead_rows: the share of rows that hold nothing else. not_finite: how many values are so; norms leave them out.
    """
    squares, norms = 0.0, 0.0
    zeros = dead = not_finite = 0
    for _, values in table.blocks(tensor):
        rows = values if values.dim() == 2 else values.unsqueeze(1)
        norm = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
        dead += int((norm == 0).sum())
        zeros += values.numel() - int(torch.count_nonzero(values))
        if not bool(norm.isfinite().all()):
            not_finite += int((~rows.isfinite()).sum())
            norm = torch.linalg.vector_norm(rows.nan_to_num(0.0, 0.0, 0.0), dim=1, dtype=torch.float64)
        squares, norms = squares + float(norm @ norm), norms + float(norm.sum())
    return {
        "norm": math.sqrt(squares),
        "mean_row_norm": norms / table.num_embeddings,
        "zeros": zeros / math.prod(table.tensors[tensor]),
        "dead_rows": dead / table.num_embeddings,
        "not_finite": not_finite,
    }


def _tower_facts(tensor: Tensor) -> dict[str, Any]:
    values = tensor.double()
    finite = values.isfinite()
    return {
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "norm": float(values.where(finite, torch.zeros(())).norm()),
        "not_finite": int((~finite).sum()),
    }


# ---------------------------------------------------------------- printing


def print_contents(contents: dict[str, Any]) -> None:
    """Prints a line a table and a line a parameter of the tower, without its optimizer's state."""
    place = f"step {contents['step']}, epoch {contents['epoch']}, {contents['rows']:,} rows trained on"
    print_whole(f"{contents['checkpoint']}: {place}, written by {contents['world_size']} worker(s)")
    print_whole(_tables(contents["tables"]))
    if contents["id_maps"]:
        print_whole(_id_maps(contents["id_maps"]))
    columns = ("tower", "shape", "dtype", "norm", "not finite")
    lines = [
        [name, " x ".join(map(str, p["shape"])) or "number", p["dtype"], f"{p['norm']:.4g}", f"{p['not_finite']:,}"]
        for name, p in contents["tower"].items()
        if not name.startswith("optimizer ")
    ]
    if lines:
        print_whole(plain_table(columns, lines, left=("tower", "shape", "dtype")))


def _tables(tables: dict[str, Any]) -> PlainTable:
    columns = ["table", "rows", "dim", "dtype", "optimizer", "state", "MB", "files"]
    values = any("norm" in table for table in tables.values())
    if values:
        columns += ["norm", "mean row norm", "zeros %", "dead rows %", "not finite"]
    lines = []
    for name, t in tables.items():
        described = [t["dtype"], t["optimizer"], ", ".join(t["state"]) or "-"]
        cells = [printable(name), f"{t['rows']:,}", str(t["dim"]), *described]
        cells += [f"{t['bytes'] / 1e6:,.2f}", str(t["files"])]
        if values:
            not_finite = t["not_finite"] + sum(state["not_finite"] for state in t["state"].values())
            cells += [f"{t['norm']:.4g}", f"{t['mean_row_norm']:.4g}"]
            cells += [f"{100 * t['zeros']:.2f}", f"{100 * t['dead_rows']:.2f}", f"{not_finite:,}"]
        lines.append(cells)
    return plain_table(columns, lines, left=("table", "dtype", "optimizer", "state"))


def _id_maps(id_maps: dict[str, Any]) -> PlainTable:
    lines = []
    for name, m in id_maps.items():
        read = [f"{m[key]:,}" if key in m else "-" for key in ("occupied", "candidates")]
        lines.append([printable(name), f"{m['rows']:,}", *read, f"{m['bytes'] / 1e6:,.2f}", str(m["files"])])
    return plain_table(("id map", "rows", "occupied", "candidates", "MB", "files"), lines, left=("id map",))
