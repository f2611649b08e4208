"""A manifest, `bundle.json`, is checked before anything goes by it: what is wrong in it is one line that names it."""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from .checks import (
    BOUND,
    COUNT,
    FLAG,
    INTEGER,
    LIST,
    NUMBER,
    OBJECT,
    POSITIVE,
    TEXT,
    Check,
    by_name,
    list_of,
    object_with,
    of_kind,
    one_of,
    or_none,
    value_that,
)
from .checksums import checksum
from .rows import VALUE_TYPES

FORMAT = 2  # of what `bundle.json` and the files that it names hold


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file of a bundle. Raises ValueError where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{path.parent}: not a bundle: it has no {path.name}; name the folder that `shardrec export` made"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.parent}: not a bundle: {path.name}: {error or type(error).__name__}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path.parent}: not a bundle: {path.name} holds no object")
    return found


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns what `bundle.json` says, where all that it names is there. Raises ValueError otherwise."""
    manifest = read_object(path := folder / "bundle.json")
    if (found := manifest.get("format")) != FORMAT:
        raise ValueError(
            f"{folder}: a bundle of format {found}, where this loader reads format {FORMAT}; open it by the loader "
            "that lies in it, or export its run again by this version"
        )
    try:
        _MANIFEST(manifest, "")
        _check_names(manifest)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; copy the bundle again, or export its run again") from None
    checksums = manifest.get("checksums", {})
    for name, size in manifest["files"].items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
            raise ValueError(f"{file}: missing or cut off, where the bundle has {size:,} bytes; copy it again")
        if name in checksums and checksum(file) != checksums[name]:
            raise ValueError(
                f"{file}: damaged (its bytes are not those that were exported); copy the bundle again, or export its "
                "run again"
            )
    return manifest


# ---------------------------------------------------------------- the parts of a manifest


_SEED = value_that("an integer of 64 bits", lambda value: type(value) is int and 0 <= value < 2**64)


def _step(value: Any, where: str) -> None:
    LIST(value, where)
    name, *settings = value or [None]
    one_of(("log", "standardise", "clip"))(name, where)
    expected = {"log": 0, "standardise": 2, "clip": 2}[name]
    value_that(f"{name} of {expected} numbers", lambda v: len(v) == 1 + expected)(value, where)
    for number in settings:
        (or_none(BOUND) if name == "clip" else NUMBER)(number, where)
    if name == "standardise" and not settings[1]:
        raise ValueError(f"{where} divides by 0, expected a deviation of another size")


def _feature(value: Any, where: str) -> None:
    OBJECT(value, where)
    own: dict[str, Check] = {"steps": list_of(_step), "fill": or_none(NUMBER)}
    if "parts" in value:
        crossed = object_with(num_ids=POSITIVE, digests=FLAG, seed=_SEED)
        own = {"kind": TEXT, "ids": crossed, "missing": or_none(INTEGER), "parts": list_of(_feature, 1)}
    elif "ids" in value:
        own = {"kind": TEXT, "ids": _IDS, "missing": or_none(INTEGER)}
    shared = {"max_length": or_none(POSITIVE), "aligned": TEXT, "space": TEXT, "weights": _feature}
    object_with(shared, name=TEXT, columns=list_of(TEXT, 1), **own)(value, where)


def _column(value: Any, where: str) -> None:
    known = (*VALUE_TYPES, *(f"list<{kind}>" for kind in VALUE_TYPES))
    one_of((*known, *(f"{kind}?" for kind in known)))(value, where)


_IDS = of_kind(
    {
        "vocabulary": object_with(file=TEXT),
        "bucketize": object_with(boundaries=list_of(BOUND)),
        "hash": object_with(num_ids=POSITIVE, seed=_SEED),
        "identity": object_with(num_ids=POSITIVE),
        "raw": OBJECT,
        "digest": OBJECT,
    }
)
_NAMES = list_of(TEXT)
_INPUT = of_kind(
    {
        "shared": OBJECT,
        "dense": object_with(features=_NAMES),
        "sequence": object_with(features=list_of(TEXT, 1), tables=_NAMES, dense=_NAMES, weighted=FLAG),
        "pooled": object_with(features=_NAMES, tables=_NAMES, mean=list_of(FLAG), concat=FLAG),
    }
)
_ROWS = object_with(features=list_of(_feature), columns=by_name(_column), item_columns=_NAMES)
_TABLE = object_with(file=TEXT, rows=COUNT, dim=POSITIVE, dtype=one_of(("fp32", "fp16", "int8")))
_PROGRAM = object_with(file=TEXT, inputs=list_of(_INPUT), shape=list_of(COUNT), lists=or_none(TEXT))
_MANIFEST = object_with(
    {
        "run": object_with({"checkpoint": TEXT}),
        "checksums": by_name(COUNT),
        "no_shared_space": or_none(TEXT),
        "catalogue": object_with(item=TEXT, items=COUNT, dim=POSITIVE),
    },
    files=by_name(COUNT),
    raw=_ROWS,
    prepared=_ROWS,
    tables=by_name(_TABLE),
    id_spaces=by_name(object_with(ids=TEXT, rows=TEXT, default_row=COUNT)),
    programs=by_name(_PROGRAM),
    predicts=object_with(task=TEXT, label=or_none(TEXT)),
)


# ---------------------------------------------------------------- what is named in it


def _check_names(manifest: Mapping[str, Any]) -> None:
    """Raises ValueError for a name of something that the manifest does not have."""
    programs = manifest["programs"]
    for name in ("tower", *(("shared", "candidate") if {"shared", "candidate"} & programs.keys() else ())):
        if name not in programs:
            raise ValueError(f"programs.{name} is missing")
    if "user" in programs and "catalogue" not in manifest:
        raise ValueError("catalogue is missing, which programs.user makes lists of")
    for rows in ("raw", "prepared"):
        for place, feature in enumerate(manifest[rows]["features"]):
            _check_feature(feature, f"{rows}.features[{place}]", manifest[rows]["columns"], manifest["id_spaces"])
        for program, spec in programs.items():
            features = {feature["name"] for feature in manifest[rows]["features"]}
            _check_program(spec, f"programs.{program}", features, manifest["tables"])
        for column in manifest[rows]["item_columns"]:
            _known(column, f"{rows}.item_columns", "a column", manifest[rows]["columns"])
    for file in _files(manifest):
        _known(file, "a file that is named", "one of `files`", manifest["files"])


def _known(name: str, where: str, expected: str, names: Collection[str]) -> None:
    if name not in names:
        raise ValueError(f"{where} is {name!r}, expected {expected}")


def _check_feature(feature: Mapping[str, Any], where: str, columns: Collection[str], spaces: Collection[str]) -> None:
    for column in feature["columns"]:
        _known(column, f"{where}.columns", "a column", columns)
    if "space" in feature:
        _known(feature["space"], f"{where}.space", "one of `id_spaces`", spaces)
    for part in (*feature.get("parts", ()), *([feature["weights"]] if "weights" in feature else ())):
        _check_feature(part, where, columns, spaces)


def _check_program(spec: Mapping[str, Any], where: str, features: Collection[str], tables: Collection[str]) -> None:
    own = [given for given in spec["inputs"] if given["kind"] != "shared"]
    names = {name for given in own for name in (*given["features"], *given.get("dense", ()))}
    for name in sorted(names):
        _known(name, f"{where}.inputs", "a feature", features)
    if spec["lists"] is not None:
        _known(spec["lists"], f"{where}.lists", "a feature of its inputs", names)
    for given in own:
        for table in given.get("tables", ()):
            _known(table, f"{where}.inputs", "one of `tables`", tables)
        if any(len(given.get(of, given["features"])) != len(given["features"]) for of in ("tables", "mean")):
            raise ValueError(f"{where}.inputs has not as many tables as features")


def _files(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yields the files that parts of a manifest name."""
    yield from (part["file"] for parts in ("tables", "programs") for part in manifest[parts].values())
    yield from (space[of] for space in manifest["id_spaces"].values() for of in ("ids", "rows"))
    if "user" in manifest["programs"]:
        yield from ("items.npy", "items.parquet")
    features = [f for rows in ("raw", "prepared") for f in manifest[rows]["features"]]
    for feature in features:
        features += feature.get("parts", ())
        if feature.get("ids", {}).get("kind") == "vocabulary":
            yield from (f"{feature['ids']['file']}.{of}.npy" for of in ("keys", "rows"))
