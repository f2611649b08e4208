"""A prepared batch is ready to be trained on: it is on the device, its ids are where their rows are, and it is counted.

All that follows from the data alone, so that it can be under way while the step before it computes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from shardrec.data_pipeline.batch import Batch
from shardrec.sharding.lookup.lookup import EmbeddingLookup, Started
from shardrec.trainer.launch.environment import Environment


@dataclass(eq=False)
class Prepared:
    """A prepared batch is this worker's part of a global one. started: its lookup, where its ids were sent.

    summed: what it counts, over all ranks, or the lookup whose ids go with that. place: among the epoch's batches.
    """

    copied: Callable[[], Batch]
    summed: Callable[[], Tensor] | EmbeddingLookup
    started: Started | None = None
    place: int | None = None

    def send_ids(self, lookup: EmbeddingLookup) -> None:
        """Sends the ids to the ranks that hold their rows, once. All ranks call it alike."""
        self.started = self.started or lookup.start(self.batch())

    def batch(self) -> Batch:
        """Returns the batch on the device; what the device does from now on comes after its copy."""
        return self.copied()

    def rows_and_weight(self) -> tuple[int, float]:
        """Returns how many live rows the global batch has, and their weight; waits for the other ranks."""
        if isinstance(self.summed, EmbeddingLookup):
            self.send_ids(self.summed)
            assert self.started is not None
            return self.summed.live(self.started)
        rows, weight = self.summed().tolist()
        return int(rows), weight


class Preparation:
    """A preparation starts what a batch needs before its step. All workers call it alike.

    On a GPU copies are made on a stream of their own, from page-locked memory where `Batch.pin_memory` put it there.
    """

    def __init__(self, environment: Environment, lookup: EmbeddingLookup) -> None:
        self._environment, self._device = environment, environment.device
        self._lookup = lookup
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None

    def start(self, batch: Batch) -> Prepared:
        """Starts to copy a batch to the device, where it is not there, and to sum what it counts over all ranks.

        On CPUs that goes with its ids; to read it from a GPU would be to wait for that.
        """
        if self._device.type == "cpu" and self._lookup.counts_live:
            return Prepared(self._copying(batch), self._lookup)
        return Prepared(self._copying(batch), self._environment.summing(_rows_and_weight(batch)))

    def _copying(self, batch: Batch) -> Callable[[], Batch]:
        if self._stream is None:
            return lambda: batch
        with torch.cuda.stream(self._stream):
            moved = batch.to(self._device, non_blocking=True)
        copied = self._stream.record_event()

        def wait() -> Batch:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(copied)
            moved.record_stream(stream)
            return moved

        return wait


def _rows_and_weight(batch: Batch) -> Tensor:
    """Returns [2] float64, on the CPU: live rows, and their weight."""
    weights = torch.where(batch.live, batch.weights, 0).double().sum()
    return torch.stack([batch.live.double().sum(), weights]).cpu()
