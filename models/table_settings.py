"""Table settings say how a table is kept: its dtype, optimizer, first values and where its rows lie."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from shardrec.models.dynamic_ids import DynamicConfig

Dtype = Literal["fp32", "fp16", "int8"]
Rounding = Literal["stochastic", "nearest"]
Pooling = Literal["sum", "mean"]
Placement = Literal["data_parallel", "table_wise", "column_wise", "row_wise", "table_row_wise", "grid"]
Memory = Literal["device", "managed", "host", "cached"]


class TableOptimizer(BaseModel):
    """A table's optimizer updates its rows, by a rule of `sharding/updates/rules.py` or `sharding/updates/ftrl.py`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

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
    """Fresh rows are drawn from this distribution, which never depends on the number of rows or on the plan."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["uniform", "normal"] = "uniform"
    scale: float = Field(default=0.01, ge=0, description="uniform on [-scale, scale], or the standard deviation")


class InitSettings(BaseModel):
    """A run file may say this of fresh rows. None: as the model declares."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["uniform", "normal"] | None = None
    scale: float | None = Field(default=None, ge=0)

    def over(self, declared: TableInit) -> TableInit:
        """Returns `declared` with what these settings give in its place."""
        return declared.model_copy(update={key: value for key, value in self if value is not None})


class TableSettings(BaseModel):
    """A run file may say this of tables, by name pattern. None: as the model declares, else the run's default."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    embedding_dim: int | None = Field(default=None, gt=0, lt=2**31, description="columns beside a table's zero columns")
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

    @field_validator("optimizer", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, dict) and "name" not in value:
            raise ValueError("an optimizer of some tables is whole, and takes nothing from the others': say its name")
        return value

    @field_validator("dynamic", mode="before")
    @classmethod
    def _switched(cls, value: Any) -> Any:
        return {} if value is True else value
