"""`shardrec contrast` compares models on the same test rows: each one less the first, with bootstrap intervals."""

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.text import Text

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.files.owned_files import check_own_file
from shardrec.trainer.comparison.paired_bootstrap import Interval, Judged
from shardrec.trainer.run_folder.atomic import write_csv
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.summaries import UNDEFINED
from shardrec.trainer.run_folder.synced import fetch, send
from shardrec.trainer.run_folder.terminal import plain_table, print_whole
from shardrec.trainer.scoring.predict import SCORE, predict_rows
from shardrec.trainer.session.blueprint import Blueprint

FILE = "contrast.csv"
METRICS = ("auc", "gauc")
LENGTHS = (1, 2, 3, 6, 11, 21)  # where ranges of history lengths begin
UNKNOWN = Interval(nan, nan, nan)
"""The difference in a metric that the rows do not define."""


def contrast_models(
    comparison: Path,
    models: Sequence[str],
    *,
    data: tuple[str, ...] = (),
    by: str | None = None,
    draws: int = 1000,
    progress: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Returns one line per model after the first and subset of rows, and writes them as contrast.csv in `comparison`.

    comparison: folder of `shardrec compare`. models: none: all in it, by name. data: none: the test rows of the runs.
    by: a list column, or a sequence feature; its length makes the subsets beside that of all rows. Rows without a group
    are drawn one by one.
    Raises UserError where runs are missing or not finished, for a `by` that is no list, and for rows without a label,
    group or weight that the schema names.
    """
    fetch(comparison)
    check_own_file(comparison / FILE, rb"model,to,rows_of,rows,groups.*")
    runs = _finished(comparison, models)
    names = list(runs)
    if len(names) < 2:
        raise UserError(f"{comparison}: a contrast is of two models or more, found {names}; train more, or name them")
    first = runs[names[0]][0]
    schema, config = first.schema(), first.config()
    own = None if data else config.data.split("test")
    if not data and own is None:
        raise UserError(f"{first.path}: its data have no test rows; name files with --data")
    paths = data or ((own,) if isinstance(own, str) else tuple(own or ()))
    label = next((x for x in schema.labels if x.name == config.model.get("label")), schema.labels[0])
    length = None if by is None else _column(schema, by)
    keys = tuple(dict.fromkeys(filter(None, (label.columns[0], schema.group, schema.weight, length))))
    if line := Blueprint(config, schema).missing_labels(paths):
        raise UserError(
            f"{'data' if data else 'test rows'}: without labels nothing can be compared: {line}; name others "
            "with --data"
        )
    scores, rows = _scored(runs, paths, keys, progress)
    labels = _whole(rows, label.columns[0]).astype(np.float64)
    if label.threshold is not None:
        labels = labels >= label.threshold
    weights = np.ones(len(rows)) if schema.weight is None else _whole(rows, schema.weight)
    groups = np.arange(len(rows)) if schema.group is None else _whole(rows, schema.group)
    lines = []
    for subset, chosen in _subsets(rows, length).items():
        judged = Judged(labels[chosen], groups[chosen], weights[chosen])
        base, *others = ([one[chosen] for one in scores[name]] for name in names)
        for name, ours in zip(names[1:], others, strict=True):
            progress(f"drawing users: {name}, {subset}")
            facts = {"model": name, "to": names[0], "rows_of": subset, "rows": len(ours[0]), "groups": judged.groups}
            lines.append(facts | dict.fromkeys(METRICS, UNKNOWN) | judged.differences(ours, base, draws=draws))
    write_csv(comparison / FILE, map(_flat, lines))
    send(comparison / FILE)
    return lines


def _scored(
    runs: Mapping[str, Sequence[RunFolder]],
    paths: tuple[str, ...],
    keys: tuple[str, ...],
    progress: Callable[[str], None],
) -> tuple[dict[str, list[Any]], pa.Table]:
    """Returns the scores [rows] of each model's runs, and the rows' key columns, in the order of the rows."""
    scores: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory(prefix="shardrec-contrast-") as scratch:
        for name, folders in runs.items():
            for seed, folder in enumerate(folders):
                progress(f"scoring {folder.address}")
                out = Path(scratch) / name / str(seed)
                out.parent.mkdir(exist_ok=True)
                predict_rows(folder.path, paths, out, keys, quiet=True)
                rows = pq.read_table(out).sort_by("row")
                scores.setdefault(name, []).append(rows[SCORE].to_numpy())
    return scores, rows


def _finished(comparison: Path, models: Sequence[str]) -> dict[str, list[RunFolder]]:
    """Returns the folders of each model's finished runs, by seed."""
    trained = sorted(path.name for path in comparison.iterdir() if _of_seeds(path)) if comparison.is_dir() else []
    if not trained:
        raise UserError(f"{comparison}: no runs of a comparison in it; name the folder of a `shardrec compare`")
    for name in models:
        if name not in trained:
            raise UserError(f"{comparison}: " + unknown("model", name, trained))
    runs = {}
    for name in models or trained:
        done = [folder for folder in _of_seeds(comparison / name) if RunFolder(folder).summary() is not None]
        if not done:
            raise UserError(f"{comparison / name}: no finished run; finish the comparison, or leave {name} out")
        runs[name] = [RunFolder.open(folder) for folder in done]
    return runs


def _of_seeds(model: Path) -> list[Path]:
    """Returns the folders of a model's runs, by seed."""
    seeds = {path: re.fullmatch(r"seed-([0-9]{1,20})", path.name) for path in model.glob("seed-*")}
    return sorted((path for path, match in seeds.items() if match), key=lambda path: int(path.name[len("seed-") :]))


def _column(schema: Schema, name: str) -> str:
    return schema[name].columns[0] if name in {f.name for f in schema.features} else name


def _whole(rows: pa.Table, name: str) -> Any:
    """Returns a column as NumPy. Raises UserError where rows have no value in it."""
    if nulls := rows[name].null_count:
        raise UserError(
            f"column {name!r}: found {nulls:,} null(s), expected a value in every row; leave those rows out"
        )
    return rows[name].to_numpy()


def _subsets(rows: pa.Table, length: str | None) -> dict[str, Any]:
    """Returns masks of rows by name: all, and those of each range of lengths that has any."""
    masks: dict[str, Any] = {"all": np.ones(len(rows), bool)}
    if length is None:
        return masks
    if not pa.types.is_list(rows[length].type) and not pa.types.is_large_list(rows[length].type):
        raise UserError(f"--by {length}: expected a column of lists, found {rows[length].type}")
    lengths = pc.fill_null(pc.list_value_length(rows[length]), 0).to_numpy()
    for start, end in zip((0, *LENGTHS), (*LENGTHS, None), strict=True):
        last = lengths.max(initial=0) if end is None else end - 1
        chosen = (start <= lengths) & (lengths <= last)
        if chosen.any():
            masks[f"{length} of {start}" + (f" to {last}" if last > start else "")] = chosen
    return masks


def print_contrast(lines: Sequence[dict[str, Any]]) -> None:
    """Prints a table in which differences whose interval leaves 0 out are bold."""
    columns = ("model", "rows of", "rows", "groups", *METRICS)
    cells = []
    for line in lines:
        differences = [_shown(line[metric]) for metric in METRICS]
        cells.append([line["model"], line["rows_of"], f"{line['rows']:,}", f"{line['groups']:,}", *differences])
    title = f"less {lines[0]['to']}: difference, 95 % of draws"
    unknown = any(isnan(line[metric].difference) for line in lines for metric in METRICS)
    reason = ["undefined: auc of rows of one class, gauc of groups of one class each"] if unknown else []
    print_whole(plain_table(columns, cells, left=("model", "rows of"), title=title), *reason)


def _shown(interval: Interval) -> Text:
    if isnan(interval.difference):
        return Text(UNDEFINED)
    text = f"{interval.difference:+.4f}  {interval.low:+.4f} .. {interval.high:+.4f}"
    return Text(text, style="bold" if interval.clear else "")


def _flat(line: Mapping[str, Any]) -> dict[str, Any]:
    """Gives each number of an interval a column of its own: `auc`, `auc_low`, `auc_high`."""
    flat: dict[str, Any] = {}
    for name, value in line.items():
        flat |= (
            dict(zip((name, f"{name}_low", f"{name}_high"), value, strict=True)) if name in METRICS else {name: value}
        )
    return flat
