"""The lookup turns a batch of ids into a tower's named inputs, and alone knows which collection holds which table.

- Tables that are only pooled live in one EmbeddingBagCollection; those that features with weights read, in another,
  where ids without weights count 1 (a KeyedJaggedTensor carries weights for all its keys or for none).
- A table that any input reads as a sequence lives in an EmbeddingCollection only, one per dim; pooled inputs on it
  are segment sums afterwards. FBGEMM cannot share a table between the two kinds.
- Means are sums divided afterwards by the number of ids, or by the sum of their weights; an empty bag, or one whose
  weights sum to 0, is 0.

On an ordinary device the module is the unsharded reference and trains with autograd; on the meta device it is what
`distribute` shards. Either way its parts take the batch's KeyedJaggedTensors as they come where one part's features
all have weights or all have none.

Detached inputs are looked up first, in a pass without gradient (`detached.py`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchrec.distributed.types import ShardedModule
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.models.inputs import DenseFeatures, Input, Jagged, SequenceEmbeddings
from shardrec.models.table_reads import declared_tables, features_of, table_reads, with_tables
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.dynamic.dynamic_tables import DynamicTables, dynamic_features
from shardrec.sharding.lookup.assemble import Assemble, Route
from shardrec.sharding.lookup.detached import Passes, detached_inputs, learned_features, stand_ins
from shardrec.sharding.lookup.gradient_guard import GradientGuard
from shardrec.sharding.tables.first_values import initialize_tables
from shardrec.sharding.tables.live import LiveTable, TableShard, physical_dim
from shardrec.sharding.tables.module_names import feature_key, feature_name, module_name

Kind = Literal["bags", "weighted_bags", "sequences"]
_DATA_TYPES = {"fp32": DataType.FP32, "fp16": DataType.FP16, "int8": DataType.FP32}  # of vectors


@dataclass(frozen=True)
class Group:
    """A group is the tables that one collection holds, and the features that read each."""

    kind: Kind
    features: Mapping[EmbeddingTable, tuple[str, ...]]

    @property
    def tables(self) -> tuple[EmbeddingTable, ...]:
        """Returns the tables, in the collection's order."""
        return tuple(self.features)

    def key(self, feature: str, table: EmbeddingTable) -> str:
        """Returns TorchRec's key of a feature's vectors: with the table's name where several tables are read by it."""
        key = feature_key(feature)
        return f"{key}@{module_name(table.name)}" if self._readers[feature] > 1 else key

    @cached_property
    def _readers(self) -> Counter[str]:
        """Counts the tables that each feature reads."""
        return Counter(feature for features in self.features.values() for feature in features)

    def only(self, names: set[str]) -> "Group":
        """Returns the group with some of its tables."""
        return Group(self.kind, {t: f for t, f in self.features.items() if t.name in names})

    def collection(self, device: torch.device) -> EmbeddingBagCollection | EmbeddingCollection:
        """Returns TorchRec's unsharded module for the group."""
        common = [
            dict(
                name=module_name(table.name),
                num_embeddings=table.num_embeddings,
                embedding_dim=physical_dim(table),
                feature_names=[feature_key(feature) for feature in features],
                data_type=_DATA_TYPES[table.dtype],
                init_fn=_leave,
            )
            for table, features in self.features.items()
        ]
        with _Undrawn() if device.type == "meta" else nullcontext():
            if self.kind == "sequences":
                return EmbeddingCollection(tables=[EmbeddingConfig(**c) for c in common], device=device)
            bags = [EmbeddingBagConfig(pooling=PoolingType.SUM, **c) for c in common]
            return EmbeddingBagCollection(tables=bags, is_weighted=self.kind == "weighted_bags", device=device)


class _Undrawn(TorchFunctionMode):
    """Tensors are not drawn while this lasts: on the meta device that means nothing and takes 0.3 ms a table."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if func is nn.init.normal_ and not args else func(*args, **kwargs)


def _leave(weight: Tensor) -> None:
    """Does nothing: rows are filled by `first_values.py`."""


def group_tables(inputs: Mapping[str, Input], weighted: frozenset[str]) -> list[Group]:
    """Returns the collections that the inputs' tables live in. Raises UserError for sequences of unequal dims.

    Detached features that stand under another's key are not among them.
    """
    declared_tables(inputs)
    keys = stand_ins(inputs, weighted)
    features: dict[EmbeddingTable, dict[str, None]] = {}
    sequential: set[EmbeddingTable] = set()
    for name, declared in inputs.items():
        if isinstance(declared, DenseFeatures):
            continue
        for feature, table in declared.tables.items():
            features.setdefault(table, {})
            if keys.get(feature, feature) == feature or not getattr(declared, "detached", False):
                features[table][feature] = None
        if isinstance(declared, SequenceEmbeddings):
            sequential |= set(declared.tables.values())
            if len({t.embedding_dim for t in declared.tables.values()}) > 1:
                dims = ", ".join(f"{t.name} {t.embedding_dim}" for t in declared.tables.values())
                raise UserError(f"input {name!r} stacks sequences of unequal embedding_dim ({dims}); make them equal")
    grouped: dict[tuple[Kind, int], dict[EmbeddingTable, tuple[str, ...]]] = {}
    for table, read_by in features.items():
        kind: Kind = "bags" if weighted.isdisjoint(read_by) else "weighted_bags"
        where: tuple[Kind, int] = (kind, 0)
        if table in sequential:
            where = ("sequences", physical_dim(table))
        grouped.setdefault(where, {})[table] = tuple(read_by)
    return [Group(kind, tables) for (kind, _), tables in sorted(grouped.items(), key=lambda item: item[0])]


class Part(nn.Module):
    """A part of a lookup is one collection and the ids that it reads."""

    def __init__(self, group: Group, collection: nn.Module, weighted: frozenset[str]) -> None:
        super().__init__()
        self.group = group
        self.collection = collection
        self._escapes = any(feature_key(f) != f for features in group.features.values() for f in features)
        with_weights = {f in weighted for features in group.features.values() for f in features}
        self._source = "both" if len(with_weights) > 1 else "weighted_ids" if True in with_weights else "ids"

    def start(self, batch: Batch) -> Any:
        """Sends the ids of a batch that the collection reads to the ranks that hold their rows; `forward` takes them.

        They depend on the batch alone. All ranks call it alike.
        """
        ids = self._ids(batch)
        ids = _with_keys(ids) if self._escapes else ids
        if not isinstance(self.collection, ShardedModule):
            return ids
        context = self.collection.create_context()
        return context, self.collection.input_dist(context, ids).wait()  # for splits: the ids themselves are on the way

    def forward(self, started: Any) -> Any:
        """Returns the collection's output for what was started."""
        if not isinstance(self.collection, ShardedModule):
            return self.collection(started)
        context, ids = started
        return self.collection.compute_and_output_dist(context, ids.wait())

    def _ids(self, batch: Batch) -> KeyedJaggedTensor:
        if self._source == "ids":
            return batch.ids
        assert batch.weighted_ids is not None, f"the batch has no weighted ids for {self.group}"
        weights = self.group.kind == "weighted_bags"
        if self._source == "both":
            return _joined(batch.ids, batch.weighted_ids, weights)
        return batch.weighted_ids if weights else _unweighted(batch.weighted_ids)


def _with_keys(ids: KeyedJaggedTensor) -> KeyedJaggedTensor:
    """Returns the same ids by the keys that stand for their features' names inside of TorchRec."""
    return KeyedJaggedTensor(
        keys=[feature_key(feature) for feature in ids.keys()],
        values=ids.values(),
        weights=ids.weights_or_none(),
        lengths=ids.lengths(),
        stride=ids.stride(),
        length_per_key=ids.length_per_key_or_none(),
    )


def _unweighted(ids: KeyedJaggedTensor) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(
        keys=ids.keys(),
        values=ids.values(),
        lengths=ids.lengths(),
        stride=ids.stride(),
        length_per_key=ids.length_per_key_or_none(),
    )


def _joined(ids: KeyedJaggedTensor, weighted: KeyedJaggedTensor, weights: bool) -> KeyedJaggedTensor:
    """Returns all features in one KeyedJaggedTensor; ids without weights weigh 1."""
    ones = weighted.weights().new_ones(ids.values().numel())
    counts = [kjt.length_per_key_or_none() for kjt in (ids, weighted)]
    return KeyedJaggedTensor(
        keys=[*ids.keys(), *weighted.keys()],
        values=torch.cat([ids.values(), weighted.values()]),
        lengths=torch.cat([ids.lengths(), weighted.lengths()]),
        weights=torch.cat([ones, weighted.weights()]) if weights else None,
        stride=ids.stride(),
        length_per_key=None if None in counts else [n for of_one in counts for n in of_one or ()],
    )


@dataclass(eq=False)
class Started:
    """A lookup is started once a batch's ids are on their way to the ranks that hold their rows.

    learned, detached: what the parts started, of the ids that are learned from and of the detached ones; no learned
    ones where starting has to wait, no detached ones where none are read.
    """

    batch: Batch
    learned: list[Any] | None
    detached: list[Any] | None


class EmbeddingLookup(nn.Module):
    """A lookup turns a batch into {input name: [B, F, D], [B, sum of D], [B, N] or `Jagged`}, fp32.

    dense_names: the columns of `batch.dense`. weighted_names: the features that arrive in `batch.weighted_ids`.
    device: `meta` makes the thing to shard; on another the tables are parameters, with first values of `seed`.
    """

    def __init__(
        self,
        inputs: Mapping[str, Input],
        dense_names: Sequence[str],
        *,
        weighted_names: Sequence[str] = (),
        device: torch.device | str = "meta",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.inputs = dict(inputs)
        self.weighted_names = frozenset(weighted_names)
        self.dense_names = tuple(dense_names)
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

    @torch.no_grad()
    def start(self, batch: Batch) -> Started:
        """Sends a batch's ids on their way, for `forward` to take up; all ranks call both alike, in the same order.

        Nothing that is learned is read, so that it may be done while the batch before is still trained on. Raw ids that
        dynamic tables count and admit get their rows in `forward`: they are sent then.
        """
        if self.dynamic is not None and self.training:
            return Started(batch, None, None)
        return self._started(batch)

    def _started(self, batch: Batch) -> Started:
        if self.dynamic is not None:
            batch = self.dynamic.rows(batch, training=self.training)
        learned, detached = batch, None
        if self._passes is not None:
            learned = self._passes.learned(batch)
            if self.assemble_detached.read(batch):
                ids, parts = self._passes.detached(batch), self.assemble_detached.parts
                detached = [part.start(ids) if i in parts else None for i, part in enumerate(self.collections)]
        return Started(batch, [part.start(learned) for part in self.collections], detached)

    def forward(self, batch: Batch | Started) -> dict[str, Tensor | Jagged]:
        """Returns the tower's inputs by name; raw ids of dynamic tables get their rows first."""
        started = batch if isinstance(batch, Started) else Started(batch, None, None)
        if started.learned is None:
            with torch.no_grad():
                started = self._started(started.batch)
        assert started.learned is not None
        asked = None if started.detached is None else self._asked_detached(started.detached)
        asked_learned = zip(self.parts, started.learned, strict=True)
        outputs = [part(ids) for part, ids in asked_learned]  # all are asked before any is waited for
        self.guard.watch(outputs)
        found = self.assemble(outputs, started.batch)
        if asked is not None:
            with torch.no_grad():
                found |= self.assemble_detached(asked, started.batch)
        return found

    @torch.no_grad()
    def _asked_detached(self, started: list[Any]) -> list[Any]:
        """Asks the parts for the detached ids, those parts that have any.

        This comes before the ids that are learned from: a kernel whose rows are cached finds in backward the rows of
        its last lookup.
        """
        parts = self.assemble_detached.parts
        return [part(started[i]) if i in parts else None for i, part in enumerate(self.parts)]

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
