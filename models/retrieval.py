"""Retrieval is learned by telling each row's own item from others: in the batch, drawn for it, or the row's own."""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from shardrec.data_pipeline.batch import Alternatives, Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.models.layers.contrast import (
    bpr_loss,
    ccl_loss,
    same_item,
    scores_of,
    scores_of_own,
    softmax_loss,
    struck_out,
)
from shardrec.models.layers.moments import gathered
from shardrec.models.metrics import MeanLoss, MetricSet, Predictions, Rows
from shardrec.models.metrics.collective import Collective
from shardrec.models.shared_space import Others, Towers, Vectors
from shardrec.models.tasks import Task, Term, at_least_fp32

COSINE_TEMPERATURE = 0.1


class RetrievalLoss(BaseModel):
    """The loss of `task: retrieval` compares a row's own item with the negatives that `data.negatives` declares.

    softmax: the log loss of the row's own item among all; bpr: of each pair apart; ccl: cosines, with a margin.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Literal["softmax", "bpr", "ccl"] = "softmax"
    cosine: bool | None = Field(default=None, description="compare directions alone; None: of ccl")
    temperature: float | None = Field(
        default=None, gt=0, description="softmax, bpr: what scores are divided by; None: 0.1 of cosines, else 1"
    )
    log_q: bool | None = Field(
        default=None, description="softmax: correct for how often items are among negatives; None: yes"
    )
    margin: float = Field(default=0.9, ge=-1, le=1, description="ccl: cosine up to which a negative costs nothing")
    negative_weight: float = Field(default=150.0, gt=0, description="ccl: of the negatives' mean beside the positive")
    l2: float = Field(
        default=0.0,
        ge=0,
        description="half of it times the squared lengths of a row's user, its item and (mean) its negatives",
    )

    @model_validator(mode="after")
    def _fits(self) -> "RetrievalLoss":
        of_others = {"temperature": ("softmax", "bpr"), "log_q": ("softmax",), "margin": ("ccl",)}
        for setting, owners in {**of_others, "negative_weight": ("ccl",)}.items():
            if self.name not in owners and getattr(self, setting) != type(self).model_fields[setting].default:
                raise ValueError(f"{setting} is of loss {' and '.join(owners)}, not of {self.name}; leave it out")
        if self.name == "ccl" and self.cosine is False:
            raise ValueError("ccl is a loss of cosines; leave cosine: false out, or choose softmax or bpr")
        if self.l2 and self.of_cosines:
            raise ValueError("l2 is of the lengths of vectors, and cosines have none; leave l2 out, or cosines")
        return self

    @property
    def of_cosines(self) -> bool:
        """Says whether vectors are compared by their directions alone."""
        return self.name == "ccl" if self.cosine is None else self.cosine

    @property
    def divisor(self) -> float:
        """Returns the temperature."""
        if self.temperature is None:
            return COSINE_TEMPERATURE if self.of_cosines and self.name != "ccl" else 1.0
        return self.temperature


class Retrieval(Task):
    """In retrieval every row is a positive, and the model's towers return vectors, whose dot products are scores.

    Loss: that of `RetrievalLoss`, by sample weight, over each row's negatives; none is the row's own item. Labels are
    not needed.
    """

    def __init__(self, loss: RetrievalLoss) -> None:
        self.settings = loss

    def space(self, towers: Towers) -> Towers:
        """Returns the towers, of vectors of length 1 where cosines are compared."""
        return towers.of_length_one() if self.settings.of_cosines else towers

    def completed(self, output: Vectors, batch: Batch) -> Vectors:
        """Returns the vectors with those that all ranks' rows share."""
        alternatives = batch.alternatives
        if alternatives is None or alternatives.per_row:
            return output
        items = at_least_fp32(output.item)
        ids, log_q = alternatives.shared, alternatives.shared_log_q
        if alternatives.in_batch:
            ids, log_q = torch.cat([alternatives.items, ids]), torch.cat([alternatives.log_q, log_q])
        else:
            items = items[len(alternatives.items) :]
        if not alternatives.dealt:
            return output._replace(others=Others(items, ids, log_q))
        both = gathered(torch.stack([ids, log_q.double().view(torch.int64)], 1))  # bit for bit, in one exchange
        return output._replace(
            others=Others(gathered(items), both[:, 0], both[:, 1].contiguous().view(torch.float64).to(log_q.dtype))
        )

    def row_loss(self, output: Vectors, alternatives: Alternatives) -> Tensor:
        """Returns the [P] losses of single rows."""
        rows, loss, shared = len(alternatives.items), self.settings, output.others
        user, item = at_least_fp32(output.user) / loss.divisor, at_least_fp32(output.item)
        positive = (user * item[:rows]).sum(1)
        corrected = loss.name == "softmax" and loss.log_q is not False and shared is not None
        if shared is None:
            own = item[rows : rows * (1 + alternatives.per_row)]
            others = scores_of_own(user, own.view(alternatives.per_row, rows, item.shape[1]))
            count = torch.full_like(positive, alternatives.per_row)
        else:
            others = scores_of(user, shared.item, -shared.log_q.to(user.dtype) if corrected else None)
            others, count = struck_out(others, same_item(alternatives.items, shared.ids))
        if corrected:
            positive = positive - alternatives.log_q.to(positive.dtype)
        if loss.name == "ccl":
            return ccl_loss(positive, others, count, margin=loss.margin, negative_weight=loss.negative_weight)
        return softmax_loss(positive, others) if loss.name == "softmax" else bpr_loss(positive, others, count)

    def row_l2(self, output: Vectors, alternatives: Alternatives) -> Tensor:
        """Returns [P]: half the squared lengths of each row's user and item, and of its negatives' mean square."""
        rows, shared = len(alternatives.items), output.others
        item = at_least_fp32(output.item)
        if shared is None:
            own = item[rows : rows * (1 + alternatives.per_row)].view(alternatives.per_row, rows, item.shape[1])
            others = own.square().sum(2).mean(0)
        else:
            known = (shared.ids >= 0).to(item.dtype)
            others = (shared.item.square().sum(1) * known).sum() / known.sum().clamp(min=1)
        return (at_least_fp32(output.user).square().sum(1) + item[:rows].square().sum(1) + others) / 2

    def loss(self, output: Vectors, batch: Batch) -> dict[str, Term]:
        """Returns the sums of weight x loss (and of its l2), and of weights, over the rows that are not padding.

        Raises UserError for a batch whose rows are told from nothing.
        """
        if batch.alternatives is None:
            raise UserError(
                "task: retrieval tells each row's item from others, and there are none; set data.negatives in the run "
                "file, say {shared: 1000} or {in_batch: true}"
            )
        row_loss = self.row_loss(output, batch.alternatives)
        rows = len(row_loss)
        weight = torch.where(batch.live[:rows], batch.weights[:rows], 0).to(row_loss.dtype)
        terms = {"loss": Term((weight * row_loss).sum(), weight.sum())}
        if self.settings.l2:
            row_l2 = self.row_l2(output, batch.alternatives)
            terms["l2"] = Term(self.settings.l2 * (weight * row_l2).sum(), weight.sum())
        return terms

    def prediction(self, output: Vectors) -> Tensor:
        """Returns the score of each row's own pair, [B]."""
        return output.pairs.to(torch.promote_types(output.user.dtype, torch.float32))

    def metrics(self, collective: Collective | None = None, *, down_sampled: bool = False) -> MetricSet:
        """Makes loss, over rows that are positives, and rows."""

        def read(output: Vectors, batch: Batch) -> Predictions:
            rows = len(output.user)
            live, weight = batch.live[:rows], batch.weights[:rows].double()
            score = output.pairs.double()
            known = batch.alternatives is not None
            loss = self.row_loss(output, batch.alternatives) if batch.alternatives is not None else score
            for label in list(batch.labels.values())[:1]:
                weight = weight * (label[:rows] > 0)
            values = loss.double() if known else torch.full_like(score, torch.nan)
            return Predictions(score[live], values[live], torch.ones_like(score[live]), weight[live])

        return MetricSet([MeanLoss(), Rows()], read, collective)

    def check(self, batch: Batch) -> None:
        """Does nothing: labels are not needed."""

    def broken_rows(self, output: Vectors, batch: Batch) -> Tensor:
        """Returns [B] bool: live rows whose weighted loss is not finite."""
        broken = torch.zeros_like(batch.live)
        if batch.alternatives is not None:
            loss = self.row_loss(output, batch.alternatives).detach()
            broken[: len(loss)] = ~(loss * batch.weights[: len(loss)]).isfinite()
        return broken & batch.live
