"""A recipe says what raw columns become: a schema whose vocabularies, means and deviations are still to be fitted."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from math import isfinite
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from shardrec.data_pipeline.declared.declaration import Declaration, Name
from shardrec.data_pipeline.features.dense_transforms import Standardise
from shardrec.data_pipeline.features.feature_kinds import (
    DenseFeature,
    DenseSequenceFeature,
    Feature,
    FeatureCross,
    IdFeature,
    IdListFeature,
    NumericFeature,
    SequenceFeature,
    SparseFeature,
)
from shardrec.data_pipeline.features.id_transforms import Cross, Identity, Raw, Vocabulary
from shardrec.data_pipeline.features.schema import Label, Schema
from shardrec.data_pipeline.files.file_names import file_stems
from shardrec.data_pipeline.prepare.steps.recipe_features import (
    READ_AS,
    FitStandardise,
    FitVocabulary,
    RecipeDense,
    RecipeDenseSequence,
    RecipeFeature,
    RecipeId,
    RecipeIdList,
    RecipeSequence,
)
from shardrec.data_pipeline.prepare.steps.splits import ColumnSplit, HashSplit, SplitRule, TimeSplit
from shardrec.data_pipeline.prepare.steps.text import TextFormat


class Fitted(Declaration):
    """Fitted values are what the first pass finds.

    vocabularies: table -> size
    moments: feature of numbers -> (mean, deviation)
    """

    vocabularies: dict[str, int] = Field(default={})
    moments: dict[str, tuple[float, float]] = Field(default={})


class Recipe(Declaration):
    """A recipe makes features, labels and splits of raw columns.

    `negative_rate`: the share of negatives (first label <= 0) that training keeps. `weight`, `group`, `keys`,
    `propensity` and `time` are raw columns that are kept as they are, the last as numbers of `time_type`. `format` is
    for delimited files only.
    """

    format: TextFormat = TextFormat()
    features: tuple[RecipeFeature, ...] = Field(min_length=1)
    labels: tuple[Label, ...] = (Label(),)
    weight: Name | None = None
    group: Name | None = None
    keys: tuple[Name, ...] = ()
    split: SplitRule = HashSplit()
    negative_rate: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=0, ge=0, lt=2**64)
    propensity: Name | None = None
    time: Name | None = None
    time_type: Literal["integer", "number"] = "integer"

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        self._check_shared_vocabularies()
        self.schema_of(Fitted())  # what a schema refuses (names twice, unequal tables) is refused here
        self.raw_columns()
        self._check_written_names()
        fits: dict[str, FitVocabulary] = {}
        for f in self.sparse:
            if isinstance(f.ids, FitVocabulary) and fits.setdefault(f.table_name, f.ids) != f.ids:
                raise ValueError(f"features of table {f.table_name!r} declare different vocabularies")
        for label in self.labels:
            if not isfinite(label.threshold or 0) or (label.missing != "error" and not isfinite(label.missing)):
                raise ValueError(f"label {label.name!r}: threshold and missing must be finite numbers")
        if self.negative_rate < 1 and not self.labels:
            raise ValueError("negative_rate needs a label")
        return self

    def _check_shared_vocabularies(self) -> None:
        """Raises ValueError where features of one table cannot have as many rows, whatever is fitted."""
        first_of_table: dict[str, RecipeId | RecipeIdList | RecipeSequence] = {}
        for f in self.sparse:
            earlier = first_of_table.setdefault(f.table_name, f)
            both = f"features {earlier.name!r} and {f.name!r} share table {f.table_name!r}, but"
            kinds = [isinstance(each.ids, FitVocabulary) for each in (earlier, f)]
            if any(kinds) and not all(kinds):
                raise ValueError(f"{both} only one has a vocabulary; give them the same ids or other tables")
            missing = [getattr(each, "missing", "error") for each in (earlier, f)]
            if all(kinds) and missing[0] != missing[1]:
                raise ValueError(f"{both} only one has a row of missing values; give both `missing: row`, or neither")

    @property
    def sparse(self) -> tuple[RecipeId | RecipeIdList | RecipeSequence, ...]:
        """Returns the features of ids."""
        return tuple(f for f in self.features if not isinstance(f, RecipeDense | RecipeDenseSequence))

    @property
    def numeric(self) -> tuple[RecipeDense | RecipeDenseSequence, ...]:
        """Returns the features of numbers."""
        return tuple(f for f in self.features if isinstance(f, RecipeDense | RecipeDenseSequence))

    @property
    def needs_fit(self) -> bool:
        """Tells whether a first pass over training rows is needed."""
        standardised = any(isinstance(t, FitStandardise) for f in self.numeric for t in f.transforms)
        return standardised or any(isinstance(f.ids, FitVocabulary) for f in self.sparse)

    def vocabulary_paths(self) -> dict[str, str]:
        """Returns where the vocabulary of each table lies that is fitted."""
        return vocabulary_paths(f.table_name for f in self.sparse if isinstance(f.ids, FitVocabulary))

    def raw_columns(self) -> dict[str, pa.DataType]:
        """Returns the raw columns and their types. Raises ValueError where one is read as two types."""
        types: dict[str, pa.DataType] = {}
        for name, kind, reader in self._reads():
            if types.setdefault(name, kind) != kind:
                raise ValueError(
                    f"column {name!r} is read as {types[name]} and, by {reader}, as {kind}; declare one type"
                )
        others = (*self.keys, self.group, *(self.split.columns if isinstance(self.split, HashSplit) else ()))
        for column in others:
            if column is not None:
                types.setdefault(column, pa.string())
        if isinstance(self.split, ColumnSplit):
            types.setdefault(self.split.column, pa.string())
        if isinstance(self.split, TimeSplit):
            types.setdefault(self.split.column, READ_AS[self.split.type])
        return types

    def _reads(self) -> Iterator[tuple[str, pa.DataType, str]]:
        for f in self.sparse:
            many = isinstance(f, RecipeIdList | RecipeSequence)
            for column in f.columns:
                yield column, pa.list_(f.raw_type) if many else f.raw_type, f.name
            if isinstance(f, RecipeIdList) and f.weights:
                yield f.weights, pa.list_(pa.float64()), f.name
        for d in self.numeric:
            many = isinstance(d, RecipeDenseSequence)
            yield d.raw_column, pa.list_(pa.float64()) if many else pa.float64(), d.name
        for label in self.labels:
            yield label.columns[0], pa.float64(), label.name
        for numbers, name in ((self.weight, "weight"), (self.propensity, "propensity")):
            if numbers:
                yield numbers, pa.float64(), name
        if self.time:
            yield self.time, READ_AS[self.time_type], "time"

    def separators(self) -> dict[str, str]:
        """Returns what separates the elements of each list column."""
        result: dict[str, str] = {}
        for f in self.sparse:
            if isinstance(f, RecipeIdList | RecipeSequence):
                result[f.columns[0]] = f.separator
                if isinstance(f, RecipeIdList) and f.weights:
                    result[f.weights] = f.separator
        result |= {d.raw_column: d.separator for d in self.numeric if isinstance(d, RecipeDenseSequence)}
        return result

    def paired(self) -> frozenset[str]:
        """Returns the list columns whose elements belong to those of another list: by `aligned`, or as weights."""
        columns: set[str] = set()
        for f in self.sparse:
            if (isinstance(f, RecipeSequence) and f.aligned) or (isinstance(f, RecipeIdList) and f.weights):
                columns |= {f.columns[0], getattr(f, "weights", None) or f.columns[0]}
        return frozenset(columns)

    def gapped(self) -> frozenset[str]:
        """Returns the list columns whose empty elements are missing ones: the numbers of dense sequences."""
        return frozenset(d.raw_column for d in self.numeric if isinstance(d, RecipeDenseSequence))

    def written_name(self, column: str) -> str:
        """Returns the output's name of a raw column that is kept, where features of ids take their own names.

        A feature whose raw ids are table rows already is its raw column.
        """
        return f"{column}_raw" if column in self.rewritten else column

    @cached_property
    def rewritten(self) -> frozenset[str]:
        """Returns the features whose prepared column is not the raw one of their name."""
        return frozenset(f.name for f in self.sparse if not isinstance(f.ids, Identity) or f.columns != (f.name,))

    def _check_written_names(self) -> None:
        """Raises ValueError where two columns of prepared rows would have one name."""
        written: dict[str, str] = {}
        columns = [(f.name, f"feature {f.name!r}") for f in self.sparse if f.name in self.rewritten]
        columns += [
            (weights_name(f.name), f"the weights of {f.name!r}")
            for f in self.sparse
            if isinstance(f, RecipeIdList) and f.weights
        ]
        kept = dict.fromkeys([*(d.raw_column for d in self.numeric), *(x.columns[0] for x in self.labels)])
        kept |= dict.fromkeys(c for c in (self.weight, self.group, *self.keys, self.propensity, self.time) if c)
        kept |= dict.fromkeys(f.name for f in self.sparse if f.name not in self.rewritten)
        columns += [(self.written_name(column), f"column {column!r}") for column in kept]
        for name, source in columns:
            if (other := written.setdefault(name, source)) != source:
                raise ValueError(f"{other} and {source} would both be written as {name!r}; give a feature another name")
        lengths: dict[str, RecipeDenseSequence] = {}
        for d in self.numeric:
            if isinstance(d, RecipeDenseSequence):
                first = lengths.setdefault(d.raw_column, d)
                if first.max_length != d.max_length:
                    raise ValueError(
                        f"dense sequences {first.name!r} and {d.name!r} keep {first.max_length} and {d.max_length} "
                        f"elements of one column, {d.raw_column!r}; give them one max_length"
                    )

    def schema_of(self, fitted: Fitted) -> Schema:
        """Returns the schema that reads raw rows; what `fitted` lacks counts as empty."""
        features: list[Feature] = []
        paths = self.vocabulary_paths()
        for f in self.features:
            if isinstance(f, RecipeDense | RecipeDenseSequence):
                features.append(_numeric(f, fitted))
            else:
                features.append(_sparse(f, fitted, paths))
        return Schema(
            features=tuple(features),
            labels=self.labels,
            weight=self.weight,
            group=self.group,
            keys=self.keys,
            negative_rate=self.negative_rate,
            propensity=self.propensity,
            time=self.time,
        )

    def written_schema(self, fitted: Fitted) -> Schema:
        """Returns the schema of prepared rows: ids are table rows already."""
        features: list[Feature] = []
        for f in self.schema_of(fitted).features:
            if isinstance(f, NumericFeature):
                features.append(f.model_copy(update={"column": _unless(f.name, self.written_name(f.columns[0]))}))
                continue
            update: dict[str, Any] = {"ids": _written_ids(f), "column": None}
            update["missing"] = f.missing if isinstance(f.ids, Raw) else "error"
            if isinstance(f, IdListFeature) and f.weights:
                update["weights"] = weights_name(f.name)
            features.append(f.model_copy(update=update))
        name = self.written_name
        return Schema(
            features=tuple(features),
            labels=tuple(x.model_copy(update={"column": _unless(x.name, name(x.columns[0]))}) for x in self.labels),
            weight=name(self.weight) if self.weight else None,
            group=name(self.group) if self.group else None,
            keys=tuple(name(k) for k in self.keys),
            negative_rate=self.negative_rate,
            propensity=name(self.propensity) if self.propensity else None,
            time=name(self.time) if self.time else None,
        )


def weights_name(feature: str) -> str:
    """Returns the output column of an id list's weights."""
    return f"{feature}_weights"


def vocabulary_paths(tables: Iterable[str]) -> dict[str, str]:
    """Returns where each table's vocabulary lies, relative to the schema."""
    return {table: f"vocabularies/{stem}.parquet" for table, stem in file_stems(tables, "=").items()}


def _written_ids(f: SparseFeature) -> Identity | Raw:
    """Returns what reads a feature's prepared column."""
    if isinstance(f.ids, Raw):
        return Raw(prepared_column=_unless(f.name, f.columns[0]))
    prepared = None if isinstance(f.ids, Identity | FeatureCross) else f.ids
    source = None if prepared is None or isinstance(prepared, Cross) else _unless(f.name, f.columns[0])
    return Identity(num_ids=f.num_embeddings, prepared=prepared, prepared_column=source)


def _unless(default: str, name: str) -> str | None:
    return None if name == default else name


def _described(f: RecipeFeature) -> dict[str, Any]:
    """Returns what a feature of any kind says of itself, which the schema's says alike."""
    return {name: getattr(f, name) for name in ("name", "column", "role", "place", "of", "missing")}


def _sparse(f: RecipeId | RecipeIdList | RecipeSequence, fitted: Fitted, paths: Mapping[str, str]) -> SparseFeature:
    size = fitted.vocabularies.get(f.table_name, 0)
    fit = isinstance(f.ids, FitVocabulary)
    ids = Vocabulary(path=paths[f.table_name], size=size) if fit else f.ids
    common = _described(f) | {"ids": ids, "table": f.table}
    if isinstance(f, RecipeIdList):
        return IdListFeature(**common, weights=f.weights, max_length=f.max_length)
    if isinstance(f, RecipeSequence):
        return SequenceFeature(**common, max_length=f.max_length, aligned=f.aligned)
    return IdFeature(**common)


def _numeric(f: RecipeDense | RecipeDenseSequence, fitted: Fitted) -> NumericFeature:
    mean, deviation = fitted.moments.get(f.of or f.name, (0.0, 1.0))
    steps = tuple(
        Standardise(mean=mean, deviation=deviation) if isinstance(t, FitStandardise) else t for t in f.transforms
    )
    common = _described(f) | {"transforms": steps}
    if isinstance(f, RecipeDenseSequence):
        return DenseSequenceFeature(**common, max_length=f.max_length, aligned=f.aligned)
    return DenseFeature(**common)
