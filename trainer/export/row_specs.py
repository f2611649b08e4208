"""Row specs say in plain values how a schema's features are read: what the loader goes by, and JSON can hold."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from shardrec.data_pipeline.features.arrow_values import is_list, is_null, plain_type
from shardrec.data_pipeline.features.dense_transforms import Clip, DenseTransform, Standardise
from shardrec.data_pipeline.features.feature_kinds import (
    DenseSequenceFeature,
    FeatureCross,
    IdListFeature,
    NumericFeature,
    SequenceFeature,
    SparseFeature,
)
from shardrec.data_pipeline.features.hashing import is_string
from shardrec.data_pipeline.features.id_transforms import MISSING, Bucketize, Cross, Hash, Identity, Raw, Vocabulary
from shardrec.data_pipeline.features.schema import Schema
from shardrec.trainer.export.loader import ANY

Types = Mapping[str, pa.DataType]
"""The Arrow types of the columns that were trained on, by name."""


def row_specs(
    schema: Schema, types: Types, strings: Mapping[str, bool], files: Mapping[str, str], spaces: Mapping[str, str]
) -> dict[str, Any]:
    """Returns `features`, the `columns` that they read with their types, and which of these are the item's.

    schema: of the features that are read, as rows have them. strings: whether the values of each vocabulary are. files:
    what each vocabulary is called in a bundle. spaces: the id space of each feature that reads dynamic tables.
    """
    columns: dict[str, str] = {}
    for feature in schema.features:
        for column, kind, optional in _columns(feature, types, strings):
            known = columns.setdefault(column, f"{kind}?")
            columns[column] = known if optional else known.removesuffix("?")
    features = [_spec(f, files) | ({"space": spaces[f.name]} if f.name in spaces else {}) for f in schema.features]
    return {"features": features, "columns": columns, "item_columns": _item_columns(schema)}


def _item_columns(schema: Schema) -> list[str]:
    """Returns the columns that only features of an item, or of both sides, read."""
    read_by: dict[str, set[str | None]] = {}
    for f in schema.features:
        for column in f.columns:
            read_by.setdefault(column, set()).add(f.role)
    both = {"item", "user_item"}
    return [column for column, roles in read_by.items() if roles <= both and roles]


# ---------------------------------------------------------------- columns


def _columns(f: Any, types: Types, strings: Mapping[str, bool]) -> Iterable[tuple[str, str, bool]]:
    """Yields the columns of a feature, what values they have, and whether they may be missing."""
    if isinstance(f, NumericFeature):
        kind = _number(types.get(f.columns[0]))
        many = isinstance(f, DenseSequenceFeature)
        yield f.columns[0], f"list<{kind}>" if many else kind, many or f.missing != "error"
        return
    if isinstance(f.ids, FeatureCross):
        for part in f.ids.features:
            yield from _columns(part, types, strings)
        return
    many = isinstance(f, IdListFeature | SequenceFeature)
    weights = f.weights if isinstance(f, IdListFeature) else None
    for column in f.columns:
        if column == weights:
            yield column, "list<double>", True
            continue
        kind = _id(f.ids, types.get(column), strings)
        of_lists = many and not (isinstance(f.ids, Cross) and not is_list(types.get(column, pa.list_(pa.string()))))
        yield column, f"list<{kind}>" if of_lists else kind, many or f.missing == "row"


def _number(known: pa.DataType | None) -> str:
    kind = None if known is None else plain_type(known.value_type if is_list(known) else known)
    return "float" if kind is not None and pa.types.is_float32(kind) else "double"


def _id(ids: Any, known: pa.DataType | None, strings: Mapping[str, bool]) -> str:
    """Returns the type of the values that become ids, by what was trained on where the declaration leaves it open."""
    if isinstance(ids, Bucketize):
        return _number(known)
    if isinstance(ids, Vocabulary):
        return "string" if strings[ids.path] else "int64"
    kind = None if known is None else plain_type(known.value_type if is_list(known) else known)
    if isinstance(ids, Identity) or (kind is not None and pa.types.is_integer(kind)):
        return "uint64" if kind is not None and pa.types.is_uint64(kind) else "int64"
    if kind is None or is_null(kind):
        return ANY
    return "string" if is_string(kind) else "bool" if pa.types.is_boolean(kind) else ANY


# ---------------------------------------------------------------- features


def _spec(f: Any, files: Mapping[str, str]) -> dict[str, Any]:
    spec: dict[str, Any] = {"name": f.name, "kind": f.kind, "columns": list(f.columns)}
    for name in ("max_length", "aligned"):
        if getattr(f, name, None) is not None:
            spec[name] = getattr(f, name)
    if isinstance(f, NumericFeature):
        steps = [_step(t) for t in f.transforms if t != Clip()]
        return spec | {"steps": steps, "fill": None if f.missing == "error" else f.missing}
    if isinstance(f.ids, Cross | FeatureCross):
        cross = {"num_ids": f.ids.num_ids, "digests": isinstance(f.ids, Cross), "seed": getattr(f.ids, "seed", 0)}
        return spec | {"ids": cross, "missing": _missing_row(f), "parts": _parts(f, files)}
    if isinstance(f, IdListFeature) and f.weights:
        weights = {"name": f.name, "columns": [f.weights], "max_length": f.max_length}
        spec["weights"] = weights | {"steps": [], "fill": None}
    return spec | {"ids": _ids(f.ids, files), "missing": _missing_row(f)}


def _parts(f: Any, files: Mapping[str, str]) -> list[dict[str, Any]]:
    """Returns the specs of what is crossed: features, or columns by the 64-bit hashes of their values."""
    if isinstance(f.ids, FeatureCross):
        return [_spec(part, files) for part in f.ids.features]
    digest = {"kind": "any", "ids": {"kind": "digest"}, "missing": MISSING}
    return [{"name": f.name, "columns": [column], **digest} for column in f.ids.columns]


def _missing_row(f: SparseFeature) -> int | None:
    if f.missing == "error":
        return None
    return MISSING if isinstance(f.ids, Raw) else f.ids.num_rows


def _ids(ids: Any, files: Mapping[str, str]) -> dict[str, Any]:
    if isinstance(ids, Vocabulary):
        return {"kind": "vocabulary", "file": files[ids.path], "size": ids.size}
    if isinstance(ids, Bucketize):
        return {"kind": "bucketize", "boundaries": list(ids.boundaries)}
    if isinstance(ids, Hash):
        return {"kind": "hash", "num_ids": ids.num_ids, "seed": ids.seed}
    return {"kind": "raw"} if isinstance(ids, Raw) else {"kind": "identity", "num_ids": ids.num_ids}


def _step(transform: DenseTransform) -> list[Any]:
    if isinstance(transform, Standardise):
        return ["standardise", transform.mean, transform.deviation]
    return ["clip", transform.low, transform.high] if isinstance(transform, Clip) else ["log"]
