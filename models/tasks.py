"""A task says what is learned from a tower's output: loss terms, predictions, metrics."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.models.inputs import Jagged
from shardrec.models.metrics import (
    Accuracy,
    Calibration,
    ClassErrors,
    Errors,
    GroupedAUC,
    LogLoss,
    Metric,
    MetricSet,
    PredictedValues,
    Predictions,
    Ranking,
    Rows,
    TopK,
)
from shardrec.models.metrics.collective import Collective
from shardrec.models.shared_space import Towers

NO_GROUP = (
    "the schema has no group, inside of which it is computed; name its column (`group: user`) in schema.yaml, or "
    "choose another metric"
)


@dataclass(frozen=True)
class Term:
    """A term is a loss summed over what counts of this rank's rows, `total`, and how much counted (both scalars).

    The trainer all-reduces both, so that the loss is the global mean for any number of ranks.
    """

    total: Tensor
    count: Tensor


class Task(ABC):
    """A task stands between a tower's output (whatever its model returns) and a batch's labels.

    Padding rows count nowhere.
    """

    @abstractmethod
    def loss(self, output: Any, batch: Batch) -> dict[str, Term]:
        """Returns loss terms by name; the loss is the sum of their global means."""

    @abstractmethod
    def prediction(self, output: Any) -> Tensor | Jagged:
        """Returns what is reported for rows: [B] for most tasks, `Jagged` of [T] for lists. Needs no labels."""

    @abstractmethod
    def metrics(self, collective: Collective | None = None, *, down_sampled: bool = False) -> MetricSet:
        """Makes fresh metrics for one pass over data; `down_sampled` says whether its negatives are."""

    def completed(self, output: Any, batch: Batch) -> Any:
        """Returns a tower's output with what the task takes from other ranks, inside the forward pass."""
        return output

    def space(self, towers: Towers) -> Towers:
        """Returns the towers of a model as the task compares their vectors: by dot product."""
        return towers

    @abstractmethod
    def check(self, batch: Batch) -> None:
        """Raises UserError for labels that the task cannot learn from, and for inputs that it cannot score.

        A batch to be scored has no labels; its inputs are checked alone. It waits for the device: check on the CPU.
        """

    def broken_rows(self, output: Any, batch: Batch) -> Tensor:
        """Returns [B] bool: this rank's rows to name when the loss is not finite, none where another's are broken.

        All live rows, where a task cannot tell them apart.
        """
        return batch.live


class Pointwise(Task):
    """A pointwise task has one label, and its tower returns one number a row, [B], or one a class, [B, C]."""

    term: str

    def __init__(self, label: str, grouped: bool = False) -> None:
        """label: its name in `batch.labels`; grouped: whether batches have groups."""
        self.label = label
        self.grouped = grouped

    @abstractmethod
    def row_loss(self, output: Tensor, label: Tensor) -> Tensor:
        """Returns [B] losses of single rows."""

    @abstractmethod
    def valid(self, label: Tensor) -> tuple[Tensor, str]:
        """Returns [n] bool: labels that can be learned from; and one line about what they have to be."""

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Term]:
        """Returns the sum of weight x loss, and of weights, over the rows that are not padding."""
        output = at_least_fp32(output)
        weight = torch.where(batch.live, batch.weights, 0).to(output.dtype)
        loss = self.row_loss(output, batch.labels[self.label].to(output.dtype))
        return {self.term: Term((weight * loss).sum(), weight.sum())}

    def broken_rows(self, output: Tensor, batch: Batch) -> Tensor:
        """Returns [B] bool: live rows whose weighted loss is not finite."""
        loss = self.row_loss(at_least_fp32(output.detach()), batch.labels[self.label]) * batch.weights
        return ~loss.isfinite() & batch.live

    def check(self, batch: Batch) -> None:
        """Raises UserError for a label that is not `valid`, naming its row."""
        if self.label not in batch.labels:
            return
        label, row_number = batch.labels[self.label][batch.live], batch.rows[batch.live]
        valid, wanted = self.valid(label)
        if not bool(valid.all()):
            wrong = int((~valid).nonzero()[0])
            raise UserError(
                f"label {self.label!r}: found {float(label[wrong]):g} in row {int(row_number[wrong])}; {wanted}"
            )

    def _predictions(self, score: Tensor, value: Tensor, batch: Batch) -> Predictions:
        """Returns the rows that metrics read: score and value [B] of the tower, with what the batch says of them."""
        live = batch.live
        return Predictions(
            score=score[live].double(),
            value=value[live].double(),
            label=batch.labels[self.label][live].double(),
            weight=batch.weights[live].double(),
            group=batch.groups[live] if self.grouped and batch.groups is not None else None,
        )


class BinaryClassification(Pointwise):
    """In binary classification labels are 0 or 1 (or between), and the tower returns logits, [B]. Loss: log loss.

    Where training keeps the share `negative_rate` = w of the negatives, the odds it sees are too high by 1 / w.
    Predictions are corrected by logit + ln w, and so are metrics on data that keeps all negatives; the training loss
    and metrics on `down_sampled` data are not.
    """

    term = "log_loss"

    def __init__(
        self,
        label: str,
        grouped: bool = False,
        negative_rate: float = 1.0,
        threshold: float = 0.5,
        top_k: tuple[int, ...] = (),
    ) -> None:
        """threshold: the probability from which on accuracy calls a row positive; top_k: the k's of hr@k and so on."""
        super().__init__(label, grouped)
        self.negative_rate = negative_rate
        self.threshold = threshold
        self.top_k = top_k

    def row_loss(self, output: Tensor, label: Tensor) -> Tensor:
        """Returns [B] log losses, from logits."""
        return F.binary_cross_entropy_with_logits(output, label, reduction="none")

    def valid(self, label: Tensor) -> tuple[Tensor, str]:
        """Accepts labels from 0 to 1."""
        wanted = "binary classification needs labels from 0 to 1; give the label a threshold, or set task: regression"
        return (label >= 0) & (label <= 1), wanted

    def prediction(self, output: Tensor) -> Tensor:
        """Returns [B] probabilities, corrected for down-sampling."""
        return torch.sigmoid(at_least_fp32(output) + log(self.negative_rate))

    def metrics(self, collective: Collective | None = None, *, down_sampled: bool = False) -> MetricSet:
        """Makes auc, average_precision, log_loss, normalized_entropy, calibration, accuracy, rows.

        With groups also gauc, and with `top_k` hr@k, ndcg@k, recall@k, precision@k and mrr.
        """
        shift = 0.0 if down_sampled else log(self.negative_rate)

        def read(output: Tensor, batch: Batch) -> Predictions:
            logit = output.double() + shift
            return self._predictions(logit, torch.sigmoid(logit), batch)

        metrics: list[Metric] = [Ranking(), LogLoss(), Calibration(), Accuracy(self.threshold), Rows()]
        lacking = {} if self.grouped else {"gauc": NO_GROUP}
        if self.grouped:
            metrics += [GroupedAUC(), *([TopK(self.top_k)] if self.top_k else [])]
        return MetricSet(metrics, read, collective, lacking)


class Regression(Pointwise):
    """In regression the tower returns values, [B]. Loss: squared error.

    `clip` is a range for predictions, not for the loss.
    """

    term = "squared_error"

    def __init__(self, label: str, clip: tuple[float, float] | None = None) -> None:
        super().__init__(label)
        self.clip = clip

    def row_loss(self, output: Tensor, label: Tensor) -> Tensor:
        """Returns [B] squared errors."""
        return (output - label).square()

    def valid(self, label: Tensor) -> tuple[Tensor, str]:
        """Accepts finite labels."""
        return label.isfinite(), "regression needs finite labels"

    def prediction(self, output: Tensor) -> Tensor:
        """Returns [B] values, clipped."""
        value = at_least_fp32(output)
        return value.clamp(*self.clip) if self.clip else value

    def metrics(self, collective: Collective | None = None, *, down_sampled: bool = False) -> MetricSet:
        """Makes rmse, mae, means and rows."""

        def read(output: Tensor, batch: Batch) -> Predictions:
            return self._predictions(output, self.prediction(output.double()), batch)

        return MetricSet([Errors(), PredictedValues(), Rows()], read, collective)


class MultiClass(Pointwise):
    """With several classes labels are 0 .. C - 1, and the tower returns logits, [B, C].

    Loss: log loss of their softmax.
    """

    term = "log_loss"

    def __init__(self, label: str, classes: int) -> None:
        super().__init__(label)
        self.classes = classes

    def row_loss(self, output: Tensor, label: Tensor) -> Tensor:
        """Returns [B] log losses of the labels' classes."""
        return F.cross_entropy(output, label.long(), reduction="none")

    def valid(self, label: Tensor) -> tuple[Tensor, str]:
        """Accepts whole numbers from 0 to C - 1."""
        wanted = f"classification into {self.classes} classes needs whole labels from 0 to {self.classes - 1}"
        return (label >= 0) & (label < self.classes) & (label == label.floor()), wanted

    def prediction(self, output: Tensor) -> Tensor:
        """Returns [B, C] probabilities."""
        return torch.softmax(at_least_fp32(output), 1)

    def metrics(self, collective: Collective | None = None, *, down_sampled: bool = False) -> MetricSet:
        """Makes log_loss, accuracy and rows."""

        def read(output: Tensor, batch: Batch) -> Predictions:
            log_probability = -self.row_loss(output.double(), batch.labels[self.label])
            return self._predictions(log_probability, output.argmax(1), batch)

        return MetricSet([ClassErrors(), Rows()], read, collective)


def at_least_fp32(output: Tensor) -> Tensor:
    """Returns the output in fp32, or in its own precision where that is higher."""
    return output.to(torch.promote_types(output.dtype, torch.float32))
