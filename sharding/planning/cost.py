"""A step under a plan is estimated by the bytes and FLOP of each rank over the rates of a topology.

Plain arithmetic on expected numbers; nothing runs. A step is cut into parts that follow each other, as every exchange
waits for all ranks: ids to the rows' owners, lookup, vectors back, the tower forward and backward, gradients to the
owners, update of the rows, and the sum of what all ranks hold copies of. A part takes as long as its slowest rank.

Assumed: nothing overlaps; ids are spread evenly over a table's rows (hot rows make updates cheaper and row-wise ranks
uneven); an exchange within hosts and one between them go on at the same time, and so do sending and receiving; sums
over ranks (copies) run in rings, of which one link in `local_world_size` leaves the host. Tables share a message of
ids, one of vectors and one of gradients (`sharding/exchange/`), but for those that TorchRec sums within hosts. Not
counted: reading data, elementwise work of the tower, Python and the launch of kernels; of dynamic tables, counting and
admitting ids and filling fresh rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from shardrec.models.dynamic_ids import DynamicIds
from shardrec.models.inputs import Input
from shardrec.models.table_reads import features_of, table_reads
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.dynamic.dynamic_tables import dynamic_features
from shardrec.sharding.lookup.detached import detached_inputs
from shardrec.sharding.lookup.groups import Kind, group_tables
from shardrec.sharding.planning.exchange import EXCHANGED_BYTES
from shardrec.sharding.planning.placements import OF_HOSTS
from shardrec.sharding.planning.plan import Plan, ShardPlan, TablePlan
from shardrec.sharding.planning.row_memory import shard_bytes, slowdown
from shardrec.sharding.planning.topology import Topology
from shardrec.sharding.planning.traffic import Numbers, Traffic, everywhere, gather, ring, summed_by_host, to_host
from shardrec.sharding.tables.live import physical_dim, row_bytes

ID_BYTES, LENGTH_BYTES, WEIGHT_BYTES, VECTOR_BYTES = 8, 8, 8, 4
TORCHREC_WEIGHT_BYTES = 4
BACKWARD_WORK = 2  # of the tower, times forward's: gradients of inputs and of weights
TORCHREC_COLLECTIVES = 3, 2  # sizes, lengths, ids; sums within hosts, and between them: for each kind of its tables
DYNAMIC_COLLECTIVES = 5  # sizes, ids with counts, how many rows are fresh, which, row numbers: for all dynamic tables
ASKED_BYTES, ANSWER_BYTES = 16, 8  # an id with its count, a row number

IDS, LOOKUP, VECTORS, TOWER = "exchange of ids", "lookup", "exchange of vectors", "dense compute"
GRADIENTS, UPDATE, COPIES = "exchange of gradients", "update of rows", "sum over copies"
PARTS = (IDS, LOOKUP, VECTORS, TOWER, GRADIENTS, UPDATE, COPIES)
GROUPS = {"lookup": (LOOKUP, UPDATE), "exchange": (IDS, VECTORS, GRADIENTS, COPIES), "dense": (TOWER,)}
"""Parts make up groups. The tower's gradients are among the copies that are summed."""


@dataclass(frozen=True)
class Workload:
    """A workload is what a step has to do.

    ids_per_sample: how many ids a feature has in a row of the data, in the mean (default 1); weighted: features with
    weights. tower_flops: of one sample's forward pass; tower_parameters: trained ones, in fp32.
    """

    inputs: Mapping[str, Input]
    global_batch_size: int
    ids_per_sample: Mapping[str, float] = field(default_factory=dict)
    weighted: frozenset[str] = frozenset()
    tower_flops: float = 0.0
    tower_parameters: int = 0

    @cached_property
    def reads(self) -> dict[str, "TableReads"]:
        """Returns how each table is read, by its name, in the pass that is learned from."""
        return self._reads(detached=False)

    @cached_property
    def detached_reads(self) -> dict[str, "TableReads"]:
        """Returns the same of the pass that nothing is learned from, of the tables that are read in it."""
        return {name: reads for name, reads in self._reads(detached=True).items() if reads.ids}

    def _reads(self, *, detached: bool) -> dict[str, "TableReads"]:
        """Either pass has all keys of the collections."""
        inputs = detached_inputs(self.inputs, detached)
        return {
            table.name: TableReads(
                group.kind,
                len(features),
                sum(self.ids_per_sample.get(f, 1.0) for f in features_of(inputs, table.name)),
            )
            for group in group_tables(self.inputs, self.weighted)
            for table, features in group.features.items()
        }

    @cached_property
    def dynamic_ids(self) -> dict[DynamicIds, float]:
        """Returns how many ids a sample has in the features of each id space, in however many dynamic tables."""
        readers = ((table, [feature]) for feature, table in table_reads(self.inputs))
        return {
            ids: sum(self.ids_per_sample.get(f, 1.0) for f in features)
            for ids, features in dynamic_features(readers).items()
        }


@dataclass(frozen=True)
class TableReads:
    """A table is read by so many features, which have so many ids in all, a sample."""

    kind: Kind
    features: int
    ids: float

    @property
    def vectors(self) -> float:
        """Returns how many vectors a sample gets: one a pooled feature, one an id of a sequence."""
        return self.ids if self.kind == "sequences" else self.features

    @property
    def is_ragged(self) -> bool:
        """Says whether rows differ in how many ids they have, as far as is known: sequences and weighted bags do."""
        return self.kind != "bags" or self.ids != self.features

    def id_bytes(self, weight_bytes: int = WEIGHT_BYTES) -> float:
        """Returns the bytes of a sample's ids, and of their weights where the lookup takes them."""
        return self.ids * (ID_BYTES + (weight_bytes if self.kind == "weighted_bags" else 0))

    @property
    def length_bytes(self) -> float:
        """Returns the bytes of a sample's numbers of ids, which each rank is told that gets any of them."""
        return self.features * LENGTH_BYTES


@dataclass(frozen=True)
class PartEstimate:
    """A part of a step takes seconds on each rank [W], and single tables take theirs there, alone."""

    name: str
    seconds: Numbers
    tables: Mapping[str, Numbers]
    traffic: Traffic | None = None

    @property
    def slowest(self) -> int:
        """Returns the rank that takes longest."""
        return int(self.seconds.argmax())

    @property
    def longest(self) -> float:
        """Returns the slowest rank's seconds, which are the part's."""
        return float(self.seconds.max())

    def leading(self, most: int = 3) -> list[str]:
        """Returns the tables that take most of the slowest rank's time."""
        taken = {name: float(seconds[self.slowest]) for name, seconds in self.tables.items()}
        return sorted((n for n in taken if taken[n] > 0), key=lambda n: (-taken[n], n))[:most]


@dataclass(frozen=True)
class Estimate:
    """An estimate has a step's parts in order.

    buffer_bytes: of vectors and their gradients, which each rank [W] has beside its tables.
    """

    parts: tuple[PartEstimate, ...]
    global_batch_size: int
    buffer_bytes: Numbers

    @property
    def seconds(self) -> float:
        """Returns the seconds that the step takes at least."""
        return sum(part.longest for part in self.parts)

    @property
    def samples_per_second(self) -> float:
        """Returns how many samples a second that is at most."""
        return self.global_batch_size / self.seconds

    def group_seconds(self, group: str) -> float:
        """Returns the seconds of `lookup`, `exchange` or `dense`."""
        return sum(part.longest for part in self.parts if part.name in GROUPS[group])

    @property
    def slowest_group(self) -> str:
        """Returns the group that takes most: `lookup`, `exchange` or `dense`."""
        return max(GROUPS, key=self.group_seconds)

    @property
    def bottleneck(self) -> PartEstimate:
        """Returns the longest part of the group that takes most."""
        return max((p for p in self.parts if p.name in GROUPS[self.slowest_group]), key=lambda part: part.longest)


def estimate_step(plan: Plan, topology: Topology, workload: Workload) -> Estimate:
    """Estimates the step of a global batch under a plan on the machines that it was made for."""
    batch, ranks = workload.global_batch_size, topology.world_size
    costs = {name: _TableCost(p, topology, workload.reads[name], batch) for name, p in plan.tables.items()}
    detached = {
        name: _TableCost(plan.tables[name], topology, reads, batch)
        for name, reads in workload.detached_reads.items()
        if name in plan.tables
    }
    asked, carried = map(sum, zip(_messages(costs), _messages(detached), strict=True))
    tower = np.full(ranks, (1 + BACKWARD_WORK) * workload.tower_flops * workload.global_batch_size / ranks)
    copied = ring(topology, 2 * 4.0 * workload.tower_parameters)
    copies = (workload.tower_parameters > 0) + any(c.planned.placement == "data_parallel" for c in costs.values())

    def exchange(name: str, traffics: Mapping[str, Traffic], collectives: int, besides: Traffic | None = None) -> None:
        total = Traffic.none(ranks)
        for traffic in (*traffics.values(), *([besides] if besides else [])):
            total += traffic
        waited = topology.latency * collectives if ranks > 1 else 0.0
        alone = {n: t.seconds(topology) for n, t in traffics.items()}
        parts[name] = PartEstimate(name, total.seconds(topology) + waited, alone, total)

    def work(name: str, read: Mapping[str, Numbers]) -> None:
        alone = {n: size / topology.row_bandwidth for n, size in read.items()}
        parts[name] = PartEstimate(name, sum(alone.values(), np.zeros(ranks)), alone)

    parts: dict[str, PartEstimate] = {TOWER: PartEstimate(TOWER, tower / topology.dense_flops, {})}
    waits = asked + DYNAMIC_COLLECTIVES * bool(workload.dynamic_ids)
    ids, vectors = ({n: getattr(c, of) for n, c in costs.items()} for of in ("ids", "vectors"))
    read = {n: c.read for n, c in costs.items()}
    for name, cost in detached.items():  # forward alone
        ids[name], vectors[name] = ids[name].plus(cost.ids), vectors[name].plus(cost.vectors)
        read[name] = read[name] + cost.read
    exchange(IDS, ids, waits, _asked_and_answered(topology, workload))
    exchange(VECTORS, vectors, carried)
    exchange(GRADIENTS, {n: c.vectors.back for n, c in costs.items()}, _messages(costs)[1])
    exchange(COPIES, {n: c.copies for n, c in costs.items()}, copies, copied)
    work(LOOKUP, read)
    work(UPDATE, {n: c.updated for n, c in costs.items()})
    buffers = sum((c.buffers for c in (*costs.values(), *detached.values())), np.zeros(ranks))
    return Estimate(tuple(parts[name] for name in PARTS), workload.global_batch_size, buffers)


def _messages(costs: Mapping[str, "_TableCost"]) -> tuple[int, int]:
    """Counts the collectives of ids and of vectors: tables share one of each, and ragged ids have a second of theirs.

    Each kind of table that is summed within hosts has its own, TorchRec's.
    """
    exchanged = [c for c in costs.values() if c.exchanged]
    ours = [c for c in exchanged if c.planned.placement not in OF_HOSTS]
    kinds = len({(c.reads.kind, c.planned.placement) for c in exchanged if c.planned.placement in OF_HOSTS})
    of_ids, of_vectors = (kinds * each for each in TORCHREC_COLLECTIVES)
    return of_ids + bool(ours) + any(c.reads.is_ragged for c in ours), of_vectors + bool(ours)


class _TableCost:
    """A table's cost is its bytes on each rank: read and written (`read`, `updated`), exchanged, and held meanwhile.

    Those read over a bus count as many times as they are slower.
    """

    def __init__(self, planned: TablePlan, topology: Topology, reads: TableReads, batch: int) -> None:
        self.planned, self.table = planned, planned.table
        self.topology = topology
        self.reads = reads
        self.batch = batch
        self.slowdown = slowdown(self.table, topology)
        self.travelling = EXCHANGED_BYTES[topology.exchange]  # bytes of a number of a vector on its way
        ranks = topology.world_size
        self.read, self.updated, self.buffers = np.zeros(ranks), np.zeros(ranks), np.zeros(ranks)
        self.ids, self.vectors, self.copies = (Traffic.none(ranks) for _ in range(3))
        self.exchanged = ranks > 1 and planned.placement != "data_parallel"
        match planned.placement:
            case "data_parallel":
                self._replicated()
            case "row_wise":
                self._row_wise()
            case "table_row_wise" | "grid":
                self._within_hosts()
            case _:
                self._at_owners()

    def _replicated(self) -> None:
        rows, columns = self.table.num_embeddings, physical_dim(self.table)
        ranks = self.topology.world_size
        vectors = self.batch / ranks * self.reads.vectors * columns * VECTOR_BYTES
        self.read += row_bytes(self.table, columns) * self.batch / ranks * self.reads.ids + vectors
        buffer = 4.0 * rows * (columns + 1)
        touched = self._touched(rows, self.batch * self.reads.ids)
        # the buffer is zeroed, divided (read and written) and read; gradients are added to it, then rows change
        self.updated += 4 * buffer + 2 * vectors + touched * _change_bytes(self.table, columns)
        self.copies += ring(self.topology, 2 * buffer)
        self.buffers += 2 * vectors

    def _row_wise(self) -> None:
        ranks, columns = self.topology.world_size, physical_dim(self.table)
        rows = np.zeros(ranks)
        for shard in self.planned.shards:
            rows[shard.rank] = shard.rows
        share = rows / self.table.num_embeddings
        ids = self.batch * self.reads.ids * share
        mine = self.batch / ranks
        if self.reads.is_ragged:
            sent = self.reads.id_bytes() / ranks + self.reads.length_bytes
        else:  # every rank gets them all, whosever they are: so many that each knows without being told
            sent = self.reads.features * ID_BYTES
        self.ids += everywhere(self.topology, mine * sent)
        vector = columns * VECTOR_BYTES
        if self.reads.kind == "sequences":
            written = ids * vector
            self.vectors += everywhere(self.topology, mine * self.reads.ids / ranks * columns * self.travelling)
        else:  # partial sums of the whole batch on every rank, summed where they are wanted
            written = np.full(ranks, self.batch * self.reads.vectors * vector)
            self.vectors += everywhere(self.topology, mine * self.reads.vectors * columns * self.travelling)
        self._lookup(ids, rows, columns, written)
        self.buffers += 2 * (written + mine * self.reads.vectors * vector)

    def _within_hosts(self) -> None:
        """Adds up rows of a host's ranks, of all columns or of some, whose partial sums are summed there."""
        ranks, local = self.topology.world_size, self.topology.local_world_size
        vectors, lengths = self.reads.vectors, self.reads.length_bytes
        ids = self.reads.id_bytes(TORCHREC_WEIGHT_BYTES)
        parts: dict[tuple[int, int], list[ShardPlan]] = {}
        for shard in self.planned.shards:
            parts.setdefault((shard.rank // local, shard.column), []).append(shard)
        for (host, _), shards in parts.items():
            rows, columns = np.zeros(ranks), shards[0].columns
            for shard in shards:
                rows[shard.rank] = shard.rows
            sent = self.batch / ranks * (ids / local + lengths)
            self.ids += to_host(self.topology, host, sent)
            self.vectors += summed_by_host(self.topology, host, self.batch * vectors * columns * self.travelling)
            written = np.where(rows > 0, self.batch * vectors * columns * VECTOR_BYTES, 0.0)
            self._lookup(self.batch * self.reads.ids * rows / self.table.num_embeddings, rows, columns, written)
            self.buffers += 2 * (written * (1 + 1 / local) + self.batch / ranks * vectors * columns * VECTOR_BYTES)

    def _at_owners(self) -> None:
        """Adds up whole tables, or whole columns of them."""
        ranks = self.topology.world_size
        mine, ids = self.batch / ranks, self.batch * self.reads.ids
        asked = self.reads.id_bytes() + (self.reads.length_bytes if self.reads.is_ragged else 0)
        for shard in self.planned.shards:
            vector = shard.columns * VECTOR_BYTES
            written, here = np.zeros(ranks), np.zeros(ranks)
            written[shard.rank], here[shard.rank] = self.batch * self.reads.vectors * vector, 1
            self.ids += gather(self.topology, shard.rank, mine * asked)
            sent = mine * self.reads.vectors * shard.columns * self.travelling
            self.vectors += gather(self.topology, shard.rank, sent).back
            self._lookup(ids * here, shard.rows * here, shard.columns, written)
            self.buffers += 2 * (written + mine * self.reads.vectors * vector)

    def _lookup(self, ids: Numbers, rows: Numbers, columns: int, written: Numbers) -> None:
        """Adds a lookup and its update.

        Rows are read and vectors written; gradients are read for every id, and each row named is changed once.
        """
        self.read += ids * row_bytes(self.table, columns) * self.slowdown + written
        touched = self._touched(rows, ids)
        self.updated += ids * columns * VECTOR_BYTES + touched * _change_bytes(self.table, columns) * self.slowdown

    def _touched(self, rows: Numbers | float, ids: Numbers | float) -> Numbers:
        """Returns the distinct rows among `ids` draws of `rows`; all, where every step updates all."""
        assert self.table.optimizer is not None
        if self.table.optimizer.decay == "table":
            return np.asarray(rows, float)
        return _distinct(rows, ids)


def _distinct(rows: Numbers | float, ids: Numbers | float) -> Numbers:
    """Returns how many different ones `ids` draws of `rows` make."""
    rows = np.maximum(np.asarray(rows, float), 1)
    return rows * -np.expm1(-np.asarray(ids, float) / rows)


def _change_bytes(table: EmbeddingTable, columns: int) -> int:
    """Returns the bytes of a row with its state, read and written."""
    return 2 * shard_bytes(table, 1, columns)


def _asked_and_answered(topology: Topology, workload: Workload) -> Traffic:
    """Returns the traffic of each rank's distinct ids of dynamic tables to their buckets, and of rows back.

    There are as many ids as rows.
    """
    ranks = topology.world_size
    mine = workload.global_batch_size / ranks
    distinct = sum(_distinct(ids.geometry.rows, mine * count) for ids, count in workload.dynamic_ids.items())
    return everywhere(topology, float(distinct) / ranks * (ASKED_BYTES + ANSWER_BYTES))
