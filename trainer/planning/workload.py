"""What a run's step has to do, from its run file and schema alone: no data are read."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from shardrec.data_pipeline.features.schema import IdFeature, IdListFeature, Schema
from shardrec.models.base import Recommender
from shardrec.models.inputs import DenseFeatures, Input, Jagged, PooledEmbeddings
from shardrec.sharding.planning.cost import Workload
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.session.blueprint import needed

LIST_LENGTH = 10.0
"""Ids a row of a list of any length, where nobody says more."""

_ROWS = 16  # on which the tower's FLOP are counted


@dataclass(frozen=True)
class DescribedWorkload:
    """The workload, and what had to be assumed of it, in words."""

    workload: Workload
    assumed: tuple[str, ...]


def workload_of(
    config: RunConfig, schema: Schema, model: Recommender, mean_length: float | None = None
) -> DescribedWorkload:
    """A training step of the run. mean_length: ids a row of every list and sequence; None: as many as they may have."""
    read = needed(config, schema, model)
    lengths: dict[str, float] = {}
    for feature in read.sparse:
        if isinstance(feature, IdFeature):
            continue
        most = float(feature.max_length or (mean_length or LIST_LENGTH))
        lengths[feature.name] = most if mean_length is None else min(most, mean_length)
    assumed = []
    if lengths:
        said = "; ".join(f"{name} {length:g}" for name, length in lengths.items())
        assumed.append(f"ids a row: {said}" + ("" if mean_length else ", as many as they may have (--mean-length)"))
    weighted = frozenset(f.name for f in read.sparse if isinstance(f, IdListFeature) and f.weights)
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


def tower_flops(
    model: Recommender, lengths: Mapping[str, float], weighted: frozenset[str]
) -> tuple[float, tuple[str, ...]]:
    """FLOP of a sample's forward pass in matrix products, counted on a few made-up rows; and what to say of it.

    A tower that does not run on them (a user's own may expect other values) counts two for each parameter.
    """
    inputs = {name: _made_up(given, lengths, weighted) for name, given in model.inputs.items()}
    try:
        with torch.enable_grad(), FlopCounterMode(display=False) as counter:  # it fails on views without a gradient
            model(**inputs)
        return counter.get_total_flops() / _ROWS, ()
    except Exception as error:
        parameters = sum(p.numel() for p in model.parameters())
        return 2.0 * parameters, (f"2 FLOP a parameter and sample, as the tower fails on made-up rows ({error})",)


def _made_up(given: Input, lengths: Mapping[str, float], weighted: frozenset[str]) -> Tensor | Jagged:
    """An input of `_ROWS` rows."""
    if isinstance(given, DenseFeatures):
        return torch.rand(_ROWS, len(given.features))
    dims = [table.embedding_dim for table in given.tables.values()]
    if isinstance(given, PooledEmbeddings):
        return torch.rand(_ROWS, sum(dims)) if given.concat else torch.rand(_ROWS, len(dims), dims[0])
    first = next(iter(given.tables))
    length = max(1, round(lengths.get(first, 1.0)))
    weights = torch.ones(_ROWS * length) if first in weighted else None
    offsets = torch.arange(_ROWS + 1) * length
    return Jagged(torch.rand(_ROWS * length, len(dims), dims[0]), torch.full((_ROWS,), length), offsets, weights)
