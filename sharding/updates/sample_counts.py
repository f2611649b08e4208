"""Mini-batch-aware L2 divides a row's decay by the number of training samples that the row occurs in.

They are counted once, before the first step, in one pass over the training batches. Pairs (row of the batch, id) are
made distinct where the row is, so that a sample counts once for an id that several features of a table, or several
positions of a history, name in it. Distinct ids go with their counts to all ranks, and each adds those whose table rows
it has: that knows no placement, and costs by the batch.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.sharding.tables.collective import ProcessGroupCollective
from shardrec.sharding.tables.live import LiveTable
from shardrec.sharding.updates.rules import SAMPLES

MOST_SAMPLES = 2**31 - 1
_CHUNK = 4 << 20  # counts that are converted at once


class SampleCounts:
    """Samples are counted into the state `samples` of this rank's shards.

    tables: those to count. features: table -> the features that read it, in `Batch.ids` or `Batch.weighted_ids`.
    """

    def __init__(
        self,
        tables: Sequence[LiveTable],
        features: Mapping[str, Sequence[str]],
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        self._ranks = ProcessGroupCollective(process_group)
        self._reads: list[tuple[str, int]] = []  # features, and where their table's rows begin if all are numbered on
        self._counters: list[tuple[int, Tensor]] = []  # the same of each shard's first row, and its counts
        self._rows = 0
        for table in tables:
            self._reads += [(feature, self._rows) for feature in features[table.name]]
            for shard in table.shards:
                # in int32, since sums of fp32 stand still from 2^24 on; in place, to make no second copy
                self._counters.append((self._rows + shard.row, shard.tensors[SAMPLES].view(torch.int32)))
            self._rows += table.table.num_embeddings

    @torch.no_grad()
    def count(self, batches: Iterable[Batch]) -> None:
        """Counts all ranks' batches, of which each rank has equally many. Raises UserError for 2^31 samples or more."""
        samples = 0
        for _, counter in self._counters:
            counter.zero_()
        for batch in batches:
            samples += batch.size * self._ranks.world_size
            if samples > MOST_SAMPLES:
                raise UserError(
                    f"decay: frequency counts up to {MOST_SAMPLES:,} training rows, and there are more; choose decay: "
                    "batch, or train on fewer rows at a time"
                )
            row_counts = torch.stack(self._named(batch).unique(return_counts=True), dim=1)
            if self._ranks.world_size > 1:
                row_counts = self._ranks.concatenate(row_counts)
            for first, counter in self._counters:
                rows = row_counts[:, 0] - first
                here = (rows >= 0) & (rows < len(counter))
                counter.index_add_(0, rows[here], row_counts[here, 1].int())
        for _, counter in self._counters:
            for chunk in counter.split(_CHUNK):
                chunk.view(torch.float32).copy_(chunk.float())

    def _named(self, batch: Batch) -> Tensor:
        """Returns the table rows that a batch's rows name [n] int64, each once a row, all tables' numbered on."""
        read = batch.ids.to_dict() | (batch.weighted_ids.to_dict() if batch.weighted_ids is not None else {})
        row = torch.arange(batch.size, device=batch.weights.device)
        pairs = []
        for feature, first in self._reads:
            ids, lengths = read[feature].values(), read[feature].lengths()
            pairs.append(row.repeat_interleave(lengths, output_size=ids.numel()) * self._rows + (ids + first))
        return torch.cat(pairs).unique() % self._rows
