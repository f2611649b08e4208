"""What a model asks of the tables and the batch: its inputs, and the `Fields` from which it declares them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import Tensor

from shardrec.data_pipeline.declaration import unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import IdFeature, IdListFeature, Raw, Schema, SequenceFeature, SparseFeature
from shardrec.models.dynamic_ids import DynamicConfig, DynamicIds

Dtype = Literal["fp32", "fp16", "bf16", "int8"]
Rounding = Literal["stochastic", "nearest"]
Pooling = Literal["sum", "mean"]
Placement = Literal["data_parallel", "table_wise", "column_wise", "row_wise"]
Memory = Literal["device", "managed", "host", "cached"]


class TableOptimizer(BaseModel):
    """How a table's rows are updated. The rules are in `sharding/updates/rules.py` and `sharding/updates/ftrl.py`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["sgd", "adagrad", "rowwise_adagrad", "rmsprop", "adam", "ftrl"] = "rowwise_adagrad"
    learning_rate: float = Field(default=0.05, gt=0, description="ftrl: alpha")
    eps: float = Field(default=1e-8, gt=0, description="adagrad, rowwise_adagrad, rmsprop, adam")
    momentum: float = Field(default=0.0, ge=0, lt=1, description="sgd")
    smoothing: float = Field(default=0.99, ge=0, lt=1, description="rmsprop: share of the mean square that stays")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.9, 0.999), description="adam"
    )
    beta: float = Field(default=1.0, gt=0, description="ftrl")
    l1: float = Field(default=0.0, ge=0, description="ftrl: the larger, the more weights are exactly 0")
    l2: float = Field(default=0.0, ge=0, description="ftrl")
    weight_decay: float = Field(default=0.0, ge=0, description="L2 of rows, as `decay` says; not of ftrl")
    decay: Literal["batch", "frequency", "table"] = Field(
        default="batch",
        description="what each step decays: the rows in the batch; these, beside the gradient and by 1 / the number of "
        "training rows that they occur in (mini-batch-aware L2); or all rows of a data-parallel table",
    )

    @model_validator(mode="after")
    def _settings_are_the_optimizers(self) -> Self:
        """Raises ValueError for a setting, other than its default, that the named optimizer does not have."""
        for setting, owners in _OPTIMIZERS_WITH.items():
            if self.name not in owners and getattr(self, setting) != type(self).model_fields[setting].default:
                remedy = "l2 is its L2" if self.name == "ftrl" and "decay" in setting else "leave it out"
                raise ValueError(f"{setting} is a setting of {', '.join(owners)}, not of {self.name}; {remedy}")
        if self.decay == "frequency" and self.weight_decay == 0:
            raise ValueError(
                "decay: frequency decays by weight_decay, which is 0; set weight_decay, or leave decay out"
            )
        return self


_OPTIMIZERS_WITH = {
    "eps": ("adagrad", "rowwise_adagrad", "rmsprop", "adam"),
    "momentum": ("sgd",),
    "smoothing": ("rmsprop",),
    "betas": ("adam",),
    "beta": ("ftrl",),
    "l1": ("ftrl",),
    "l2": ("ftrl",),
    "weight_decay": ("sgd", "adagrad", "rowwise_adagrad", "rmsprop", "adam"),
    "decay": ("sgd", "adagrad", "rowwise_adagrad", "rmsprop", "adam"),
}


class TableInit(BaseModel):
    """Distribution of fresh rows; it never depends on the number of rows or on the plan."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["uniform", "normal"] = "uniform"
    scale: float = Field(default=0.01, ge=0, description="uniform on [-scale, scale], or the standard deviation")


class InitSettings(BaseModel):
    """What a run file may say of fresh rows. None: as the model declares."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["uniform", "normal"] | None = None
    scale: float | None = Field(default=None, ge=0)

    def over(self, declared: TableInit) -> TableInit:
        return declared.model_copy(update={key: value for key, value in self if value is not None})


class TableSettings(BaseModel):
    """What a run file may say of tables, by name pattern. None: as the model declares, else the run's default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    embedding_dim: int | None = Field(default=None, gt=0, description="columns beside a table's zero columns")
    dtype: Dtype | None = None
    rounding: Rounding | None = None
    init: InitSettings | None = None
    optimizer: TableOptimizer | None = None
    placement: Placement | None = None
    memory: Memory | None = Field(
        default=None,
        description="where a GPU's rows are: device memory; host memory, as CUDA's managed or as pinned memory, read "
        "over the bus; or managed memory with a cache in device memory. CPU workers have one memory",
    )
    cache_share: float | None = Field(default=None, gt=0, le=1, description="memory: cached: of the rows, cached")
    dynamic: DynamicConfig | Literal[False] | None = Field(
        default=None, description="for unbounded ids; true: with default settings, false: not, whatever was said before"
    )

    @field_validator("dynamic", mode="before")
    @classmethod
    def _switched(cls, value: Any) -> Any:
        return {} if value is True else value


@dataclass(frozen=True, kw_only=True)
class EmbeddingTable:
    """[num_embeddings, embedding_dim] weights. Two inputs share a table by using an equal object of the same name.

    embedding_dim: all columns, the zero ones included.
    zero_columns: so many leading columns start at 0 (an FM's first-order weight beside its factors).
    dynamic: rows are given to ids as they come; None: an id is the number of its row.
    memory: of a GPU's rows; cache_share: of them those that `cached` ones have device memory for.
    frozen: rows are only read, so that there is no optimizer state; only such a table's dtype may be int8.
    optimizer: None takes the run's default. placement: None lets the planner choose. rounding: of fp16 rows.
    """

    name: str
    num_embeddings: int
    embedding_dim: int
    dtype: Dtype = "fp32"
    rounding: Rounding = "stochastic"
    init: TableInit = field(default_factory=TableInit)
    zero_columns: int = 0
    optimizer: TableOptimizer | None = None
    pooling: Pooling = "sum"
    placement: Placement | None = None
    memory: Memory = "device"
    cache_share: float = 0.2
    dynamic: DynamicIds | None = None
    frozen: bool = False


@dataclass(frozen=True)
class PooledEmbeddings:
    """feature -> table; the tower gets [B, F, D], or with `concat` [B, sum of D] (dims may then differ).

    Raises UserError where the tower gets [B, F, D] and two features' dims differ.
    """

    tables: Mapping[str, EmbeddingTable]
    concat: bool = False

    def __post_init__(self) -> None:
        if self.concat:
            return
        (first, one), *others = self.tables.items()
        for feature, other in others:
            if other.embedding_dim != one.embedding_dim:
                raise UserError(
                    f"tables: this model needs one embedding_dim for all its features, but the rows of {first!r} "
                    f"(table {one.name!r}) have {one.embedding_dim} columns and those of {feature!r} "
                    f"(table {other.name!r}) {other.embedding_dim}; set one embedding_dim for both"
                )

    @property
    def width(self) -> int:
        """Sum of the features' dims: the columns that a tower sees once fields are laid side by side."""
        return sum(table.embedding_dim for table in self.tables.values())


@dataclass(frozen=True)
class SequenceEmbeddings:
    """aligned features -> table; the tower gets `Jagged`.

    training_only: evaluation and prediction neither read nor look up its features, and leave the tower's parameter at
    its default.
    """

    tables: Mapping[str, EmbeddingTable]
    training_only: bool = False


@dataclass(frozen=True)
class DenseFeatures:
    """dense features; the tower gets [B, N], which is [B, 0] where a schema has none."""

    features: tuple[str, ...]


class Jagged(NamedTuple):
    """Sequences of B rows without padding; row b owns positions offsets[b] .. offsets[b + 1].

    values: [T, F, D], F aligned features; lengths: [B] int64; offsets: [B + 1] int64; weights: [T] or None
    """

    values: Tensor
    lengths: Tensor
    offsets: Tensor
    weights: Tensor | None = None


Input = PooledEmbeddings | SequenceEmbeddings | DenseFeatures


class Fields:
    """The features that a model may use, and the tables that their ids look up under a run file's settings.

    A table is called after its id space (`Schema`'s `table`), with `group/` before it where a model keeps several sets
    of tables (Wide&Deep's `wide/` and `deep/`). `settings` maps name patterns (`*`, `deep/C*`) to `TableSettings`;
    later patterns win.
    """

    def __init__(self, schema: Schema, settings: Mapping[str, TableSettings] | None = None) -> None:
        self.schema = schema
        self.settings = dict(settings or {})
        self._matched: set[str] = set()

    @property
    def pooled(self) -> tuple[str, ...]:
        """Names of the id and id-list features, those that hold labels left out: the fields of an interaction model."""
        return tuple(
            f.name
            for f in self.schema.features
            if isinstance(f, IdFeature) or (isinstance(f, IdListFeature) and f.weights_are == "values")
        )

    @property
    def sequences(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.schema.features if isinstance(f, SequenceFeature))

    @property
    def dense(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.schema.dense)

    def select(self, patterns: Iterable[str] | None) -> tuple[str, ...]:
        """The pooled features that match any of the name patterns, in the schema's order (None: all).

        Raises UserError for a pattern that matches none.
        """
        if patterns is None:
            return self.pooled
        patterns = tuple(patterns)
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in self.pooled):
                raise UserError("model: " + unknown("id or id_list feature", pattern, self.pooled))
        return tuple(name for name in self.pooled if any(fnmatchcase(name, p) for p in patterns))

    def table(
        self, feature: str, *, embedding_dim: int, zero_columns: int = 0, group: str = "", **defaults: Any
    ) -> EmbeddingTable:
        """The table of one feature; `defaults` are further arguments of `EmbeddingTable`, which settings override.

        Of `init` they override what they give, its `kind` or its `scale`.

        A row has `zero_columns + embedding_dim` columns. A setting's `embedding_dim` counts the latter; rows of zero
        columns only (embedding_dim=0: linear weights) have a width that settings cannot change. Raises UserError for a
        dense or an unknown feature, and for a dim where there is none to set.
        """
        declared = self.schema[feature]
        if not hasattr(declared, "table_name"):
            raise UserError(f"feature {feature!r} is dense; a table needs an id, id_list or sequence feature")
        name = f"{group}/{declared.table_name}" if group else declared.table_name
        said: dict[str, Any] = {}
        init = defaults.pop("init", TableInit())
        for pattern, settings in self.settings.items():
            if fnmatchcase(name, pattern):
                self._matched.add(pattern)
                given = {k: getattr(settings, k) for k in settings.model_fields_set}
                said |= {k: v for k, v in given.items() if v is not None}
                init = settings.init.over(init) if settings.init else init
                if embedding_dim == 0 and "embedding_dim" in said:
                    raise UserError(
                        f"tables: {pattern!r} sets embedding_dim {said['embedding_dim']}, but table {name!r} holds "
                        f"{zero_columns} linear weight(s) a row; name only tables whose width can be chosen"
                    )
        if "cache_share" in said and said.get("memory") != "cached":
            raise UserError(
                f"tables: {name!r} has cache_share {said['cache_share']:g}, but its memory is "
                f"{said.get('memory', 'device')}; set memory: cached, or leave cache_share out"
            )
        dim = zero_columns + said.pop("embedding_dim", embedding_dim)
        dynamic = _dynamic_ids(name, declared, said.pop("dynamic", None) or None)
        return EmbeddingTable(
            name=name,
            num_embeddings=dynamic.num_embeddings if dynamic else declared.num_embeddings,
            dynamic=dynamic,
            embedding_dim=dim,
            zero_columns=zero_columns,
            **(defaults | said | {"init": init}),
        )

    def tables(
        self, *, embedding_dim: int, features: Iterable[str] | None = None, group: str = "", **defaults: Any
    ) -> dict[str, EmbeddingTable]:
        """feature -> table, for `features` (default: all pooled ones). Raises UserError where there is no feature."""
        names = self.pooled if features is None else tuple(features)
        if not names:
            raise UserError("the model needs at least one id or id_list feature; the schema (or its subset) has none")
        return {f: self.table(f, embedding_dim=embedding_dim, group=group, **defaults) for f in names}

    def check_all_settings_used(self, tables: Iterable[str]) -> None:
        """Raises UserError for a pattern of the run file that matched no table of the model."""
        for pattern in self.settings:
            if pattern != "*" and pattern not in self._matched:
                raise UserError("tables: " + unknown("table", pattern, sorted(set(tables))))


def _dynamic_ids(table: str, declared: SparseFeature, config: DynamicConfig | None) -> DynamicIds | None:
    is_raw = isinstance(declared.ids, Raw)
    if is_raw and (config is None or config.rows is None):
        pattern = f'"*/{declared.table_name}"' if "/" in table else table
        raise UserError(
            f"tables: the ids of feature {declared.name!r} are raw, any 64-bit number, but table {table!r} does not "
            f"say how many of them have a row; set `tables: {{{pattern}: {{dynamic: {{rows: ...}}}}}}`, or hash the ids"
        )
    if config is None:
        return None
    rows = declared.num_embeddings if config.rows is None else config.rows
    return DynamicIds(declared.table_name, config.model_copy(update={"rows": rows}))
