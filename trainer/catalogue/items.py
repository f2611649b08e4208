"""A catalogue is all items that a model may recommend: those of training rows, and those that a file names beside."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.arrow_values import is_list, is_null, plain_type
from shardrec.data_pipeline.features.feature_kinds import IdFeature, Role
from shardrec.data_pipeline.features.hashing import is_string
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.reading.collate import Layout
from shardrec.data_pipeline.reading.index import DataSet, Index
from shardrec.data_pipeline.reading.parquet import Chunk
from shardrec.data_pipeline.sampling.catalogue import READ_ROWS, chunks_of
from shardrec.models.base import input_features
from shardrec.trainer.catalogue.raw_items import RawItems, item_values
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.agreement import made_once
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session

_READ_RAW = "items as they were before preparation are read by data.catalogue.raw: true"


@dataclass(frozen=True, eq=False)
class Catalogue:
    """A catalogue has a row for each of N items: first those of training rows, by table row, then those of the file.

    item: the feature whose values are the items
    rows: the columns of the item tower's features and of `item`, as files have them
    counts: [N] int64: positive training rows of each item
    trained: so many items at the front have training rows; the others are new to the model. Of an item that training
        lacks no id is looked up, since its row still has its first value: its vector is made of its features alone.
    values: what the numbers 1, 2, ... of items were made of; None: the ids are what items are called
    """

    item: str
    column: str
    rows: pa.Table
    counts: np.ndarray
    trained: int
    values: pa.Array | None = None

    @classmethod
    def of(cls, source: Blueprint | Session) -> "Catalogue":
        """Reads the items of the training rows, and those of `data.catalogue`, whose features count where both have an
        item. All workers of a session call it alike; the leading one reads.

        Raises UserError where it is not known which feature the item is, for columns that are missing, for rows that
        cannot be read, and for an item that the file has twice.
        """
        if isinstance(source, Session):
            return made_once(source.environment, lambda: cls._read(source.blueprint))
        return cls._read(source)

    @classmethod
    def _read(cls, blueprint: Blueprint) -> "Catalogue":
        config, schema = blueprint.config, blueprint.schema
        item = item_feature(config, schema)
        features = schema.unlabelled().subset(item_features(blueprint, item))
        column, folder = schema[item].columns[0], config.data.schema_folder
        train = config.data.split("train")
        assert train is not None
        found = _Items(column)
        for rows, positive in positives(blueprint.data_set(train), schema, _columns(features), folder):
            found.add(rows, positive)
        rows, counts = found.merged()
        rows, counts = _by_table_row(rows, counts, Layout(features.subset((item,)), folder))
        trained, values = len(rows), item_values(schema, item, folder)
        if config.data.catalogue.items is not None:
            raw = RawItems(features, item, folder, values) if config.data.catalogue.raw else None
            rows = _with_listed(
                rows, _listed(config.data.catalogue.items, features, column, folder, rows.schema, raw), column
            )
            counts = np.pad(counts, (0, len(rows) - trained))
            values = values if raw is None else raw.values
        return cls(item, column, rows, counts, trained, values)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> pa.Array:
        """Returns the items' ids, each once, as the files' column has them."""
        return self.rows.column(self.column).combine_chunks()

    @property
    def names(self) -> pa.Array:
        """Returns what the items are called; null where preparation made their number of no value."""
        if self.values is None:
            return self.ids
        numbers = self.ids.cast(pa.int64())
        known = pc.and_(pc.greater(numbers, 0), pc.less_equal(numbers, len(self.values)))
        return self.values.take(pc.if_else(known, pc.subtract(numbers, 1), pa.scalar(None, pa.int64())))

    def named(self) -> "Catalogue":
        """Returns the items that have a name: those of training rows whose values the vocabulary lacks have none.

        Raises UserError where an item of `data.catalogue` has none.
        """
        unnamed = self.names.is_null().to_numpy(zero_copy_only=False)
        if unnamed[self.trained :].any():
            first = self.ids[self.trained + int(unnamed[self.trained :].argmax())].as_py()
            raise UserError(
                f"data.catalogue.items: {self.column} {first} is no number of the vocabulary, so that nothing tells "
                "what the item is called; give items as they were before preparation, and data.catalogue.raw: true"
            )
        return self.where(~unnamed)

    def where(self, kept: np.ndarray) -> "Catalogue":
        """Returns some of the items, [N] bool, in their order."""
        if kept.all():
            return self
        rows = self.rows.filter(pa.array(kept)).combine_chunks()
        return replace(self, rows=rows, counts=self.counts[kept], trained=int(kept[: self.trained].sum()))

    def positions(self, ids: pa.Array) -> np.ndarray:
        """Returns [n] int64: the positions of items by `comparable` ids, -1 of one that the catalogue lacks."""
        found = pc.index_in(ids, value_set=comparable(self.rows.column(self.column)))
        return found.fill_null(-1).to_numpy().astype(np.int64)

    @property
    def popularity(self) -> np.ndarray:
        """Returns [N] int64 positions, the most frequent item of training first, of equal ones the lower position."""
        return np.argsort(-self.counts, kind="stable")


def comparable(ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Returns ids in one array of int64 or large strings, so that those of all files compare."""
    whole = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    return whole.cast(pa.large_string() if is_string(whole.type) else pa.int64(), safe=False)


def item_feature(config: RunConfig, schema: Schema) -> str:
    """Returns the feature whose values are the items. Raises UserError where that is not known."""
    return _key_feature(config, schema, "item")


def user_feature(config: RunConfig, schema: Schema) -> str:
    """Returns the feature whose values are the users. Raises UserError where that is not known."""
    return _key_feature(config, schema, "user")


def _key_feature(config: RunConfig, schema: Schema, role: Role) -> str:
    negatives = config.data.negatives
    named = getattr(config.data.catalogue, role)
    if named is None and negatives is not None and getattr(negatives, role) in schema.by_name:
        named = getattr(negatives, role)  # shared negatives need no user, so theirs may be none of the schema's
    ids = [f for f in schema.features if isinstance(f, IdFeature) and f.place == "now" and len(f.columns) == 1]
    if named is not None:
        if named not in [f.name for f in ids]:
            raise UserError(f"data.catalogue.{role}: " + unknown("id feature", named, [f.name for f in ids]))
        return str(named)
    if (first := next((f.name for f in ids if f.role == role), None)) is None:
        raise UserError(
            f"data.catalogue: no id feature has role: {role} (id features: {', '.join(f.name for f in ids) or 'none'});"
            f" name the one whose values are the {role}s by data.catalogue.{role}, or give it its role in schema.yaml"
        )
    return first


def column_type(blueprint: Blueprint, column: str) -> pa.DataType:
    """Returns the type of a column of the training rows. Raises UserError where they lack it."""
    train = blueprint.config.data.split("train")
    assert train is not None
    schema, path = next(iter(blueprint.data_set(train).index.schemas))
    if column not in schema.names:
        raise UserError(f"{path}: has no column {column!r}, by which its rows would be known")
    kind = schema.field(column).type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def check_ids_alike(found: pa.DataType, wanted: pa.DataType, files: str, column: str) -> None:
    """Raises UserError unless ids are of strings where the run's are, and of integers where these are."""
    kinds = (is_string, pa.types.is_integer)
    if not any(is_kind(plain_type(found)) and is_kind(plain_type(wanted)) for is_kind in kinds):
        raise UserError(f"{files}: column {column!r} is {found}, expected {wanted}, as the run's rows have")


def item_features(blueprint: Blueprint, item: str) -> tuple[str, ...]:
    """Returns the features that an item's row has: those of the item tower, and `item` itself; of a model without
    towers all that have role item.
    """
    model, towers = blueprint.model, blueprint.model.towers()
    if towers is None:
        read = [f.name for f in blueprint.schema.features if f.role == "item" and f.name in model.features]
    else:
        read = [f for name in towers.item_inputs for f in input_features(model.inputs[name])]
    return tuple(dict.fromkeys((item, *read)))


def positives(
    data_set: DataSet, schema: Schema, columns: tuple[str, ...], folder: str
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Yields all rows of files, in some columns, and [n] bool: whose first label is over 0; without labels all are.

    Raises UserError for columns that are missing, and for labels that cannot be read.
    """
    nothing = dict.fromkeys(("weight", "group", "propensity", "time"))
    labelled = schema.model_copy(update={**nothing, "features": (), "labels": schema.labels[:1]})
    layout = Layout(labelled, folder, extra_columns=columns)
    for chunk in chunks_of(data_set.index, layout):
        block = layout.block(chunk)
        yield without_dictionaries(block.extra), block.numbers[:, 0] > 0


def without_dictionaries(rows: pa.Table) -> pa.Table:
    """Returns rows whose dictionary columns have their values: dictionaries differ between chunks."""
    kinds = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in rows.schema]
    return rows.cast(pa.schema(list(zip(rows.column_names, kinds, strict=True))))


class _Items:
    """These are the first rows of each item seen so far, with their counts. Memory grows with the items."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._parts: list[tuple[pa.Table, np.ndarray]] = []
        self._rows = self._limit = 0

    def add(self, rows: pa.Table, positive: np.ndarray) -> None:
        """Adds rows, each with whether it counts."""
        self._parts.append(_firsts(rows, positive.astype(np.int64), self._column))
        self._rows += len(self._parts[-1][0])
        if self._rows > self._limit:
            self._parts = [self.merged()]
            self._rows = len(self._parts[0][0])
            self._limit = 2 * max(self._rows, READ_ROWS)

    def merged(self) -> tuple[pa.Table, np.ndarray]:
        """Returns one row an item, in the order of their first rows, and their counts."""
        rows = pa.concat_tables([rows for rows, _ in self._parts], promote_options="default")
        return _firsts(rows, np.concatenate([counts for _, counts in self._parts]), self._column)


def _firsts(rows: pa.Table, counts: np.ndarray, column: str) -> tuple[pa.Table, np.ndarray]:
    """Returns the first row of each id, and the sum of its counts; a row without id is no item."""
    places = pa.table({"id": rows.column(column), "place": np.arange(len(rows)), "count": counts})
    places = places.filter(places.column("id").is_valid())
    grouped = places.group_by("id").aggregate([("place", "min"), ("count", "sum")]).sort_by("place_min")
    return rows.take(grouped.column("place_min")).combine_chunks(), grouped.column("count_sum").to_numpy()


def _columns(features: Schema) -> tuple[str, ...]:
    return tuple(dict.fromkeys(column for f in features.features for column in f.columns))


def _by_table_row(rows: pa.Table, counts: np.ndarray, ids: Layout) -> tuple[pa.Table, np.ndarray]:
    """Returns items in the order of their table rows."""
    (batch,) = rows.select(ids.columns).to_batches()
    order = np.argsort(ids.block(Chunk(batch, "the training rows", 0, 0)).ids[0], kind="stable")
    return rows.take(pa.array(order)).combine_chunks(), counts[order]


def check_items(blueprint: Blueprint) -> None:
    """Raises UserError where `data.catalogue.items` lacks columns, or has them in types that are not read."""
    items, config = blueprint.config.data.catalogue.items, blueprint.config
    assert items is not None
    item = item_feature(config, blueprint.schema)
    features = blueprint.schema.unlabelled().subset(item_features(blueprint, item))
    raw = RawItems(features, item, config.data.schema_folder, None) if config.data.catalogue.raw else None
    _layout_of(DataSet.open(items).index, features, features[item].columns[0], config.data.schema_folder, raw)


def _layout_of(index: Index, features: Schema, column: str, folder: str, raw: RawItems | None) -> Layout:
    """Returns how a file of items is read. Raises UserError where it cannot be, and says whether it is raw."""
    layout = _listed_layout(features, column, folder) if raw is None else raw.layout
    try:
        layout.check(index)
    except UserError as error:
        if raw is None and features.raw() != features and _readable(Layout(features.raw(), folder), index):
            raise UserError(f"{error}; {_READ_RAW}") from None
        raise
    return layout


def _readable(layout: Layout, index: Index) -> bool:
    try:
        layout.check(index)
    except UserError:
        return False
    return True


def _listed_layout(features: Schema, column: str, folder: str) -> Layout:
    """Returns how the file of items is read: its columns as they are, but for the ids checked to be the features'."""
    read = features.without(f.name for f in features.features if column in f.columns)
    return Layout(read, folder, extra_columns=_columns(features))


def _listed(items: str, features: Schema, column: str, folder: str, kinds: pa.Schema, raw: RawItems | None) -> pa.Table:
    """Reads the file of items, in columns of these types.

    Ids are any of their type: that of an item that training lacks is looked up in no table. Raises UserError for an
    item that the file has twice or without id, for columns of other types, and as a loader does.
    """
    data_set = DataSet.open(items)
    path = data_set.index.files[0].path
    if raw is None:
        layout = _layout_of(data_set.index, features, column, folder, raw)
        parts = [without_dictionaries(layout.block(chunk).extra) for chunk in chunks_of(data_set.index, layout)]
    else:
        ids, parts = [], []
        for of_file, made in raw.read(data_set):
            ids.append(of_file)
            parts.append(without_dictionaries(made).select(kinds.names))
        _check_each_once(path, raw.column, pa.chunked_array(ids))
    rows = pa.concat_tables(parts, promote_options="default")
    problem = next(_made_strings(rows.schema, kinds), None)
    try:
        rows = rows if problem else rows.cast(kinds)
    except (pa.ArrowException, ValueError) as error:
        problem = str(error).splitlines()[0]
    if problem:
        raise UserError(f"{path}: columns are of other types than those of the training rows: {problem}")
    _check_each_once(path, column, rows.column(column))
    return rows.combine_chunks()


def _check_each_once(path: str, column: str, ids: pa.ChunkedArray) -> None:
    """Raises UserError for ids that are null, or there twice."""
    if ids.null_count:
        raise UserError(f"{path}: row {ids.is_null().index(True).as_py()} has no {column}; each item needs its id")
    counted = pa.table({"id": ids}).group_by("id").aggregate([("id", "count")])
    if len(counted) < len(ids):
        twice = counted.filter(pc.greater(counted.column("id_count"), 1)).column("id")[0].as_py()
        raise UserError(f"{path}: {column} {twice!r} is there twice; data.catalogue needs one row an item")


def _made_strings(found: pa.Schema, wanted: pa.Schema) -> Iterator[str]:
    """Yields a line for each column that a cast would make strings of, or numbers of strings."""
    for of_file, of_run in zip(found, wanted, strict=True):
        kinds = [kind.value_type if is_list(kind) else kind for kind in (of_file.type, of_run.type)]
        if not is_null(of_file.type) and is_string(kinds[0]) != is_string(kinds[1]):
            yield f"column {of_file.name!r} is {of_file.type}, expected {of_run.type}; {_READ_RAW}"


def _with_listed(rows: pa.Table, listed: pa.Table, column: str) -> pa.Table:
    """Returns the items of training rows, as the file has them where it does, and then the file's other ones."""
    ids = rows.column(column).combine_chunks()
    places = pc.index_in(ids, value_set=listed.column(column).combine_chunks())
    both = pa.concat_tables([listed, rows])
    own = pa.array(np.arange(len(listed), len(both)))
    new = pc.invert(pc.is_in(listed.column(column), value_set=ids))
    return pa.concat_tables([both.take(pc.coalesce(places.cast(pa.int64()), own)), listed.filter(new)]).combine_chunks()
