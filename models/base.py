"""A recommender is inputs + tower + task: a plain dense module that knows no rank, device or file."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.inputs import DenseFeatures, Input, Jagged, SequenceEmbeddings
from shardrec.models.retrieval import Retrieval, RetrievalLoss
from shardrec.models.shared_space import Towers, Vectors
from shardrec.models.table_reads import declared_tables
from shardrec.models.tables import EmbeddingTable
from shardrec.models.tasks import BinaryClassification, Pointwise, Regression, Task

RETRIEVING = ("mf", "gmf", "two_tower", "simplex", "youtube_dnn", "sasrec")
"""Names of the models that can be trained to retrieve, for messages."""


class ModelConfig(BaseModel):
    """A model's settings in a run file: a subclass declares one field each, and unknown keys are errors.

    The class is found by the annotation of the model's `__init__`, `config: MyConfig`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _nested_settings_begin_with_the_models_own(cls, settings: Any) -> Any:
        """Fills nested settings: what a run file leaves out of DIN's `attention` is DIN's own, not any MLP's."""
        if not isinstance(settings, Mapping):
            return settings
        filled = dict(settings)
        for name, field in cls.model_fields.items():
            if isinstance(field.default, BaseModel) and isinstance(settings.get(name), Mapping):
                filled[name] = field.default.model_dump(exclude_unset=True) | dict(settings[name])
        return filled


class PointwiseConfig(ModelConfig):
    """Every model that scores single rows has these settings: what is predicted, and how it is measured.

    Add the model's own as pydantic fields, and get its task by `build_task`:

        class MyConfig(PointwiseConfig):
            embedding_dim: int = Field(default=16, gt=0)
    """

    task: Literal["binary", "regression", "retrieval"] = "binary"
    label: str | None = Field(default=None, description="name of the label; None: the schema's first")
    clip: tuple[float, float] | None = Field(default=None, description="range that a regression's predictions keep to")
    threshold: float = Field(
        default=0.5, gt=0, lt=1, description="probability from which accuracy calls a row positive"
    )
    top_k: tuple[Annotated[int, Field(gt=0, lt=2**31)], ...] = Field(
        default=(), description="k's of hr@k, ndcg@k, recall@k and precision@k, and mrr, among the rows of a group"
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
        """Returns the value at which a model starts its global bias: the middle of `clip`, 0 without one."""
        return sum(self.clip) / 2 if self.clip else 0.0

    def build_task(self, schema: Schema) -> Pointwise:
        """Returns the task on the schema's label. Raises UserError for a label or a group that it does not have."""
        if self.task == "retrieval":
            raise UserError(
                "model: task: retrieval needs a model whose users and items share a space, and this one's meet in "
                f"another way; choose one of {', '.join(RETRIEVING)}, or another task"
            )
        labels = [label.name for label in schema.labels]
        if not labels:
            raise UserError("the schema declares no label; training needs one, except for task: retrieval")
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


class RetrievalConfig(PointwiseConfig):
    """Every model whose users and items share a space has these settings, and gets its task by `build_any_task`."""

    loss: RetrievalLoss | None = Field(default=None, description="of task: retrieval; None: softmax")

    @model_validator(mode="after")
    def _loss_fits(self) -> "RetrievalConfig":
        if self.loss is not None and self.task != "retrieval":
            raise ValueError(f"loss is for task: retrieval; found task: {self.task}")
        return self

    def build_any_task(self, schema: Schema) -> Task:
        """Returns the task; that of retrieval needs no label. Raises UserError as `build_task` does."""
        return Retrieval(self.loss or RetrievalLoss()) if self.task == "retrieval" else self.build_task(schema)


class Explanation(NamedTuple):
    """An explanation says why rows score as they do: weights [B, P], and the P names of what each weight belongs to.

    Or `Jagged` weights of [T], one for each event of a history, and the name of a sequence whose ids the events have.
    """

    weights: Tensor | Jagged
    names: tuple[str, ...]


class Recommender(nn.Module):
    """A recommender is inputs, a tower and a task; the parameters of `forward` are the inputs' names.

    A model's constructor is `__init__(self, fields: Fields, config: ItsConfig)`. It calls this one first, then makes
    its layers:

        class DotProduct(Recommender):
            def __init__(self, fields: Fields, config: DotProductConfig) -> None:
                pair = PooledEmbeddings(fields.tables(embedding_dim=config.embedding_dim, features=("user", "item")))
                super().__init__(inputs={"pair": pair}, task=config.build_task(fields.schema))
                self.bias = nn.Parameter(torch.zeros(1))

            def forward(self, pair: Tensor) -> Tensor:  # [B, 2, D] -> [B]
                return (pair[:, 0] * pair[:, 1]).sum(1) + self.bias

    A parameter with a default may be left out of the inputs: what only some schemas or settings have, or training.
    Raises TypeError where inputs and `forward` disagree, ValueError where two tables of one name do.
    """

    explain: ClassVar[Callable[..., Explanation] | None] = None
    """A method of `forward`'s parameters for `shardrec predict --explain`. None: the model has no such weights."""

    item_of: Mapping[str, str] = MappingProxyType({})
    """Sequences that training leaves the row's own item out of, each with the feature that has it."""

    no_shared_space: ClassVar[str] = "its user and item vectors meet in an MLP, not in a dot product"
    """Why a model without `towers` has none, as a clause for messages."""

    padded: ClassVar[Callable[..., Any] | None] = None
    """What `forward` returns of rows to be scored, where sequences come as `Padded`: for `shardrec export`.

    A method of those of `forward`'s parameters that are read always. None: `forward` itself, of a model that reads no
    sequences.
    """

    def __init__(self, *, inputs: Mapping[str, Input], task: Task) -> None:
        super().__init__()
        parameters = inspect.signature(self.forward).parameters
        needed = {name for name, parameter in parameters.items() if parameter.default is parameter.empty}
        if not needed <= set(inputs) <= set(parameters):
            raise TypeError(
                f"{type(self).__name__}.forward takes {tuple(parameters)} but inputs declares {tuple(inputs)}"
            )
        for name in needed:
            if inputs[name].read != "always":
                raise TypeError(
                    f"{type(self).__name__}.forward needs a default for {name!r}, which is not read always: "
                    f"{inputs[name].read}"
                )
        self.inputs = dict(inputs)
        self.task = task
        self.tables  # raises for two of one name
        if self.retrieves and type(self).halves is Recommender.halves:
            raise UserError(
                f"task: retrieval needs a model whose users and items share a space, and {type(self).__name__} is "
                f"none: {self.no_shared_space}; choose one of {', '.join(RETRIEVING)}"
            )

    @property
    def tables(self) -> dict[str, EmbeddingTable]:
        """Returns all tables by name. Raises ValueError where two of one name differ."""
        return declared_tables(self.inputs)

    @property
    def features(self) -> tuple[str, ...]:
        """Returns the names of the features that the inputs read, each once."""
        return tuple(dict.fromkeys(name for source in self.inputs.values() for name in input_features(source)))

    def unread_features(self, *, labelled: bool) -> tuple[str, ...]:
        """Returns the names of those `features` that no input reads outside of training, of rows with labels or not."""
        when = ("always", "labelled") if labelled else ("always",)
        read = {name for source in self.inputs.values() if source.read in when for name in input_features(source)}
        return tuple(name for name in self.features if name not in read)

    def halves(self) -> Towers | None:
        """Returns the towers as the model has them, whatever its task; None where users and items share no space.

        A model that overrides it can be trained to retrieve: its `forward` then returns `vectors`.
        """
        return None

    def towers(self) -> Towers | None:
        """Returns the halves that make vectors of users and of items; None where they share no space."""
        halves = self.halves()
        return None if halves is None else self.task.space(halves)

    def vectors(self, **inputs: Any) -> Vectors:
        """Returns what `task: retrieval` learns from: the towers' vectors of `forward`'s arguments."""
        towers = self.towers()
        assert towers is not None
        return towers.vectors(inputs)

    @property
    def retrieves(self) -> bool:
        """Says whether the model is trained to retrieve, so that `forward` returns `vectors`."""
        return isinstance(self.task, Retrieval)

    def after_step(self) -> None:
        """Follows every optimizer step; does nothing unless a model overrides it (a target network's copy)."""


def input_features(source: Input) -> Iterable[str]:
    """Returns the features that an input reads."""
    if isinstance(source, DenseFeatures):
        return source.features
    return (*source.tables, *source.dense) if isinstance(source, SequenceEmbeddings) else source.tables
