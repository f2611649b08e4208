"""Ids go from every rank to those that hold their rows: in one message a step where no feature is ragged, else in two.

The first message has a size that all ranks know beforehand: a head, which tells each rank what all others have, then
the narrow ids of as many rows as all ranks' batches had last. Where a batch has another number of rows (the first one,
or those of an evaluation), its narrow ids go in the second message, as all ragged ones do: by then all sizes are known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from shardrec.data_pipeline.batch import Batch
from shardrec.sharding.exchange.id_layout import IdLayout, Wanted
from shardrec.sharding.exchange.own_ids import IdPacker, OwnIds, Ragged

_HEAD = 4  # live rows and their weight, rows, whether all narrow features have an id in all rows


class Sending:
    """Numbers are on their way between all ranks; `received` waits for them."""

    def __init__(
        self, parts: Sequence[Tensor], sent: list[int], received: list[int], group: dist.ProcessGroup | None
    ) -> None:
        self._sent = torch.cat([part.reshape(-1) for part in parts]) if len(parts) > 1 else parts[0].reshape(-1)
        self._received = self._sent.new_empty(sum(received))
        self.sizes = received
        self._work = dist.all_to_all_single(self._received, self._sent, received, sent, group=group, async_op=True)

    def received(self) -> Tensor:
        """Returns what all ranks sent, in their order."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        return self._received


@dataclass(eq=False)
class SentIds:
    """Sent ids are a batch's, on their way.

    expected: the rows that the first message has narrow ids of. rest: the second message, once it is sent.
    """

    own: OwnIds
    expected: int
    first: Sending
    rest: Sending | None = None
    heads: list[list[float]] = field(default_factory=list)

    def live(self) -> tuple[int, float]:
        """Returns how many live rows the global batch has, and their weight, once the heads are here."""
        rows, weight = (sum(head[i] for head in self.heads) for i in (0, 1))
        return int(rows), weight


class ReceivedIds:
    """Received ids are those that all ranks want the rows of from this one.

    sizes: rows of each rank's batch. narrow: [this rank's narrow features, rows of all], -1 for none, of which there is
    none where `full`. counts: how many ids of an item each rank has sent.
    """

    def __init__(self, sizes: list[int], narrow: Tensor, full: bool) -> None:
        self.sizes, self.narrow, self.full = sizes, narrow, full
        self.ragged: dict[Wanted, Ragged] = {}
        self.counts: dict[Wanted, list[int]] = {}


class IdExchange:
    """An exchange of ids is by a layout, within a process group. All ranks send and receive alike."""

    def __init__(self, layout: IdLayout, group: dist.ProcessGroup | None) -> None:
        self.layout, self._group = layout, group
        self._packer = IdPacker(layout)
        self._expected = 0

    def send(self, batch: Batch) -> SentIds:
        """Sends a batch's ids; only the head is waited for, and that where there are ragged ones."""
        layout, own, expected = self.layout, self._packer.own(batch), self._expected
        narrow = own.narrow if own.rows == expected else own.narrow.new_zeros(len(layout.narrow), expected)
        parts, sent = [], []
        for rank, head in enumerate(self._heads(batch, own)):
            parts += [head, *(narrow[start:stop] for start, stop in layout.narrow_runs[rank])]
            sent.append(head.numel() + layout.narrow_counts[rank] * expected)
        received = self._head_size + layout.narrow_counts[layout.rank] * expected
        first = Sending(parts, sent, [received] * layout.ranks, self._group)
        ids = SentIds(own, expected, first)
        if layout.has_ragged:
            self.read_heads(ids)
        return ids

    @property
    def _head_size(self) -> int:
        return _HEAD + len(self.layout.counted[self.layout.rank])

    def _heads(self, batch: Batch, own: OwnIds) -> list[Tensor]:
        """Returns the heads of the messages to all ranks, float64 numbers as the int64 that have their bits."""
        live = batch.live
        facts = torch.stack([live.double().sum(), torch.where(live, batch.weights, 0).double().sum()])
        heads, made = [], {}
        for rank, items in enumerate(self.layout.counted):
            counts = tuple(own.counts[item][rank] for item in items)
            if counts not in made:
                known = torch.tensor([own.rows, own.full, *counts], dtype=torch.float64).to(facts.device)
                made[counts] = torch.cat([facts, known]).view(torch.int64)
            heads.append(made[counts])
        return heads

    def read_heads(self, ids: SentIds) -> None:
        """Waits for the heads, and sends what of a batch's ids had to wait for them."""
        if ids.heads:
            return
        layout = self.layout
        first = ids.first.received().view(layout.ranks, -1)
        ids.heads = first[:, : self._head_size].view(torch.float64).tolist()
        sizes = [int(head[2]) for head in ids.heads]
        if self._fits(ids) and not layout.has_ragged:
            return
        if len(set(sizes)) == 1:
            self._expected = sizes[0]
        parts, sent = [], []
        for rank in range(layout.ranks):
            mine = [] if self._fits(ids) else [ids.own.narrow[start:stop] for start, stop in layout.narrow_runs[rank]]
            for item in layout.ragged[rank]:
                mine += _packed(ids.own.part(item, rank))
            parts += mine
            sent.append(sum(part.numel() for part in mine))
        received = [sum(self._sizes(ids, head)) for head in ids.heads]
        nothing = ids.own.narrow.new_empty(0)
        ids.rest = Sending(parts or [nothing], sent, received, self._group)

    def _fits(self, ids: SentIds) -> bool:
        return all(int(head[2]) == ids.expected for head in ids.heads)

    def _sizes(self, ids: SentIds, head: list[float]) -> list[int]:
        """Returns the sizes of the pieces of the second message, from the rank that has this head."""
        layout, rows = self.layout, int(head[2])
        sizes = [0 if self._fits(ids) else layout.narrow_counts[layout.rank] * rows]
        for item, count in zip(layout.ragged[layout.rank], head[_HEAD:], strict=False):
            sizes += [rows, int(count)]
            if item.feature in layout.weighted:
                sizes.append(int(count))
        return sizes

    def receive(self, ids: SentIds) -> ReceivedIds:
        """Returns the ids that all ranks have sent to this one."""
        self.read_heads(ids)
        layout, rank = self.layout, self.layout.rank
        sizes, features = [int(head[2]) for head in ids.heads], layout.narrow_counts[rank]
        full = all(head[3] for head in ids.heads)
        pieces: list[list[Tensor]] = []
        if ids.rest is not None:
            of_ranks = ids.rest.received().split(ids.rest.sizes)
            pieces = [list(p.split(self._sizes(ids, head))) for p, head in zip(of_ranks, ids.heads, strict=True)]
        if self._fits(ids):
            first = ids.first.received().view(layout.ranks, -1)[:, self._head_size :]
            narrow = first.view(layout.ranks, features, ids.expected).transpose(0, 1).reshape(features, sum(sizes))
        else:
            narrow = torch.cat([p[0].view(features, rows) for p, rows in zip(pieces, sizes, strict=True)], 1)
        found = ReceivedIds(sizes, narrow, full)
        at = 1
        for item in layout.ragged[rank]:
            weighted = item.feature in layout.weighted
            lengths, values = (torch.cat([p[at + i] for p in pieces]) for i in (0, 1))
            weights = torch.cat([p[at + 2] for p in pieces]).view(torch.float64).float() if weighted else None
            found.ragged[item] = Ragged(lengths, values, weights)
            at += 3 if weighted else 2
        for i, item in enumerate(layout.counted[rank], start=_HEAD):
            found.counts[item] = [int(head[i]) for head in ids.heads]
        return found


def _packed(ids: Ragged) -> list[Tensor]:
    """Returns ragged ids as int64 numbers: weights as the bits of a float64."""
    weights = [] if ids.weights is None else [ids.weights.double().view(torch.int64)]
    return [ids.lengths, ids.values, *weights]
