"""A forward step is one lookup and one pass of the tower: the unit that a plan distributes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.nn.functional import all_reduce

from shardrec.data_pipeline.batch import Batch
from shardrec.models.base import Explanation, Recommender
from shardrec.models.layers.moments import live_rows
from shardrec.models.shared_space import users_once
from shardrec.models.tasks import Term
from shardrec.sharding.lookup.lookup import EmbeddingLookup, Started
from shardrec.trainer.session.stopwatch import Stopwatch

Inputs = dict[str, Any]
"""What a tower reads, by name."""

_waits = Stopwatch()  # of this process's towers, for other ranks

Sums = Sequence[Sequence[float]]
"""(total, count) of each loss term over all ranks."""


class ForwardStep(nn.Module):
    """Turns a batch into the tower's output; the tower runs under bf16 autocast where `precision` says so.

    Batch moments count the live rows of all ranks.
    """

    def __init__(self, lookup: EmbeddingLookup, model: Recommender, precision: str = "fp32") -> None:
        super().__init__()
        self.lookup = lookup
        self.model = model
        self.precision = precision
        self._tower_time = Stopwatch()

    @property
    def tower_seconds(self) -> float:
        """Returns the seconds of all towers' passes, without those that they waited for other ranks."""
        return self._tower_time.seconds - _waits.seconds

    def forward(self, batch: Batch, started: Started | None = None) -> Any:
        """Returns the tower's output for a batch. started: what `lookup.start` gave for it, where it was called."""
        return self.output(self.inputs(batch, started), batch)

    def inputs(self, batch: Batch, started: Started | None = None) -> Inputs:
        """Returns what the tower reads of a batch. All ranks call it alike."""
        inputs = self.lookup(started or batch)
        if self.model.retrieves and batch.alternatives is not None:  # other tasks score each row, negatives too
            towers = self.model.halves()
            assert towers is not None
            inputs = users_once(inputs, towers.user_inputs, batch.alternatives)
        return inputs

    def output(self, inputs: Inputs, batch: Batch) -> Any:
        """Returns the tower's output for a batch's inputs.

        Outside of training ranks exchange nothing here but for `Batch.alternatives`, with which all call it alike.
        """
        with self._of(batch), self._tower_time.running():
            return self.model.task.completed(self.model(**inputs), batch)

    def explained(self, inputs: Inputs, batch: Batch) -> tuple[Any, Explanation]:
        """Returns the output of a model that explains, and its explanation, for a batch's inputs."""
        assert self.model.explain is not None
        with self._of(batch):
            return self.model(**inputs), self.model.explain(**inputs)

    def vectors(self, batch: Batch, tower: Callable[..., Tensor], names: Sequence[str]) -> Tensor:
        """Returns a tower's vectors [B, D] fp32, of the inputs of these names. All ranks call it alike."""
        inputs = self.lookup(batch)
        with self._of(batch):
            return tower(**{name: inputs[name] for name in names if name in inputs}).float()

    @contextmanager
    def _of(self, batch: Batch) -> Iterator[None]:
        """Tells the tower's layers which rows are live, and sets its precision."""
        device = batch.weights.device.type
        with (
            live_rows(batch.live, sum_over_ranks, rows_of_all_ranks),
            torch.autocast(device, dtype=torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            yield


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sums a tensor over all ranks, element by element; its backward sums their gradients."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    with _waits.running():
        return all_reduce(tensor)


def rows_of_all_ranks(tensor: Tensor) -> Tensor:
    """Returns all ranks' rows in rank order; each rank has as many. Its backward sums the gradients of its rows."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    return _Gather.apply(tensor)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = len(tensor)
        gathered = tensor.new_empty(dist.get_world_size() * len(tensor), *tensor.shape[1:])
        with _waits.running():
            dist.all_gather_into_tensor(gathered, tensor.contiguous())
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed)
        return summed[dist.get_rank() * ctx.rows :][: ctx.rows]


def stack_terms(terms: Mapping[str, Term]) -> Tensor:
    """Stacks this rank's totals and counts, [terms, 2] float64, ready to be summed over ranks."""
    return torch.stack([torch.stack([t.total.detach().double(), t.count.detach().double()]) for t in terms.values()])


def objective(terms: Mapping[str, Term], summed: Tensor, world_size: int) -> Tensor:
    """Returns what a rank calls backward on: world_size * local total / global count, as gradients are averaged.

    summed: [terms, 2], global totals and counts. A term that counted nowhere adds nothing.
    """
    totals, count = torch.stack([term.total for term in terms.values()]), summed[:, 1]
    return (totals * torch.where(count != 0, world_size / count, 0.0).to(totals.dtype)).sum()


def loss_values(terms: Iterable[str], summed: Sums) -> dict[str, float]:
    """Returns the global mean of each term, by name, and `loss`, their sum."""
    means = {name: total / count if count else 0.0 for name, (total, count) in zip(terms, summed, strict=True)}
    return {"loss": sum(means.values()), **(means if len(means) > 1 else {})}
