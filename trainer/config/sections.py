"""The run file is one YAML document that says everything about a run, checked before anything starts.

`load` reads it, applies `--set a.b=c` overrides and returns a `RunConfig`; an unknown key is an error that names the
nearest known one. Paths are relative to the working directory.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from shardrec.data_pipeline.declared.declaration import Name, Place, given_twice
from shardrec.data_pipeline.declared.documents import dump_document
from shardrec.data_pipeline.declared.sizes import parse_bytes
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.crosses import CrossedFeatures
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.sampling.settings import NegativeSampling
from shardrec.models.table_settings import TableOptimizer, TableSettings
from shardrec.sharding.planning.exchange import Exchange
from shardrec.trainer.config.catalogue import CatalogueEvaluation, CatalogueSettings
from shardrec.trainer.config.init_from import InitFrom
from shardrec.trainer.config.launch import LaunchConfig
from shardrec.trainer.config.section import Section
from shardrec.trainer.config.tracking import TrackingConfig
from shardrec.trainer.config.tuning import TuneConfig

Paths = Place | Annotated[tuple[Place, ...], Field(min_length=1, max_length=1_000_000)]
Count = Annotated[int, Field(gt=0, lt=2**31)]
"""A count is of things that are made one by one: rows of a batch, steps, epochs, seconds."""

SPLITS = ("train", "validation", "test")


class DataConfig(Section):
    """Says which rows, in which order. `path` is a folder of `shardrec prepare`; the other paths override its parts."""

    path: Place | None = None
    schema_path: Place | None = Field(default=None, alias="schema", description="default: PATH/schema.yaml")
    train: Paths | None = None
    validation: Paths | None = None
    test: Paths | None = None
    features: tuple[Name, ...] | None = Field(default=None, description="subset of the schema's features")
    share: dict[Name, tuple[Name, ...]] = Field(default={}, description="table name -> features that share it")
    crosses: tuple[CrossedFeatures, ...] = Field(default=(), description="combinations of features, as features")
    global_batch_size: Count = 4096
    evaluation_batch_size: Count | None = None
    order: Literal["shuffled", "time"] = "shuffled"
    lanes: Count | None = None
    window: Count = 16384
    memory: int = Field(default=1 << 30, gt=0, lt=2**63, description="bytes of decoded rows that a rank keeps")
    prefetch: int = Field(default=4, gt=0, le=1024, description="batches made ahead")
    readers: int = Field(default=0, ge=0, le=256, description="a worker's processes that decode training rows")
    max_bad_fraction: float = Field(
        default=0.0, ge=0, lt=1, description="of rows that are trained on or evaluated, which may not be readable"
    )
    class_weights: dict[float, float] | None = None
    negatives: NegativeSampling | None = Field(default=None, description="drawn for each training row in each epoch")
    catalogue: CatalogueSettings = Field(default=CatalogueSettings(), description="the items that there are")

    @field_validator("memory", mode="before")
    @classmethod
    def _memory(cls, value: Any) -> Any:
        return parse_bytes(value)

    @field_validator("crosses")
    @classmethod
    def _of_different_names(cls, crosses: tuple[CrossedFeatures, ...]) -> tuple[CrossedFeatures, ...]:
        names = [cross.feature_name for cross in crosses]
        if (twice := given_twice(names)) is not None:
            raise ValueError(f"two crosses make a feature {twice!r}; give one of them another `name`")
        return crosses

    @property
    def schema_file(self) -> str:
        """Returns the path or URI of the schema. Raises UserError where none is given."""
        if self.schema_path:
            return self.schema_path
        if self.path:
            return f"{self.path.rstrip('/')}/schema.yaml"
        raise UserError("data: neither `path` nor `schema` is given; name a folder made by `shardrec prepare`")

    @property
    def schema_folder(self) -> str:
        """Returns the folder of the schema's vocabularies."""
        return os.path.dirname(self.schema_file)

    def split(self, name: str) -> Paths | None:
        """Returns a split's paths, None where the data set lacks it.

        Raises UserError where there is no train split, and where the whole folder is missing.
        """
        paths: Paths | None = getattr(self, name)
        if paths is not None:
            return paths
        folder = f"{(self.path or '').rstrip('/')}/{name}"
        if self.path and _exists(folder):
            return folder
        if self.path and not _exists(self.path):
            raise UserError(f"data.path: no folder {self.path}; name the folder that holds the data set")
        if name == "train":
            raise UserError(f"data: no training rows; expected {self.path or 'path'}/train or a `train` entry")
        return None


class _Optimizer(Section):
    """Has the settings of an optimizer of tower parameters: torch.optim's, or FTRL-Proximal as tables have it."""

    name: Literal["sgd", "adagrad", "rmsprop", "adam", "ftrl"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0, description="ftrl: alpha")
    eps: float = Field(default=1e-8, gt=0, description="adagrad, rmsprop, adam")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.9, 0.999), description="adam"
    )
    momentum: float = Field(default=0.0, ge=0, description="sgd, rmsprop")
    beta: float = Field(default=1.0, gt=0, description="ftrl")
    l1: float = Field(default=0.0, ge=0, description="ftrl")
    l2: float = Field(default=0.0, ge=0, description="ftrl")

    @property
    def has_momentum(self) -> bool:
        """Returns whether it keeps a moving sum of gradients; Adam's moments are its own."""
        return self.name in ("sgd", "rmsprop") and self.momentum > 0

    def _refuse(self, settings: Mapping[str, tuple[str, ...]]) -> None:
        """Raises ValueError for one of these settings, other than its default, that the optimizer does not have."""
        for setting, owners in settings.items():
            if self.name not in owners and getattr(self, setting) != type(self).model_fields[setting].default:
                remedy = "l2 is its L2" if self.name == "ftrl" and setting == "weight_decay" else "leave it out"
                raise ValueError(f"{setting} is a setting of {', '.join(owners)}, not of {self.name}; {remedy}")


_OF_FTRL = {setting: ("ftrl",) for setting in ("beta", "l1", "l2")}
_OF_OTHERS = {
    "eps": ("adagrad", "rmsprop", "adam"),
    "betas": ("adam",),
    "momentum": ("sgd", "rmsprop"),
    "weight_decay": ("sgd", "adagrad", "rmsprop", "adam"),
}


class ParameterOptimizer(_Optimizer):
    """Says how some of the tower's parameters are updated: all that it leaves out has its default."""

    name: Literal["sgd", "adagrad", "rmsprop", "adam", "ftrl"]
    weight_decay: float = Field(default=0.0, ge=0, description="L2; not of ftrl")

    @model_validator(mode="after")
    def _settings_are_the_optimizers(self) -> "ParameterOptimizer":
        self._refuse(_OF_FTRL | _OF_OTHERS)
        return self


class TowerOptimizer(_Optimizer):
    """Says how the tower is updated, and which of its parameters are updated by others than the rest."""

    weight_decay: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default={"*": 0.0}, description="L2 by parameter name pattern, later ones win; a number is for all parameters"
    )
    clip_norm: float | None = Field(default=None, gt=0, description="largest norm of the tower's gradient")
    parameters: dict[str, ParameterOptimizer] = Field(
        default={}, description="optimizers of their own, by parameter name pattern; later ones win"
    )

    @field_validator("weight_decay", mode="before")
    @classmethod
    def _of_all(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("expected a number, or numbers by parameter name pattern")
        return value if isinstance(value, Mapping) else {"*": value}

    @model_validator(mode="after")
    def _settings_are_the_optimizers(self) -> "TowerOptimizer":
        self._refuse(_OF_FTRL)
        if self.name == "ftrl":
            self._refuse(_OF_OTHERS | {"weight_decay": ("ftrl",)})
            if any(self.weight_decay.values()):
                raise ValueError("weight_decay is not a setting of ftrl; l2 is its L2")
        return self


class Schedule(Section):
    """A schedule is a factor on both learning rates: linear warm-up from 0, then decay until the last step."""

    warmup_steps: int = Field(default=0, ge=0, lt=2**63)
    decay: Literal["none", "linear", "cosine"] = "none"
    final_factor: float = Field(default=0.0, ge=0, le=1)


class OptimizerConfig(Section):
    """Says how tables and tower are updated."""

    tables: TableOptimizer = TableOptimizer()
    tower: TowerOptimizer = TowerOptimizer()
    schedule: Schedule = Schedule()


class EvaluationConfig(Section):
    """Says when the validation split is scored: every n steps, every n epochs, or both.

    `at_start` scores it before the first step too, so that a run that starts from another one may find that nothing
    beats what it was given. `test` scores the test split as often, for the record only: nothing is chosen by it.
    `catalogue` measures lists of the whole catalogue beside the task's metrics, wherever rows are evaluated.
    """

    every_steps: Count | None = None
    every_epochs: Count | None = 1
    at_start: bool = False
    test: bool = False
    catalogue: CatalogueEvaluation | None = Field(default=None, description="lists of the whole catalogue")


class EarlyStopping(Section):
    """Training stops after `patience` evaluations without an improvement of more than `min_delta`."""

    metric: str | None = Field(default=None, description="default: best_metric, else the task's first")
    patience: Count = 1
    min_delta: float = Field(default=0.0, ge=0)


class CheckpointConfig(Section):
    """The last `keep` checkpoints stay, and the best. One is always written at the end of training."""

    every_steps: Count | None = None
    every_epochs: Count | None = 1
    keep: Count = 2
    background: bool = Field(default=False, description="write copies in a thread while training goes on")
    copy_memory: int = Field(default=2 << 30, gt=0, lt=2**63, description="bytes that a worker's copies may take")

    @field_validator("copy_memory", mode="before")
    @classmethod
    def _copy_memory(cls, value: Any) -> Any:
        return parse_bytes(value)


class TrainerConfig(Section):
    """Says how long a run trains, how precisely, and what it does between steps."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    epochs: Count = 1
    max_steps: int | None = Field(default=None, gt=0, lt=2**63)
    precision: Literal["fp32", "bf16", "auto"] = Field(
        default="fp32", description="of the tower but for its last layer; auto: as the chip is fast at it, for good"
    )
    matmul_precision: Literal["auto", "highest", "high", "medium"] = "auto"
    deterministic: bool = Field(default=False, description="the same bits on a GPU, and for any number of threads")
    exchange: Exchange = Field(default="fp32", description="of vectors and their gradients, between workers")
    on_divergence: Literal["stop", "rollback"] = Field(
        default="stop", description="rollback: to the last good checkpoint, three times at most, then at half the rates"
    )
    pipeline: bool = Field(default=True, description="prepare batches while a step computes; `off` for comparison")
    evaluation: EvaluationConfig = EvaluationConfig()
    best_metric: str | None = Field(
        default=None, description="default: early stopping's, else the task's first; one metric for both"
    )
    early_stopping: EarlyStopping | None = None
    checkpoint: CheckpointConfig = CheckpointConfig()
    progressive_validation: bool = Field(default=False, description="score each batch before training on it")
    log_every_steps: Count = 50
    tensorboard: bool = True
    tracking: TrackingConfig | None = Field(default=None, description="beside TensorBoard: mlflow, wandb or both")

    @model_validator(mode="after")
    def _selects_by_one_metric(self) -> "TrainerConfig":
        stopping = self.early_stopping
        if stopping and stopping.metric and self.best_metric not in (None, stopping.metric):
            raise ValueError(
                f"found best_metric {self.best_metric!r} beside early_stopping.metric {stopping.metric!r}, expected "
                "one metric for both; leave best_metric out, or give early_stopping its metric"
            )
        return self

    @property
    def selection_metric(self) -> str | None:
        """Returns the metric that decides what `best` is, where the run file names one."""
        return (self.early_stopping.metric if self.early_stopping else None) or self.best_metric


class RunConfig(Section):
    """The configuration of a run, or of a chain. `model` is a name or `module:Class`, with its settings beside it."""

    run: Place = Field(description="the run folder, or its URI in an object store")
    data: DataConfig
    model: dict[str, Any] = Field(default={})
    tables: dict[str, TableSettings] = Field(default={})
    optimizer: OptimizerConfig = OptimizerConfig()
    trainer: TrainerConfig = TrainerConfig()
    launch: LaunchConfig = LaunchConfig()
    init_from: tuple[InitFrom, ...] = Field(default=(), description="tables and tower parameters to start from")
    import_from: Place | None = Field(default=None, description="folder appended to sys.path for `module:Class` models")
    stages: tuple[dict[str, Any], ...] = Field(
        default=(),
        max_length=1000,
        description="runs in turn, each a partial run file with a `name`, merged over the rest",
    )
    variants: dict[str, dict[str, Any]] = Field(
        default={}, exclude=True, description="name -> partial run file, merged over the rest where it is asked for"
    )

    tune: TuneConfig | None = Field(default=None, exclude=True, description="what `shardrec tune` searches for")

    @field_validator("model", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("init_from", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Takes a run folder alone for all that it holds."""
        value = {"run": value} if isinstance(value, str) else value
        return [value] if isinstance(value, Mapping | InitFrom) else value or ()

    @model_validator(mode="after")
    def _has_name(self) -> "RunConfig":
        if not self.stages and not isinstance(self.model.get("name"), str):
            raise ValueError("model: needs a `name`")
        return self

    @model_validator(mode="after")
    def _starts_once(self) -> "RunConfig":
        if len(self.init_from) > 1 and any(source.is_whole for source in self.init_from):
            raise ValueError("init_from: an entry without `tables` and `parameters` takes all; it must be the only one")
        return self

    @property
    def run_folder(self) -> Path:
        """Returns the run folder on this machine: of a run in a store, its mirror."""
        from shardrec.data_pipeline.stores.mirrors import local  # loads pyarrow

        return local(self.run)

    def load_schema(self) -> Schema:
        """Returns the schema of the features that this run uses, with its crosses and the tables that it shares.

        A cross may be of features that are not used otherwise. Raises UserError for unknown features, for what cannot
        be crossed, and for features of different ids that are to share a table.
        """
        schema = Schema.load(self.data.schema_file)
        for cross in self.data.crosses:
            schema = cross.added_to(schema)
        if self.data.features is not None:
            schema = schema.chosen((*self.data.features, *(cross.feature_name for cross in self.data.crosses)))
        for table, features in self.data.share.items():
            schema = schema.sharing(table, features)
        return schema

    def with_precision(self, precision: Any) -> "RunConfig":
        """Returns the configuration with another `trainer.precision`."""
        return self.model_copy(update={"trainer": self.trainer.model_copy(update={"precision": precision})})

    def dump(self) -> str:
        """Returns the resolved run file as YAML."""
        return dump_document(self.model_dump(mode="json", by_alias=True))


def _exists(path: str) -> bool:
    """Returns whether a local path or URI is there. Raises UserError for a URI that no file system knows."""
    if "://" not in path:
        return os.path.exists(path)
    import pyarrow as pa
    from pyarrow.fs import FileType

    from shardrec.data_pipeline.stores.filesystems import opened
    from shardrec.data_pipeline.stores.retries import is_away, tried

    try:
        system, place = opened(path)
        found = tried(lambda: system.get_file_info(place), f"{path}: looked for", again=is_away)
        return bool(found.type != FileType.NotFound)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be reached: {str(error).splitlines()[0]}") from None
