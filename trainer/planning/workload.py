"""The workload of a run is what its step has to do, told by run file and schema alone: no data are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from shardrec.data_pipeline.features.combinations import MOST_COMBINATIONS
from shardrec.data_pipeline.features.feature_kinds import FeatureCross, IdFeature, IdListFeature, SparseFeature
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.base import Recommender
from shardrec.models.inputs import DenseFeatures, Input, Jagged, PooledEmbeddings, SequenceEmbeddings
from shardrec.models.layers.kernels.library import torch_alone
from shardrec.sharding.planning.cost import Workload
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.session.blueprint import needed

LIST_LENGTH = 10.0
"""Ids that a row's list of any length is taken to have, where nobody says more."""

_ROWS = 16  # rows on which the tower's FLOP are counted


@dataclass(frozen=True)
class DescribedWorkload:
    """A described workload comes with what had to be assumed of it, in words."""

    workload: Workload
    assumed: tuple[str, ...]


def workload_of(
    config: RunConfig, schema: Schema, model: Recommender, mean_length: float | None = None
) -> DescribedWorkload:
    """Describes a training step of the run.

    mean_length: ids a row of every list and sequence; None: as many as they may have.
    """
    read = needed(config, schema, model)
    lengths = {f.name: _length(f, mean_length) for f in read.sparse if not isinstance(f, IdFeature)}
    assumed = []
    if lengths:
        listed = "; ".join(f"{name} {length:g}" for name, length in lengths.items())
        assumed.append(f"ids a row: {listed}" + ("" if mean_length else ", as many as they may have (--mean-length)"))
    weighted = frozenset(f.name for f in read.sparse if isinstance(f, IdListFeature) and f.weighted)
    flops, how = tower_flops(model, lengths, weighted)
    workload = Workload(
        model.inputs,
        config.data.global_batch_size,
        {f.name: lengths.get(f.name, 1.0) for f in read.sparse},
        weighted,
        flops,
        sum(p.numel() for p in model.parameters() if p.requires_grad),
    )
    return DescribedWorkload(workload, (*assumed, *how))


def _length(feature: SparseFeature, mean_length: float | None) -> float:
    """Returns how many ids a row of a feature is taken to have; of a cross, the product of those that it is of."""
    if isinstance(feature, IdFeature):
        return 1.0
    if isinstance(feature.ids, FeatureCross):
        made = prod(_length(source, mean_length) for source in feature.ids.features)
        return min(made, float(feature.max_length or MOST_COMBINATIONS))
    most = float(feature.max_length or (mean_length or LIST_LENGTH))
    return most if mean_length is None else min(most, mean_length)


def tower_flops(
    model: Recommender, lengths: Mapping[str, float], weighted: frozenset[str]
) -> tuple[float, tuple[str, ...]]:
    """Counts the FLOP of a sample's forward pass in matrix products, on a few made-up rows; and what to say of it.

    A tower that does not run on them (a user's own may expect other values) counts two for each parameter.
    """
    inputs = {name: _made_up(source, lengths, weighted) for name, source in model.inputs.items()}
    try:
        # the counter fails on views without a gradient, and sees into no kernel of ours
        with torch.enable_grad(), torch_alone(), FlopCounterMode(display=False) as counter:
            model(**inputs)
        return counter.get_total_flops() / _ROWS, ()
    except Exception as error:
        parameters = sum(p.numel() for p in model.parameters())
        return 2.0 * parameters, (f"2 FLOP a parameter and sample, as the tower fails on made-up rows ({error})",)


def _made_up(source: Input, lengths: Mapping[str, float], weighted: frozenset[str]) -> Tensor | Jagged:
    """Makes up what the tower gets of an input, of `_ROWS` rows."""
    if isinstance(source, DenseFeatures):
        return torch.rand(_ROWS, len(source.features))
    dims = [table.embedding_dim for table in source.tables.values()]
    if isinstance(source, PooledEmbeddings):
        return torch.rand(_ROWS, sum(dims)) if source.concat else torch.rand(_ROWS, len(dims), dims[0])
    first = next(iter(source.tables))
    length = max(1, round(lengths.get(first, 1.0)))
    events = _ROWS * length
    weights = torch.ones(events) if first in weighted else None
    numbers = source.dense if isinstance(source, SequenceEmbeddings) else ()
    dense = torch.rand(events, len(numbers)) if numbers else None
    offsets = torch.arange(_ROWS + 1) * length
    return Jagged(torch.rand(events, len(dims), dims[0]), torch.full((_ROWS,), length), offsets, weights, dense)
