"""A recommender is inputs + tower + task: a plain dense module that knows no rank, device or file."""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from shardrec.data_pipeline.declaration import unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.inputs import DenseFeatures, Input, Jagged, SequenceEmbeddings
from shardrec.models.tables import EmbeddingTable
from shardrec.models.tasks import BinaryClassification, Pointwise, Regression, Task


class ModelConfig(BaseModel):
    """Base of every model's settings in a run file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _nested_settings_begin_with_the_models_own(cls, given: Any) -> Any:
        """What a run file leaves out of DIN's `attention` is as DIN has it, not as any other MLP."""
        if not isinstance(given, Mapping):
            return given
        filled = dict(given)
        for name, field in cls.model_fields.items():
            if isinstance(field.default, BaseModel) and isinstance(given.get(name), Mapping):
                filled[name] = field.default.model_dump(exclude_unset=True) | dict(given[name])
        return filled


class PointwiseConfig(ModelConfig):
    """Settings of every model that scores single rows."""

    task: Literal["binary", "regression"] = "binary"
    label: str | None = Field(default=None, description="name of the label; None: the schema's first")
    clip: tuple[float, float] | None = Field(default=None, description="range that a regression's predictions keep to")
    threshold: float = Field(
        default=0.5, gt=0, lt=1, description="probability from which accuracy calls a row positive"
    )
    top_k: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        default=(), description="k's of hr@k and ndcg@k among the rows of a group"
    )

    @model_validator(mode="after")
    def _clip_fits(self) -> "PointwiseConfig":
        if self.clip and self.task != "regression":
            raise ValueError("clip is for task: regression")
        if self.clip and self.clip[0] >= self.clip[1]:
            raise ValueError(f"clip needs its lower end first, found {list(self.clip)}")
        if self.top_k and self.task != "binary":
            raise ValueError(f"top_k is for task: binary, whose positives are ranked; found task: {self.task}")
        return self

    @property
    def start(self) -> float:
        """What a model with a global bias of its own starts it at: the middle of `clip`, 0 without one."""
        return sum(self.clip) / 2 if self.clip else 0.0

    def build_task(self, schema: Schema) -> Pointwise:
        """The task on the schema's label. Raises UserError for a label or a group that it does not have."""
        labels = [label.name for label in schema.labels]
        if not labels:
            raise UserError("the schema declares no label; training needs one")
        name = self.label or labels[0]
        if name not in labels:
            raise UserError("model: " + unknown("label", name, labels))
        if self.task == "regression":
            return Regression(name, self.clip)
        if self.top_k and schema.group is None:
            raise UserError(
                "model.top_k: the schema has no group whose rows would be ranked; name its column (`group: user`) in "
                "schema.yaml, or leave top_k out"
            )
        return BinaryClassification(name, schema.group is not None, schema.negative_rate, self.threshold, self.top_k)


class Explanation(NamedTuple):
    """Why rows score as they do: weights [B, P], and the P names of what each weight belongs to.

    Or `Jagged` weights of [T], one for each event of a history, and the name of a sequence whose ids the events have.
    """

    weights: Tensor | Jagged
    names: tuple[str, ...]


class Recommender(nn.Module):
    """Base of all models. `forward`'s parameter names are the names of `inputs`; the signature documents the data flow.

    A parameter with a default may be left out of the inputs: what only some schemas or settings have, or training.

    A model's constructor is `__init__(self, fields: Fields, config: ItsConfig)`. It calls this one first, then makes
    its layers. Raises TypeError where inputs and `forward` disagree, ValueError where two tables of one name do.
    """

    explain: ClassVar[Callable[..., Explanation] | None] = None
    """For `shardrec predict --explain`: a method of `forward`'s parameters. None: the model has no such weights."""

    def __init__(self, *, inputs: Mapping[str, Input], task: Task) -> None:
        super().__init__()
        parameters = inspect.signature(self.forward).parameters
        asked = tuple(parameters)
        needed = {name for name, parameter in parameters.items() if parameter.default is parameter.empty}
        if not needed <= set(inputs) <= set(asked):
            raise TypeError(f"{type(self).__name__}.forward takes {asked} but inputs declares {tuple(inputs)}")
        for name in needed:
            if _training_only(inputs[name]):
                raise TypeError(f"{type(self).__name__}.forward needs a default for {name!r}, which is training_only")
        self.inputs = dict(inputs)
        self.task = task
        self.tables

    @property
    def tables(self) -> dict[str, EmbeddingTable]:
        """All tables by name. Raises ValueError where two of one name differ."""
        found: dict[str, EmbeddingTable] = {}
        for given in self.inputs.values():
            for table in () if isinstance(given, DenseFeatures) else given.tables.values():
                if found.setdefault(table.name, table) != table:
                    raise ValueError(f"two tables are called {table.name!r}: {found[table.name]} and {table}")
        return found

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features that the inputs read, each once."""
        names: dict[str, None] = {}
        for given in self.inputs.values():
            names |= dict.fromkeys(given.features if isinstance(given, DenseFeatures) else given.tables)
        return tuple(names)

    @property
    def training_features(self) -> tuple[str, ...]:
        """Of `features` those that only `training_only` inputs read."""
        inputs = [given for given in self.inputs.values() if not _training_only(given)]
        always = {f for given in inputs for f in (given.features if isinstance(given, DenseFeatures) else given.tables)}
        return tuple(name for name in self.features if name not in always)

    def after_step(self) -> None:
        """Called after every optimizer step (DRN's target network)."""


def _training_only(given: Input) -> bool:
    return isinstance(given, SequenceEmbeddings) and given.training_only
