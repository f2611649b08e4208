"""The ids of users and items are called as they were before preparation made numbers of them, where that is known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.hashing import is_string
from shardrec.data_pipeline.features.id_transforms import Identity, Vocabulary
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.features.transforms import FeatureReader
from shardrec.data_pipeline.features.vocabulary import kept_values
from shardrec.trainer.catalogue.items import Catalogue, check_ids_alike, column_type, comparable, user_feature
from shardrec.trainer.session.blueprint import Blueprint


@dataclass(frozen=True)
class KeyNames:
    """Key names translate between the values of a column of ids and what these are called.

    column: the column of files that has the ids. values: what the numbers 1, 2, ... that files hold were made of; None:
    files hold the ids themselves, strings or integers. raw: where files hold ids as they were before preparation, the
    feature of raw rows and the schema's folder; None: files hold what the run's rows have. With it `values` has names
    that the vocabulary lacks, of new items.
    """

    column: str
    values: pa.Array | None = None
    raw: tuple[Any, str] | None = None

    @classmethod
    def of(cls, schema: Schema, feature: str, folder: str) -> "KeyNames":
        """Returns the names of a feature's ids in prepared rows; `folder` is the schema's, where vocabularies are."""
        declared = schema[feature]
        ids = getattr(declared, "ids", None)
        column = declared.columns[0]
        if isinstance(ids, Identity) and isinstance(ids.prepared, Vocabulary):
            values = kept_values(folder, ids.prepared.path)
            return cls(column, None if values is None else values.combine_chunks())
        return cls(column)

    @classmethod
    def of_raw(cls, declared: Any, folder: str) -> "KeyNames":
        """Returns the names of a feature's ids in raw rows, as `Schema.raw` declares it.

        Raises UserError where they are made of several columns.
        """
        if len(declared.columns) > 1:
            raise UserError(
                f"--raw: {declared.name!r} was made of columns {', '.join(declared.columns)}, and what a user is known "
                "by is one; give prepared rows"
            )
        return cls(declared.columns[0], raw=(declared, folder))

    def named(self, ids: pa.Array) -> pa.Array:
        """Returns what a column's ids are called; null for those of no value, such as unknown ones."""
        if self.values is None or self.raw is not None:
            return ids
        numbers = ids.cast(pa.int64())
        known = pc.and_(pc.greater(numbers, 0), pc.less_equal(numbers, len(self.values)))
        return self.values.take(pc.if_else(known, pc.subtract(numbers, 1), pa.scalar(None, pa.int64())))

    def in_files(self, values: pa.Array, kind: pa.DataType, files: str) -> pa.Array:
        """Returns the `comparable` ids that a column of other files has, the run's own being of type `kind`.

        Strings where the run has table rows are what ids are called, as in lists; null for what no id is called.
        Raises UserError for a column of another type; files: which ones, for the message.
        """
        if self.raw is not None:
            return self._read(values, files)
        if self.values is not None and is_string(self.values.type) and is_string(values.type):
            return self._number(values)
        check_ids_alike(values.type, kind, files, self.column)
        return comparable(values)

    def of_run(self, values: pa.Array) -> pa.Array:
        """Returns the `comparable` ids that the run's rows have of those in rows of users; null for new ones."""
        return comparable(values) if self.raw is None else self._read(values, "the rows of users")

    @cached_property
    def _reader(self) -> FeatureReader:
        assert self.raw is not None
        return FeatureReader(*self.raw)

    def _read(self, values: pa.Array, files: str) -> pa.Array:
        reader = self._reader
        there, ids = values.is_valid().to_numpy(zero_copy_only=False), np.zeros(len(values), np.int64)
        if there.any():
            (column,) = reader.columns
            reader.check(pa.schema([(column, values.type)]), files)
            ids[there] = reader(pa.record_batch({column: values.filter(pa.array(there))}), files).values
        if isinstance(getattr(reader.feature, "ids", None), Vocabulary):
            there &= ids > 0
        found = pa.array(ids, mask=~there)
        return found if self.values is None else pc.coalesce(found, self._number(values))

    def _number(self, names: pa.Array) -> pa.Array:
        """Returns the numbers of what ids are called; null for what none is."""
        assert self.values is not None
        names = names.cast(self.values.type)
        return pc.add(pc.index_in(names, value_set=self.values, skip_nulls=True).cast(pa.int64()), 1)

    def ids(self, names: Sequence[object], kind: pa.DataType, option: str) -> pa.Array:
        """Returns the ids, of a column of type `kind`, of what a user calls them.

        Raises UserError for a name of another type, or one that the vocabulary lacks; option: what they were given as.
        """
        wanted = kind if self.values is None else self.values.type
        try:
            if is_string(wanted):
                found = pa.array([str(name) for name in names], pa.string()).cast(wanted)
            else:
                found = pa.array([int(str(name)) for name in names], pa.int64()).cast(wanted)
        except (ValueError, OverflowError, pa.ArrowException):
            wrong = str(next((name for name in names if not str(name).removeprefix("-").isdigit()), names[0]))
            raise UserError(f"{option}: found {wrong!r}, expected integers, as column {self.column!r} has") from None
        if self.values is None:
            return found
        places = pc.index_in(found, value_set=self.values)
        if places.null_count:
            first = names[int(np.flatnonzero(places.is_null().to_numpy(zero_copy_only=False))[0])]
            raise UserError(f"{option}: {str(first)!r} is not in the vocabulary of {self.column!r}")
        return pc.add(places.cast(pa.int64()), 1).cast(kind)


def item_names(blueprint: Blueprint, catalogue: Catalogue, *, raw: bool = False) -> KeyNames:
    """Returns what items are called, by rows as the run's or, with `raw`, as before preparation."""
    return replace(_names(blueprint, catalogue.item, raw=raw), values=catalogue.values)


def user_names(blueprint: Blueprint, *, raw: bool = False) -> KeyNames:
    """Returns what users are called, likewise. Raises UserError where it is not known which feature that is."""
    return _names(blueprint, user_feature(blueprint.config, blueprint.schema), raw=raw)


def known_user_names(blueprint: Blueprint, *, raw: bool = False) -> KeyNames | None:
    """Returns what users are called; None where that is not known."""
    try:
        return user_names(blueprint, raw=raw)
    except UserError:
        return None


def _names(blueprint: Blueprint, feature: str, *, raw: bool) -> KeyNames:
    schema, folder = blueprint.schema, blueprint.config.data.schema_folder
    if raw and not is_string(column_type(blueprint, schema[feature].columns[0])):  # strings are as they were
        return KeyNames.of_raw(schema.raw()[feature], folder)
    return KeyNames.of(schema, feature, folder)
