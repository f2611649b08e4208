"""Arguments are a program's inputs as plain tensors: what the loader gathers of tables and rows, in a fixed order.

A model's input may come in two groups of features, of the request's two sides, which are put in order again inside.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from shardrec.data_pipeline.features.feature_kinds import IdListFeature
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.inputs import DenseFeatures, Input, Padded, PooledEmbeddings, SequenceEmbeddings

Kind = Literal["pooled", "sequence", "dense", "shared"]


@dataclass(frozen=True)
class ProgramInput:
    """A program input says which features go into it, in order, and in which form.

    pooled: [B, F, D], or with `concat` [B, sum of D]; dense: [B, N]; sequence: values [B, L, F, D], lengths [B], then
    weights [B, L] where `weighted` and numbers [B, L, N] where `dense` names dense sequences. L is at least 1 and at
    most `max_length` (None: any), B at least 1; what stands behind a row's length is not read.
    shared: an output of the program `shared` as it is, whose batch has one row.
    """

    name: str
    kind: Kind
    features: tuple[str, ...] = ()
    concat: bool = False
    max_length: int | None = None
    dense: tuple[str, ...] = ()
    weighted: bool = False

    @property
    def tensors(self) -> tuple[str, ...]:
        """Returns the names of the tensors that it consists of, in the order of the program's arguments."""
        if self.kind != "sequence":
            return (self.name,)
        parts = ["values", "lengths"] + ["weights"] * self.weighted + ["dense"] * bool(self.dense)
        return tuple(f"{self.name}.{part}" for part in parts)


@dataclass(frozen=True)
class Group:
    """A group is one side's part of a model's input: how its tensors look, and which columns of the input they are."""

    given: ProgramInput
    source: Input
    places: tuple[int, ...]  # of its features among the input's
    varies: bool  # between the candidates of one request

    def example(self, rows: int, length: int) -> list[Tensor]:
        """Makes tensors of the right shapes: zeros, and histories without events."""
        if isinstance(self.source, DenseFeatures):
            return [torch.zeros(rows, len(self.given.features))]
        dims = [self.source.tables[feature].embedding_dim for feature in self.given.features]
        if isinstance(self.source, PooledEmbeddings):
            return [torch.zeros(rows, sum(dims)) if self.source.concat else torch.zeros(rows, len(dims), dims[0])]
        tensors = [torch.zeros(rows, length, len(dims), dims[0]), torch.zeros(rows, dtype=torch.int64)]
        tensors += [torch.zeros(rows, length)] * self.given.weighted
        return tensors + [torch.zeros(rows, length, len(self.given.dense))] * bool(self.given.dense)

    @property
    def widths(self) -> list[int]:
        """Returns how many entries of the tensor's second dimension each feature has."""
        if isinstance(self.source, PooledEmbeddings) and self.source.concat:
            return [self.source.tables[feature].embedding_dim for feature in self.given.features]
        return [1] * len(self.given.features)


def groups(
    inputs: Mapping[str, Input], schema: Schema, varies: Callable[[str], bool] | None = None
) -> dict[str, list[Group]]:
    """Returns the groups of each of a model's inputs: one, or with `varies` one for each side that it has features of.

    A sequence is not divided: it varies where any of its features does. No features at all do not vary.
    """
    found: dict[str, list[Group]] = {}
    for name, source in inputs.items():
        features = source.features if isinstance(source, DenseFeatures) else tuple(source.tables)
        sides = [bool(varies and varies(feature)) for feature in features]
        if isinstance(source, SequenceEmbeddings):
            sides = [any(sides)] * len(sides)
        found[name] = []
        for side in sorted(set(sides)) or [False]:
            places = tuple(i for i, varying in enumerate(sides) if varying == side)
            given = _program_input(name, source, schema, tuple(features[i] for i in places))
            found[name].append(Group(given, source, places, side))
    return found


def _program_input(name: str, source: Input, schema: Schema, features: tuple[str, ...]) -> ProgramInput:
    if isinstance(source, DenseFeatures):
        return ProgramInput(name, "dense", features)
    if isinstance(source, PooledEmbeddings):
        return ProgramInput(name, "pooled", features, concat=source.concat)
    first = schema[features[0]]
    weighted = isinstance(first, IdListFeature) and first.weighted and first.weights_are == "values"
    return ProgramInput(name, "sequence", features, max_length=first.max_length, dense=source.dense, weighted=weighted)


def assembled(parts: Sequence[Group], tensors: Iterator[Tensor]) -> Tensor | Padded:
    """Takes the groups' tensors and returns the model's input, its features in the model's order."""
    if parts[0].given.kind == "sequence":
        named = {name.rpartition(".")[2]: next(tensors) for name in parts[0].given.tensors}
        return Padded(**named)
    whole = [next(tensors) for _ in parts]
    if len(parts) == 1:
        return whole[0]
    pieces: dict[int, Tensor] = {}
    order = sorted((place, side, i) for side, part in enumerate(parts) for i, place in enumerate(part.places))
    for side, run in groupby(order, key=lambda entry: entry[1]):
        entries = list(run)
        widths, first = parts[side].widths, entries[0][2]
        start, size = sum(widths[:first]), sum(widths[first : first + len(entries)])
        pieces[entries[0][0]] = whole[side].narrow(1, start, size)
    return torch.cat(list(pieces.values()), 1)
