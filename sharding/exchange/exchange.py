"""An exchange looks up what several parts of a lookup hold on all ranks, with one message of ids and one of vectors."""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedTensor

from shardrec.data_pipeline.batch import Batch
from shardrec.sharding.exchange.id_layout import IdLayout
from shardrec.sharding.exchange.ids import IdExchange, SentIds
from shardrec.sharding.exchange.kernel_ids import KernelInput
from shardrec.sharding.exchange.slots import KernelSlots
from shardrec.sharding.exchange.vector_layout import VectorLayout
from shardrec.sharding.exchange.vectors import Numbers, VectorStep, exchange


class Kernel(Protocol):
    """A kernel looks up rows of shards."""

    def look_up(self, ids: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        """Sums rows by bag, or returns those of all ids where it is not pooled."""
        ...


class Vectors:
    """Vectors of one key of sequences, [T, D]."""

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def values(self) -> Tensor:
        """Returns the vectors."""
        return self._values


class TableExchange:
    """A table exchange has this rank's kernels, and knows the slots of all ranks'.

    slots: of all ranks' kernels, pooled ones first. kernels: this rank's, in the order of its slots. single, weighted:
    features, as `IdLayout` says. learns: whether any table learns. numbers: what vectors travel as.
    """

    def __init__(
        self,
        slots: Sequence[Sequence[KernelSlots]],
        kernels: Sequence[Kernel],
        *,
        single: Collection[str],
        weighted: Collection[str],
        learns: bool,
        numbers: Numbers,
        device: torch.device,
        process_group: dist.ProcessGroup,
    ) -> None:
        self._rank, self._group, self._numbers = dist.get_rank(process_group), process_group, numbers
        self._slots, self._kernels = slots[self._rank], tuple(kernels)
        self._ids = IdExchange(IdLayout(slots, self._rank, single=single, weighted=weighted), process_group)
        self._vectors = VectorLayout(slots)
        self._inputs = [KernelInput(kernel, self._ids.layout, device) for kernel in self._slots]
        self._hook = torch.zeros(1, device=device, requires_grad=learns)
        self.parts = frozenset(kernel.part for of_rank in slots for kernel in of_rank)

    @property
    def features(self) -> tuple[str, ...]:
        """Returns the features whose ids are exchanged, in the order that spares copies."""
        return self._ids.layout.features

    def send(self, batch: Batch) -> SentIds:
        """Sends a batch's ids on their way. All ranks call it alike."""
        return self._ids.send(batch)

    def live(self, sent: SentIds) -> tuple[int, float]:
        """Returns how many live rows all ranks' batches have, and their weight. All ranks call it alike."""
        self._ids.read_heads(sent)
        return sent.live()

    def look_up(self, sent: SentIds) -> dict[int, Any]:
        """Returns the outputs of the parts: a KeyedTensor each, or the `Vectors` of each key of sequences."""
        with torch.no_grad():
            received = self._ids.receive(sent)
            inputs = [kernel.of(received) for kernel in self._inputs]
        outputs = [kernel.look_up(*ids) for kernel, ids in zip(self._kernels, inputs, strict=True)]
        step = VectorStep(self._vectors, self._slots, self._rank, sent.own, received, self._numbers, self._group)
        found = exchange(step, outputs, self._hook)
        parts: dict[int, Any] = {}
        pooled = self._vectors.pooled
        for (part, columns), values in zip(pooled.items(), found, strict=False):
            parts[part] = KeyedTensor(columns.keys, columns.lengths, values)
        for key, values in zip(self._vectors.keys, found[len(pooled) :], strict=True):
            parts.setdefault(key.part, {})[key.key] = Vectors(values)
        return parts
