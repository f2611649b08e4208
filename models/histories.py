"""Models of behaviour share a history of events, the target it is compared with, and an MLP over both.

A history is one or more aligned sequences, and the dense sequences beside them; an event's vector is its ids' vectors
side by side and then its numbers. The target's vector has the ids of the item in question in the same order, from the
same tables, and then its own numbers, 0 where it has none.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import DenseSequenceFeature, IdFeature, SequenceFeature
from shardrec.models.base import PointwiseConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, Input, Jagged, Padded, PooledEmbeddings, SequenceEmbeddings
from shardrec.models.layers.mlp import MLP, MLPConfig
from shardrec.models.tasks import Task

NEGATIVE = "negative_"  # how the name of a sequence of negatives begins


class HistoryConfig(PointwiseConfig):
    """Every model that reads a history has these settings."""

    embedding_dim: int = Field(default=16, gt=0, lt=2**31)
    mlp: MLPConfig = Field(default=MLPConfig(), description="over [interest; target; context; dense]")
    history: tuple[str, ...] | None = Field(
        default=None,
        description="sequences and dense sequences, aligned with each other; None: all but those called negative_...",
    )
    target: dict[str, str] = Field(
        default={},
        description="sequence -> id feature on its table, which else follows from the schema; dense sequence -> dense "
        "feature, else 0",
    )


@dataclass(frozen=True)
class History:
    """A history names each sequence with the target's feature on its table, and what is left for the context.

    numbers: each dense sequence with the target's dense feature; None: the target's number is 0
    """

    pairs: dict[str, str]
    context: tuple[str, ...]
    numbers: dict[str, str | None] = field(default_factory=dict)

    @property
    def sequences(self) -> tuple[str, ...]:
        """Returns the names of the aligned sequences."""
        return tuple(self.pairs)

    @classmethod
    def of(cls, fields: Fields, config: HistoryConfig) -> "History":
        """Reads a history off the schema and the settings.

        Raises UserError where there is no sequence, sequences are not aligned with each other, a setting names what
        there is not, or no id feature, or more than one, looks up a sequence's table.
        """
        sequences = _sequences(fields, config.history)
        beside = _dense_sequences(fields, sequences, config.history)
        for name in config.target:
            if name not in (*sequences, *beside):
                raise UserError("model: target: " + unknown("sequence of the history", name, (*sequences, *beside)))
        pairs = {name: _target(fields, name, config.target.get(name)) for name in sequences}
        for name, target in pairs.items():
            first = next(sequence for sequence in pairs if pairs[sequence] == target)
            if first != name:
                raise UserError(
                    f"model: sequences {first!r} and {name!r} both have the target feature {target!r}; leave one out "
                    "by `history`, or name another feature on its table by `target`"
                )
        numbers = {name: _target_number(fields, config.target.get(name)) for name in beside}
        return cls(pairs, tuple(f for f in fields.pooled if f not in pairs.values()), numbers)

    def inputs(self, fields: Fields, embedding_dim: int) -> dict[str, Input]:
        """Makes the inputs `target`, `history` and `dense`, and `context` where there is any."""

        def tables(names: tuple[str, ...]) -> dict[str, Any]:
            return fields.tables(embedding_dim=embedding_dim, features=names)

        context = {"context": PooledEmbeddings(tables(self.context), concat=True)} if self.context else {}
        return {
            "target": PooledEmbeddings(tables(tuple(self.pairs.values()))),
            "history": SequenceEmbeddings(tables(self.sequences), tuple(self.numbers)),
            "dense": DenseFeatures(fields.dense),
            **context,
        }


def _sequences(fields: Fields, named: tuple[str, ...] | None) -> tuple[str, ...]:
    """Returns the sequences of the history, `named` or all that are no negatives, once they are known to be aligned."""
    known = (*fields.sequences, *fields.dense_sequences)
    for name in named or ():
        if name not in known:
            raise UserError("model: history: " + unknown("sequence feature", name, known))
    wanted = (name for name in known if not name.startswith(NEGATIVE)) if named is None else named
    chosen = tuple(name for name in wanted if name in fields.sequences)
    if named and not chosen:
        raise UserError(
            f"model: history: {named[0]!r} has numbers alone; name the sequence of ids too that it is aligned with"
        )
    if not chosen:
        raise UserError(
            "model: this model reads a history, but the schema (or its subset) has no sequence feature for it (its "
            f"features: {', '.join(f.name for f in fields.now)}); declare one by `kind: sequence`, or use "
            "embedding_mlp"
        )
    first: SequenceFeature = fields.schema[chosen[0]]
    for name in chosen[1:]:
        sequence: SequenceFeature = fields.schema[name]
        if first.aligned is None or sequence.aligned != first.aligned:
            raise UserError(
                f"model: sequences {first.name!r} ({alignment(first)}) and {name!r} ({alignment(sequence)}) make no "
                "one history; name those that do by `history`, or give both the same `aligned` in schema.yaml"
            )
    return chosen


def _dense_sequences(fields: Fields, sequences: tuple[str, ...], named: tuple[str, ...] | None) -> tuple[str, ...]:
    """Returns the dense sequences of the history of these sequences: those that are `named`, or all beside them."""
    first: SequenceFeature = fields.schema[sequences[0]]
    known = fields.dense_sequences
    if named is None:
        beside = (name for name in known if not name.startswith(NEGATIVE))
        return tuple(name for name in beside if fields.schema[name].aligned == first.aligned)
    for name in (chosen := tuple(name for name in named if name in known)):
        numbers: DenseSequenceFeature = fields.schema[name]
        if numbers.aligned != first.aligned:
            raise UserError(
                f"model: history: the numbers of {name!r} ({alignment(numbers)}) do not lie beside the ids of "
                f"{first.name!r} ({alignment(first)}); give both one `aligned` in schema.yaml, or leave one out"
            )
    return chosen


def _target_number(fields: Fields, named: str | None) -> str | None:
    """Returns the dense feature that has the target's number beside events' numbers, where one is named."""
    if named is not None and named not in fields.dense:
        raise UserError("model: target: " + unknown("dense feature", named, fields.dense))
    return named


def alignment(sequence: SequenceFeature | DenseSequenceFeature) -> str:
    """Says what a sequence is aligned with, for error lines."""
    return "not aligned" if sequence.aligned is None else f"aligned: {sequence.aligned}"


def _target(fields: Fields, sequence: str, named: str | None) -> str:
    """Returns the name of the id feature on a sequence's table; of several the one that does not describe the user."""
    table = fields.schema[sequence].table_name
    ids = [f for f in fields.now if isinstance(f, IdFeature)]
    candidates = [f for f in ids if f.table_name == table]
    if named is not None:
        if named not in [f.name for f in ids]:
            raise UserError("model: target: " + unknown("id feature", named, [f.name for f in ids]))
        candidates = [f for f in candidates if f.name == named]
    elif len(candidates) > 1:
        candidates = [f for f in candidates if f.role != "user"] or candidates
    if not candidates:
        missing = "no id feature of the schema does" if named is None else f"its target feature {named!r} does not"
        tables = ", ".join(f"{f.name}: {f.table_name}" for f in ids) or "none"
        raise UserError(
            f"model: sequence {sequence!r} looks up table {table!r}, but {missing} (id features and their tables: "
            f"{tables}); give the target's feature `table: {table}` in schema.yaml, or leave the sequence out by "
            "`history`"
        )
    if len(candidates) > 1:
        names = ", ".join(f.name for f in candidates)
        raise UserError(
            f"model: sequence {sequence!r} looks up table {table!r}, and so do {len(candidates)} id features "
            f"({names}); say which one is the target's: `target: {{{sequence}: {candidates[0].name}}}`"
        )
    return candidates[0].name


class HistoryModel(Recommender):
    """y = MLP([interest; target; context; dense]), the interest as a subclass reads it out of the history.

    A subclass makes `mlp` by `mlp_over`, reads `events` and the `target_event`, and ends its `forward` with `score`; of
    histories that come padded, for export, it gives the `padded_interest`. The MLP sees the target's numbers among the
    dense features.
    """

    mlp: MLP
    target_numbers: Tensor  # of each dense sequence: which dense feature has the target's number; the last + 1: none

    def __init__(
        self,
        fields: Fields,
        config: HistoryConfig,
        *,
        more_inputs: dict[str, Input] | None = None,
        task: Task | None = None,
    ) -> None:
        """Declares `History.inputs` and `more_inputs`; task: None: that of the config."""
        history = History.of(fields, config)
        inputs = history.inputs(fields, config.embedding_dim)
        super().__init__(inputs={**inputs, **(more_inputs or {})}, task=task or config.build_task(fields.schema))
        self.sequences = history.sequences
        target, context = inputs["target"], inputs.get("context")
        assert isinstance(target, PooledEmbeddings)
        self.event_width = target.width + len(history.numbers)
        places = [len(fields.dense) if f is None else fields.dense.index(f) for f in history.numbers.values()]
        self.register_buffer("target_numbers", torch.tensor(places, dtype=torch.int64), persistent=False)
        context_width = context.width if isinstance(context, PooledEmbeddings) else 0
        self._beside_interest = target.width + context_width + len(fields.dense)

    def padded(self, target: Tensor, history: Padded, dense: Tensor, context: Tensor | None = None) -> Any:
        """[B, F, D], [B, L, F, D], [B, N], [B, sum of D] -> [B]."""
        interest = self.padded_interest(self.events(history), self.target_event(target, dense), history.live)
        return self.score(interest, target, dense, context)

    def padded_interest(self, events: Tensor, target: Tensor, live: Tensor) -> Tensor:
        """Returns the interest [B, I] of events [B, L, E], which are `live` [B, L], in a target [B, E]."""
        raise NotImplementedError(f"{type(self).__name__} gives no padded_interest, which its export takes")

    def events(self, history: Jagged | Padded) -> Tensor:
        """Returns [T, E] or [B, L, E]: each event's vectors side by side, then its numbers."""
        vectors = history.values.flatten(-2)
        return vectors if history.dense is None else torch.cat([vectors, history.dense.to(vectors.dtype)], -1)

    def target_event(self, target: Tensor, dense: Tensor) -> Tensor:
        """Returns [B, E]: the target as an event, of its vectors [B, F, D] and the dense features [B, N]."""
        vectors = target.flatten(1)
        if not len(self.target_numbers):
            return vectors
        return torch.cat([vectors, F.pad(dense.to(vectors.dtype), (0, 1)).index_select(1, self.target_numbers)], 1)

    def mlp_over(self, interest_width: int, config: MLPConfig) -> MLP:
        """Makes the MLP over an interest of so many columns and all that `score` puts beside it."""
        return MLP(interest_width + self._beside_interest, config)

    def score(self, interest: Tensor, target: Tensor, dense: Tensor, context: Tensor | None) -> Tensor:
        """Returns MLP([interest; target; context; dense]): [B, I], [B, F, D], [B, N], [B, sum of D] -> [B]."""
        columns = [interest.to(target.dtype), target.flatten(1), *([] if context is None else [context]), dense]
        return self.mlp(torch.cat(columns, 1)).squeeze(1)
