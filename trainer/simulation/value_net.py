"""A value net is a run's checkpoint in this process: it tells the value of every candidate of a tick's requests.

What it reads comes as arrays, named as in the schema of the log, and goes the way of any batch: `EmbeddingLookup`, then
the tower. No rows are written to files for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.features.transforms import transformed
from shardrec.models.base import Recommender
from shardrec.models.inputs import DenseFeatures, Input, PooledEmbeddings, SequenceEmbeddings
from shardrec.models.table_reads import with_tables
from shardrec.models.table_settings import TableOptimizer
from shardrec.models.tables import EmbeddingTable
from shardrec.sharding.checkpoints.frozen import read_frozen_tables
from shardrec.sharding.lookup.lookup import EmbeddingLookup
from shardrec.trainer.checkpoints.saved_model import SavedModel
from shardrec.trainer.checkpoints.tower_file import model_tensors, saved_tower
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.session.blueprint import build_model
from shardrec.trainer.simulation.world import Requests

ONLINE = "online."
"""What precedes the names of the parameters that choose, beside those of the target network."""


class ValueNet:
    """A value net holds a checkpoint of a run of `drn`, by default the newest: tables only to be read, and the tower.

    saved: the checkpoint. parameters: the online net's, by the names that the model gives them, to be moved in place.
    """

    def __init__(self, folder: RunFolder, step: int | None = None) -> None:
        self.saved = SavedModel.read(folder.checkpoint(max(folder.steps()) if step is None else step))
        config, schema = folder.config(), folder.schema()
        model = build_model(config, schema).eval()
        with torch.no_grad():
            model.load_state_dict(model_tensors(saved_tower(self.saved.path, self.saved.content)))
        inputs = _scoring_inputs(model.inputs)
        self._threads = config.launch.threads
        self._columns = _Columns(schema, inputs)
        self._lookup = EmbeddingLookup(inputs, self._columns.dense, device="cpu").eval()
        tables = self._lookup.unsharded_tables()
        entries = [entry for entry in self.saved.content["tables"] if entry["table"] in tables]
        read_frozen_tables(self.saved.path, entries, tables)
        self._scorer = _Scorer(model)
        self.parameters = {name: p for name, p in model.named_parameters() if name.startswith(ONLINE)}

    @torch.no_grad()
    def values(self, requests: Requests, *others: Mapping[str, Tensor]) -> list[np.ndarray]:
        """Returns the value of each candidate [R, C] float32, and then those by `others`, parameters like its own."""
        if not len(requests.user):
            return [np.empty(requests.candidates.shape, np.float32)] * (1 + len(others))
        with _threads(self._threads):
            inputs = self._lookup(self._columns.batch(requests, self._lookup.id_names))
            given = tuple(inputs.get(name) for name in ("state", "state_dense", "candidates"))
            found = [self._scorer(*given)]
            for parameters in others:
                renamed = {f"model.{name}": tensor for name, tensor in parameters.items()}
                found.append(torch.func.functional_call(self._scorer, renamed, given))
        return [values.numpy().reshape(requests.candidates.shape) for values in found]


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Computes with so many threads, and with as many as before afterwards; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _scoring_inputs(inputs: Mapping[str, Input]) -> dict[str, Input]:
    """Returns what scoring looks up: the state as it is, and the action's features as sequences, one per candidate.

    So candidates need no features of their own in the schema.
    """
    action, numbers = inputs["action"], inputs["action_dense"]
    assert isinstance(action, PooledEmbeddings) and isinstance(numbers, DenseFeatures)
    state = {name: inputs[name] for name in ("state", "state_dense") if name in inputs}
    candidates = SequenceEmbeddings(action.tables, dense=numbers.features)
    return with_tables({**state, "candidates": candidates}, _only_read)


def _only_read(table: EmbeddingTable) -> EmbeddingTable:
    return replace(table, frozen=True, optimizer=table.optimizer or TableOptimizer())


class _Scorer(nn.Module):
    """A scorer is a module whose forward is `candidate_values`, so that it can be called with other parameters."""

    def __init__(self, model: Recommender) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: object) -> Tensor:
        values: Tensor = cast(Any, self.model).candidate_values(*inputs)  # which models that value actions have
        return values


class _Columns:
    """Columns say where in a tick's requests the features that the inputs read are found.

    dense: the names of the columns of `Batch.dense`.
    """

    def __init__(self, schema: Schema, inputs: Mapping[str, Input]) -> None:
        state, candidates = inputs["state_dense"], inputs["candidates"]
        assert isinstance(state, DenseFeatures) and isinstance(candidates, SequenceEmbeddings)
        self.dense = state.features
        self._schema, self._candidates = schema, candidates

    def batch(self, requests: Requests, id_names: Sequence[str]) -> Batch:
        """Returns one row for each request: its state, and its candidates as a sequence."""
        count, candidates = requests.candidates.shape
        lengths = [np.full(count, candidates if name in self._candidates.tables else 1) for name in id_names]
        ids = [self._column(name, requests) for name in id_names]
        dense = [self._number(name, requests) for name in self.dense]
        return Batch(
            dense=torch.from_numpy(np.stack(dense, 1)) if dense else torch.empty(count, 0),
            ids=KeyedJaggedTensor(
                keys=list(id_names),
                values=torch.from_numpy(np.concatenate(ids).astype(np.int64, copy=False)),
                lengths=torch.from_numpy(np.concatenate(lengths).astype(np.int64, copy=False)),
            ),
            weighted_ids=None,
            labels={},
            weights=torch.ones(count),
            groups=None,
            rows=torch.arange(count),
            dense_sequences={name: torch.from_numpy(self._number(name, requests)) for name in self._candidates.dense},
        )

    def _column(self, name: str, requests: Requests) -> np.ndarray:
        return requests.actions[name].ravel() if name in requests.actions else requests.state[name]

    def _number(self, name: str, requests: Requests) -> np.ndarray:
        """Returns a dense feature after its transforms, as the loader would: float32."""
        values, steps = self._column(name, requests), self._schema[name].transforms
        if steps:
            values = transformed(values.astype(np.float64), steps)
        return values.astype(np.float32, copy=False)
