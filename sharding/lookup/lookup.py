"""The lookup turns a batch of ids into a tower's named inputs, and alone knows which collection holds which table.

Means are sums divided afterwards by the number of ids, or by the sum of their weights; an empty bag, or one whose
weights sum to 0, is 0.

On an ordinary device the module is the unsharded reference and trains with autograd; on the meta device it is what
`distribute` shards. Either way its parts take the batch's KeyedJaggedTensors as they come where one part's features
all have weights or all have none.

Detached inputs are looked up first, in a pass without gradient (`detached.py`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from shardrec.data_pipeline.batch import Batch
from shardrec.models.inputs import Input, Jagged
from shardrec.models.table_reads import declared_tables, features_of, table_reads, with_tables
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.dynamic.dynamic_tables import DynamicTables, dynamic_features
from shardrec.sharding.lookup.assemble import Assemble, Route
from shardrec.sharding.lookup.detached import Passes, detached_inputs, learned_features, stand_ins
from shardrec.sharding.lookup.gradient_guard import GradientGuard
from shardrec.sharding.lookup.groups import Group, group_tables
from shardrec.sharding.lookup.part import Part
from shardrec.sharding.tables.first_values import initialize_tables
from shardrec.sharding.tables.live import LiveTable, TableShard
from shardrec.sharding.tables.module_names import feature_name, module_name


class Exchange(Protocol):
    """An exchange looks up some of the parts on all ranks together. All ranks call it alike."""

    @property
    def parts(self) -> frozenset[int]:
        """Returns which of the parts."""

    @property
    def features(self) -> tuple[str, ...]:
        """Returns the features whose ids it sends, in the order that spares copies."""

    def send(self, batch: Batch) -> Any:
        """Sends a batch's ids on their way."""

    def live(self, sent: Any) -> tuple[int, float]:
        """Returns how many live rows all ranks' batches have, and their weight."""

    def look_up(self, sent: Any) -> dict[int, Any]:
        """Returns the parts' outputs."""


@dataclass(eq=False)
class Started:
    """A lookup is started once a batch's ids are on their way to the ranks that hold their rows.

    learned: of the ids that are learned from, None where starting has to wait. detached: of the others, None where none
    are read.
    """

    batch: Batch
    learned: "_Sent | None" = None
    detached: "_Sent | None" = None


@dataclass(frozen=True)
class _Sent:
    """What was sent by the exchange, and by each of the parts that it does not serve."""

    exchanged: Any
    by_part: dict[int, Any]


class EmbeddingLookup(nn.Module):
    """A lookup turns a batch into {input name: [B, F, D], [B, sum of D], [B, N] or `Jagged`}, fp32.

    dense_names: the columns of `batch.dense`. weighted_names: the features that arrive in `batch.weighted_ids`.
    single_names: features that never have more than one id in a row, which spares ranks telling each other how many.
    device: `meta` makes the thing to shard; on another the tables are parameters, with first values of `seed`.
    """

    def __init__(
        self,
        inputs: Mapping[str, Input],
        dense_names: Sequence[str],
        *,
        weighted_names: Collection[str] = (),
        single_names: Collection[str] = (),
        device: torch.device | str = "meta",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.inputs = dict(inputs)
        self.weighted_names = frozenset(weighted_names)
        self.single_names = frozenset(single_names)
        self.dense_names = tuple(dense_names)
        self.exchange: Exchange | None = None
        self.groups = group_tables(inputs, self.weighted_names)
        device = torch.device(device)
        self.dynamic_features = dynamic_features((table, [feature]) for feature, table in table_reads(self.inputs))
        self.dynamic: DynamicTables | None = None
        if device.type == "meta":
            self.use_collections([])  # `distribute` makes them, of what the plan leaves together
        else:
            self.use_collections([(group, group.collection(device)) for group in self.groups])
            tables = self.unsharded_tables()
            initialize_tables(tables.values(), seed)
            learned = learned_features(self.inputs)
            self.use_dynamic(
                DynamicTables(self.dynamic_features, tables.values(), learned=learned, seed=seed, device=device)
            )

    def replace_tables(self, tables: Mapping[str, EmbeddingTable]) -> None:
        """Puts a plan's tables, by name, in place of the inputs' own, and groups them anew."""
        self.inputs = with_tables(self.inputs, lambda table: tables[table.name])
        self.groups = group_tables(self.inputs, self.weighted_names)

    def use_collections(self, collections: Sequence[tuple[Group, nn.Module]]) -> None:
        """Replaces the collections that hold the tables."""
        self.parts = nn.ModuleList(Part(group, module, self.weighted_names) for group, module in collections)
        self.guard = GradientGuard(
            [[table.name for table in group.tables] for group, _ in collections],
            [group.kind == "sequences" for group, _ in collections],
        )
        routes = {
            (feature, table.name): Route(i, group.key(feature, table), group.kind == "sequences")
            for i, (group, _) in enumerate(collections)
            for table, features in group.features.items()
            for feature in features
        }
        self.assemble, self.assemble_detached = (
            self._assembles(detached_inputs(self.inputs, side), routes) for side in (False, True)
        )
        keys = stand_ins(self.inputs, self.weighted_names)
        self._passes = Passes(learned_features(self.inputs), keys) if keys else None

    def _assembles(self, inputs: Mapping[str, Input], routes: Mapping[tuple[str, str], Route]) -> Assemble:
        """Returns what makes some of the inputs, with their features' routes, of those that are to be given.

        A detached feature's is that of the key that it stands under.
        """
        keys = stand_ins(self.inputs, self.weighted_names)
        their_own = {
            (feature, table.name): routes[keys.get(feature, feature), table.name]
            for feature, table in table_reads(inputs)
            if (keys.get(feature, feature), table.name) in routes
        }
        return Assemble(inputs, their_own, self.dense_names, self.weighted_names)

    def use_dynamic(self, dynamic: DynamicTables) -> None:
        """Lets ids get their rows from `dynamic`, where there are tables that need it."""
        self.dynamic = dynamic if self.dynamic_features else None

    def use_exchange(self, exchange: Exchange) -> None:
        """Lets an exchange look up the parts that it serves, in place of their collections."""
        self.exchange = exchange

    @property
    def narrow_features(self) -> frozenset[str]:
        """Returns the keys under which never more than one id of a row is looked up, in any pass."""
        keys = stand_ins(self.inputs, self.weighted_names)
        return self.single_names - {key for feature, key in keys.items() if feature not in self.single_names}

    @torch.no_grad()
    def start(self, batch: Batch) -> Started:
        """Sends a batch's ids on their way, for `forward` to take up; all ranks call both alike, in the same order.

        Nothing that is learned is read, so that it may be done while the batch before is still trained on. Raw ids that
        dynamic tables count and admit get their rows in `forward`: they are sent then.
        """
        if self.dynamic is not None and self.training:
            return Started(batch)
        return self._started(batch)

    def _started(self, batch: Batch) -> Started:
        if self.dynamic is not None:
            batch = self.dynamic.rows(batch, training=self.training)
        learned, detached = batch, None
        if self._passes is not None:
            learned = self._passes.learned(batch)
            if self.assemble_detached.read(batch):
                detached = self._sent(self._passes.detached(batch), self.assemble_detached.parts)
        return Started(batch, self._sent(learned, frozenset(range(len(self.parts)))), detached)

    def _sent(self, batch: Batch, asked: frozenset[int]) -> _Sent:
        """Sends what some of the parts read of a batch."""
        served = frozenset() if self.exchange is None else self.exchange.parts
        exchanged = None if self.exchange is None or served.isdisjoint(asked) else self.exchange.send(batch)
        return _Sent(exchanged, {i: self.collections[i].start(batch) for i in sorted(asked - served)})

    @property
    def counts_live(self) -> bool:
        """Says whether `live` knows what it says of the batches that are trained on."""
        return self.exchange is not None and self.dynamic is None

    def live(self, started: Started) -> tuple[int, float]:
        """Returns how many live rows the global batch has, and their weight. All ranks call it alike."""
        assert self.exchange is not None and started.learned is not None
        return self.exchange.live(started.learned.exchanged)

    def forward(self, batch: Batch | Started) -> dict[str, Tensor | Jagged]:
        """Returns the tower's inputs by name; raw ids of dynamic tables get their rows first."""
        started = batch if isinstance(batch, Started) else Started(batch)
        if started.learned is None:
            with torch.no_grad():
                started = self._started(started.batch)
        assert started.learned is not None
        asked = None
        if started.detached is not None:  # first: a kernel's cache has the rows of its last lookup for backward
            with torch.no_grad():
                asked = self._asked(started.detached)
        outputs = self._asked(started.learned)
        self.guard.watch(outputs)
        found = self.assemble(outputs, started.batch)
        if asked is not None:
            with torch.no_grad():
                found |= self.assemble_detached(asked, started.batch)
        return found

    def _asked(self, sent: _Sent) -> list[Any]:
        """Returns the outputs of the parts, None for those that were sent nothing."""
        outputs = {i: self.parts[i](ids) for i, ids in sent.by_part.items()}  # all are asked before any is waited for
        if sent.exchanged is not None:
            assert self.exchange is not None
            outputs |= self.exchange.look_up(sent.exchanged)
        return [outputs.get(i) for i in range(len(self.parts))]

    def learned_from(self, table: str) -> tuple[str, ...]:
        """Returns the features whose ids change rows of the table of this name."""
        return features_of(detached_inputs(self.inputs, False), table)

    @property
    def collections(self) -> list[Part]:
        """Returns the parts, as what they are."""
        return [part for part in self.parts if isinstance(part, Part)]

    @property
    def id_names(self) -> tuple[str, ...]:
        """Returns the keys of `batch.ids` in the order that spares the collections a permutation."""
        return tuple(f for f in self._wanted() if f not in self.weighted_names)

    @property
    def weighted_id_names(self) -> tuple[str, ...]:
        """Returns the keys of `batch.weighted_ids` in that order."""
        return tuple(f for f in self._wanted() if f in self.weighted_names)

    def _wanted(self) -> list[str]:
        wanted: dict[str, None] = {}
        if not self.parts:  # still to be distributed
            return list(dict.fromkeys(feature for feature, _ in table_reads(self.inputs)))
        if self.exchange is not None:
            wanted |= dict.fromkeys(self.exchange.features)
        for part in self.collections:
            declared = [f for features in part.group.features.values() for f in features]
            order = getattr(part.collection, "feature_order", None)
            wanted |= dict.fromkeys(map(feature_name, order()) if callable(order) else declared)
        keys = stand_ins(self.inputs, self.weighted_names)  # in the order of the keys, so that their ids are a view too
        features = {key: feature for feature, key in keys.items()}
        return [*wanted, *(features[key] for key in wanted if features.get(key, key) not in wanted)]

    def table_parameters(self) -> dict[str, nn.Parameter]:
        """Returns an unsharded lookup's parameters [rows, physical columns] by table name."""
        parameters: dict[str, nn.Parameter] = {}
        for part in self.collections:
            named = dict(part.collection.named_parameters())
            inside = "embeddings" if part.group.kind == "sequences" else "embedding_bags"
            parameters |= {t.name: named[f"{inside}.{module_name(t.name)}.weight"] for t in part.group.tables}
        return parameters

    def unsharded_tables(self) -> dict[str, LiveTable]:
        """Returns an unsharded lookup's tables, each as the one shard that it is, weights only."""
        weights, tables = self.table_parameters(), declared_tables(self.inputs)
        return {n: LiveTable(t, (TableShard(0, 0, {"weight": weights[n].detach()}),)) for n, t in tables.items()}
