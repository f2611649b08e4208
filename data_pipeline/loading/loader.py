"""A loader turns Parquet into one rank's batches: order, decoding, collation and a thread that runs ahead.

A loader has no state but its arguments: `epoch(e, start_step=k)` gives what `epoch(e)` gives after k batches, without
decoding the row groups that those were made of.
"""

import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from shardrec.data_pipeline.batch import Alternatives, Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.loading.footprint import Footprint, check_long_rows
from shardrec.data_pipeline.loading.lanes import shared_groups
from shardrec.data_pipeline.loading.prefetch import prefetched
from shardrec.data_pipeline.loading.reader_pool import ReaderPool
from shardrec.data_pipeline.loading.reader_process import STEPS_AHEAD, Decoded, Reading
from shardrec.data_pipeline.reading.blocks import Block, join_tables
from shardrec.data_pipeline.reading.collate import Layout
from shardrec.data_pipeline.reading.gaps import Gap
from shardrec.data_pipeline.reading.index import DataSet
from shardrec.data_pipeline.reading.order import Order, default_lanes
from shardrec.data_pipeline.sampling.negatives import Negatives, NegativeSampler
from shardrec.data_pipeline.sampling.own_events import OwnEvents
from shardrec.data_pipeline.sampling.settings import NegativeSampling
from shardrec.data_pipeline.sampling.shared import SharedNegatives, SharedSampler

RowOrder = Literal["shuffled", "time", "file"]
Drawn = Negatives | SharedNegatives
"""What negatives are drawn from."""


class Loader:
    """A loader makes the batches of one rank, for training or evaluation.

    order: "shuffled", for training; "time", global batch s holds rows [s G, (s + 1) G) of the files (for daily
        training; one lane, so every rank decodes all rows), which are checked to be in order of the schema's `time`,
        if it has one; "file", for evaluation and prediction: the rows as they lie in the files, each rank a contiguous
        part of them
    lanes: None takes the largest power of two <= 16 that divides `global_batch_size` and fits `memory`
    window: rows of a lane that are shuffled together
    memory: bytes that decoding, windows, kept row groups and what negatives are drawn from may take
    prefetch: batches made ahead by a background thread; 0 makes them in the caller's
    readers: processes that decode lanes; 0 decodes in the thread that makes batches. No more start than lanes are read
    in_use: batches that the caller holds at once, which `memory` counts beside those made ahead
    id_order: keys of the ids, in order; sparse features that it leaves out are not read
    class_weights: the first label's value -> factor of the sample weight
    extra_columns: columns that `epoch_with_columns` hands out beside the batches
    absent: features that are not read: they have no ids in any row of a batch, and dense ones are 0
    negatives: what to draw for every row, or for a batch; `global_batch_size` counts those of rows too, and their
        `Batch.rows` are the row's. With settings alone the loader tells what it would do, but makes no batch
    item_of: sequence -> the feature of the row's own item, whose id is left out of the sequence
    skips_bad: rows that cannot be read any more are left out of their batches, which are as many as ever

    dense_names, id_names, weighted_id_names: what the columns of `Batch.dense` and the keys of its ids are
    rows_read, rows_decoded: rows of the files handed out, and rows that pyarrow decoded for them, over all epochs
    left_out: rows that all ranks' last pass lacked, as whoever made it found
    bad_groups: (file, row group) -> why its rows were left out, of those that this rank met
    """

    _pool: ReaderPool | None = None
    _warned = False
    rows_read = rows_decoded = left_out = 0
    _shared: SharedSampler | None = None

    def __init__(
        self,
        source: DataSet,
        schema: Schema,
        *,
        folder: str | Path,
        global_batch_size: int,
        seed: int = 0,
        lanes: int | None = None,
        window: int = 16_384,
        memory: int = 1 << 30,
        order: RowOrder = "shuffled",
        rank: int = 0,
        world_size: int = 1,
        prefetch: int = 2,
        readers: int = 0,
        in_use: int = 1,
        id_order: Sequence[str] | None = None,
        class_weights: Mapping[float, float] | None = None,
        extra_columns: Sequence[str] = (),
        absent: Sequence[str] = (),
        negatives: Drawn | NegativeSampling | None = None,
        item_of: Mapping[str, str] | None = None,
        skips_bad: bool = False,
    ) -> None:
        """Reads no rows yet; `folder` is the schema's (vocabularies).

        Raises UserError for columns that are missing or of a wrong type, for lanes or negatives that do not divide the
        batch, for negatives with class weights, and where `memory` is too small.
        """
        self.index, self.bad_groups = source.index, dict[tuple[str, int], str]()
        settings = negatives.settings if isinstance(negatives, Drawn) else negatives
        self._layout = Layout(
            schema,
            folder,
            id_order=id_order,
            class_weights=class_weights,
            extra_columns=extra_columns,
            carried=(*(settings.pair if settings else ()), *(item_of or {}).values()),
            absent=absent,
            in_time=order == "time",
        )
        self._layout.check(self.index)
        check_long_rows(self.index, self._layout.columns, memory)
        self._rank, self._world_size, self._kind, self.skips_bad = rank, world_size, order, skips_bad
        self._prefetch, self._in_use, self._readers = prefetch, in_use, readers
        self._drawn = settings is None or isinstance(negatives, Drawn)
        self._each = 1 if settings is None else settings.rows_per_positive  # rows handed out for a row of the files
        if settings is not None:
            if class_weights:
                raise UserError("data: class_weights and negatives exclude each other; negatives.per_positive balances")
            global_batch_size = settings.positives_of(global_batch_size, lanes)
        self._sampler = NegativeSampler(negatives, self._layout, seed) if isinstance(negatives, Negatives) else None
        if isinstance(negatives, SharedNegatives):
            drawn = _of_items(schema, folder, id_order, negatives.item_features)
            self._shared = self._shared_sampler(negatives, drawn, seed, global_batch_size)
        self._own_events = OwnEvents(self._layout, item_of or {})
        self._taken = self._taken_by(negatives, memory) if isinstance(negatives, Drawn) else 0
        self._shared_rows = self._shared.rows if self._shared else 0
        self._put_in_order(lanes, global_batch_size, window, memory - self._taken, seed)

    def _shared_sampler(
        self, negatives: SharedNegatives, drawn: Layout, seed: int, global_batch_size: int
    ) -> SharedSampler:
        """Returns what draws the items that a batch shares; drawn: how their rows are read."""
        return SharedSampler(
            negatives,
            self._layout,
            drawn,
            seed=seed,
            global_batch_size=global_batch_size,
            rank=self._rank,
            world_size=self._world_size,
            fixed=self._kind == "file",
        )

    def _put_in_order(self, lanes: int | None, global_batch_size: int, window: int, memory: int, seed: int) -> None:
        """Decides which rows make which batch. Raises UserError where lanes and batches do not fit into `memory`."""
        rows = -(-global_batch_size // self._world_size) * self._each + self._shared_rows
        batch_rows = rows * self._batches_at_once
        self._footprint = Footprint.of(self._layout, self.index, memory=memory, window=window, batch_rows=batch_rows)
        lanes, global_batch_size = self._cut(lanes, global_batch_size, window, memory)
        self.order = Order(self.index.group_rows, global_batch_size, lanes, window, seed, self._kind == "shuffled")
        self._kept_memory = self._memory_left(memory)

    def _cut(self, lanes: int | None, global_batch_size: int, window: int, memory: int) -> tuple[int, int]:
        """Returns the lanes and rows of a global batch that the order of rows asks for."""
        if self._kind == "file":
            return self._world_size, max(global_batch_size // self._world_size, 1) * self._world_size
        if self._kind == "time":
            if lanes not in (None, 1):
                raise UserError(f"data.lanes is {lanes}, but data.order: time has one lane; leave data.lanes out")
            return 1, global_batch_size
        if lanes is None:  # half of the memory is for batches and kept row groups
            lanes = default_lanes(global_batch_size, self._footprint.lane_bytes(window), memory // 2)
        return lanes, global_batch_size

    def _taken_by(self, negatives: Drawn, memory: int) -> int:
        """Returns the bytes of what negatives are drawn from. Raises UserError where `memory` does not hold them."""
        taken = negatives.nbytes
        if taken >= memory:
            raise UserError(
                f"data.memory of {memory / 2**20:.0f} MiB is too small: data.negatives takes {taken / 2**20:.0f} MiB "
                f"of every worker for {negatives.holds}; give more memory"
            )
        return taken

    def _memory_left(self, memory: int) -> int:
        """Returns the bytes left for kept row groups. Raises UserError where lanes and batches do not fit."""
        lanes, window = len(self.order.shares(self._rank, self._world_size)), self.order.window
        rows = self.order.padded_rows(0, self._world_size) * self._each + self._shared_rows
        batch_rows = rows * self._batches_at_once
        self._readers = min(self._readers, lanes)
        needed = self._footprint.reader_bytes(lanes, window, batch_rows, max(self._readers, 1))
        if needed > memory:
            raise UserError(
                f"data.memory of {(memory + self._taken) / 2**20:.0f} MiB is too small: "
                + (f"{self._taken / 2**20:.0f} MiB hold what data.negatives needs, and " if self._taken else "")
                + f"{lanes} lanes with windows of {window} "
                f"rows of about {self._footprint.row_bytes:.0f} bytes "
                + (f"and {self._readers} readers " if self._readers > 1 else "")
                + f"need {needed / 2**20:.0f} MiB; give more memory, fewer lanes"
                + (" or readers" if self._readers > 1 else "")
                + ", a smaller window or smaller batches"
            )
        return memory - needed

    # ------------------------------------------------------------ what there is

    @property
    def dense_names(self) -> tuple[str, ...]:
        """Returns what the columns of `Batch.dense` are."""
        return self._layout.dense_names

    @property
    def id_names(self) -> tuple[str, ...]:
        """Returns the keys of `Batch.ids`."""
        return self._layout.id_names

    @property
    def weighted_id_names(self) -> tuple[str, ...]:
        """Returns the keys of `Batch.weighted_ids`."""
        return self._layout.weighted_id_names

    @property
    def columns(self) -> tuple[str, ...]:
        """Returns the Parquet columns that are read."""
        return self._layout.columns

    @property
    def lanes(self) -> int:
        """Returns the number of lanes."""
        return self.order.lanes

    @property
    def readers(self) -> int:
        """Returns the number of processes that decode; 0: a thread of this one does."""
        return self._readers

    @property
    def num_rows(self) -> int:
        """Returns the number of rows of an epoch, over all ranks."""
        return self.order.num_rows

    @property
    def steps_per_epoch(self) -> int:
        """Returns how many batches an epoch has."""
        return self.order.steps_per_epoch

    def bad_rows(self, step: int, live: int) -> int:
        """Returns how many rows of files all ranks' batches `step` lack together, of which `live` rows are live."""
        return self.order.planned_rows(step) - live // self._each

    @property
    def _batches_at_once(self) -> int:
        return self._prefetch + self._in_use + (STEPS_AHEAD + 1 if self._readers else 0)

    @property
    def row_bytes(self) -> float:
        """Returns the estimated bytes of a decoded row."""
        return self._footprint.row_bytes

    def order_state(self) -> dict[str, Any]:
        """Returns all that decides which rows make which batch, for a checkpoint."""
        return {
            "order": self._kind,
            "lanes": self.order.lanes,
            "window": self.order.window,
            "seed": self.order.seed,
            "global_batch_size": self.order.global_batch_size * self._each,
            "negatives": sampler.state() if (sampler := self._sampler or self._shared) else None,
            "num_rows": self.num_rows,
            "fingerprint": self.index.fingerprint.value,
        }

    def check_state(self, saved: Mapping[str, Any]) -> None:
        """Raises UserError where batches would differ from those of the run that saved `order_state()`."""
        for key, now in self.order_state().items():
            if key == "fingerprint":
                same = self.index.fingerprint.matches(saved.get(key))
            elif key == "negatives" and (sampler := self._sampler or self._shared) is not None:
                same = sampler.matches(saved.get(key))
            else:
                same = saved.get(key) == now
            if same:
                continue
            if key in ("num_rows", "fingerprint"):
                raise UserError(
                    f"the data under {self.index.files[0].path} are not those of the checkpoint ({self.num_rows} rows, "
                    f"then {saved.get('num_rows')}), by names, sizes and footers; resume with the same files, or "
                    "start a new run from the checkpoint"
                )
            setting = "trainer.seed" if key == "seed" else f"data.{key}"
            raise UserError(
                f"{setting} is {now}, but the checkpoint was made with {saved.get(key)}, and batches would differ; "
                f"set {setting} back, or start a new run from the checkpoint"
            )

    # ------------------------------------------------------------ batches

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yields this rank's batches start_step, start_step + 1 ... of an epoch; as many, and as large, on every rank.

        Raises UserError where rows cannot be decoded or hold what the schema does not allow.
        """
        return self._run(epoch, start_step, with_columns=False)

    def epoch_with_columns(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Batch, pa.Table]]:
        """Yields batches, each with the `extra_columns` of its live rows (padding rows come after them)."""
        return self._run(epoch, start_step, with_columns=True)

    def padding(self, step: int) -> Batch:
        """Returns a batch as large as this rank's batch `step` of an epoch, without any rows."""
        return self._batch([], 0, step)

    def _run(self, epoch: int, start_step: int, *, with_columns: bool) -> Iterator[Any]:
        if not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(f"start_step is {start_step}, expected 0 to {self.steps_per_epoch}")
        self._warn_of_huge_groups(epoch)
        return self._handed_out(prefetched(self._batches(epoch, start_step, with_columns), self._prefetch))

    def _handed_out(self, made: Generator[tuple[Any, int], None, None]) -> Iterator[Any]:
        with closing(made):
            for item, live in made:
                self.rows_read += live
                yield item

    def _batches(self, epoch: int, start_step: int, with_columns: bool) -> Iterator[tuple[Any, int]]:
        """Yields what is handed out, and how many live rows it has. Runs in the background thread."""
        carried = self._layout.carried
        assert carried is not None
        assert self._drawn, "negatives were declared but not read"
        for step, parts in self._rows(epoch, start_step):
            live = sum(p.rows for p in parts)
            batch = self._batch(parts, epoch, step)
            extra = join_tables([carried.empty_table(), *(p.extra for p in parts)]) if with_columns else None
            yield batch if extra is None else (batch, extra), live

    def _rows(self, epoch: int, start_step: int) -> Iterator[tuple[int, list[Block]]]:
        """Yields the steps of an epoch, each with this rank's rows of it, from readers or decoded here."""
        steps = range(start_step, self.steps_per_epoch)
        if not self._readers:
            decoded = Decoded()
            with closing(self._reading().lanes(epoch, start_step, decoded)) as lanes:
                for step in steps:
                    parts = lanes.take(step)
                    rows, gaps = decoded.taken()
                    self.rows_decoded += rows
                    self._note(gaps)
                    yield step, parts
        elif steps:
            if self._pool is None:
                self._pool = ReaderPool(self._reading(), self._readers)
            before = self.rows_decoded - self._pool.rows_decoded
            self._pool.start(epoch, start_step)
            try:
                for step in steps:
                    parts = self._pool.take(step)
                    self.rows_decoded = before + self._pool.rows_decoded
                    self._note(self._pool.gaps)
                    self._pool.gaps.clear()
                    yield step, parts
            finally:
                if step < steps[-1]:
                    self._pool.close()

    def _note(self, gaps: Sequence[Gap]) -> None:
        for gap in gaps:
            self.bad_groups.setdefault((gap.where, gap.group), gap.why)

    def _reading(self) -> Reading:
        shares = tuple(self.order.shares(self._rank, self._world_size))
        return Reading(self.index, self._layout, self.order, self._footprint, self._kept_memory, shares, self.skips_bad)

    def _batch(self, parts: list[Block], epoch: int, step: int) -> Batch:
        """Makes this rank's batch `step` of its rows, with the negatives that there are."""
        parts = self._own_events.left_out(parts)
        rows = sum(p.rows for p in parts)
        if self._sampler is not None:
            parts = self._sampler.with_negatives(parts, epoch)
        batch = self._layout.collate(parts, self.order.padded_rows(step, self._world_size) * self._each)
        if self._sampler is not None:
            return replace(batch, alternatives=Alternatives.own(rows, self._each - 1))
        return batch if self._shared is None else self._shared.with_shared(batch, parts, epoch, step)

    def _warn_of_huge_groups(self, epoch: int) -> None:
        """Warns, once, where row groups that are too large to be kept make an epoch decode over 1.25 times its rows."""
        if self._warned:
            return
        order = self.order
        shares = order.shares(self._rank, self._world_size)
        ranges = [order.lane_ranges(epoch, share.lane) for share in shares]
        again = {}
        for group, parts in shared_groups(self.index, ranges).items():
            if sum(stop - start for start, stop in parts) * self._footprint.row_bytes > self._kept_memory:
                begin = self.index.group_bounds(group)[0]
                again[group] = sum(sorted(stop - begin for _, stop in parts)[:-1])
        if sum(again.values()) <= sum(order.lane_rows(share.lane) for share in shares) / 4:
            return
        self._warned = True
        group = max(again, key=lambda g: again[g])
        warnings.warn(
            f"{self.index.files[self.index.file_of(group)].path}: a row group of {self.index.group_rows[group]} rows "
            f"is too large for the {self._kept_memory / 2**20:.0f} MiB left of data.memory, so every lane that needs "
            "it decodes it again; write smaller row groups (`shardrec prepare`), or give more memory",
            stacklevel=4,
        )


def _of_items(schema: Schema, folder: str | Path, id_order: Sequence[str] | None, brought: Sequence[str]) -> Layout:
    """Returns the layout of drawn items: the same keys and columns, without ids or numbers but those brought along."""
    if id_order is not None:
        dense = (f.name for f in (*schema.dense, *schema.dense_sequences))
        schema = schema.subset([*id_order, *dense])
    absent = [f.name for f in schema.features if f.name not in brought]
    return Layout(schema.unlabelled(), folder, id_order=id_order, absent=absent)
