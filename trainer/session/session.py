"""What training, evaluation and prediction share, built from a run file: data, model and distributed tables."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from pydantic import ValidationError

from shardrec import models
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import IdListFeature, Schema
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.data_pipeline.reading.parquet import DataSet
from shardrec.data_pipeline.sampling.negatives import Negatives
from shardrec.models.base import Recommender
from shardrec.models.fields import Fields
from shardrec.sharding.distribution.distribute import Distributed, distribute
from shardrec.sharding.distribution.frozen_rows import RowKind, frozen_inputs
from shardrec.sharding.lookup.lookup import EmbeddingLookup
from shardrec.sharding.planning.planner import Plan, plan_tables
from shardrec.sharding.planning.topology import Topology
from shardrec.trainer.config.import_path import append_to_path
from shardrec.trainer.config.load import explain
from shardrec.trainer.config.sections import Paths, RunConfig
from shardrec.trainer.launch.backends import choose_backend
from shardrec.trainer.launch.environment import Environment, default_workers, resolve_device
from shardrec.trainer.session.forward import ForwardStep
from shardrec.trainer.session.tower import Tower


def build_model(config: RunConfig, schema: Schema) -> Recommender:
    """The model with its tower initialised from the run's seed. Raises UserError for unknown models and settings."""
    append_to_path(config.import_from)
    model_class: Any = models.resolve(config.model["name"])
    config_class = models.config_class(model_class)
    try:
        settings = config_class.model_validate({k: v for k, v in config.model.items() if k != "name"})
    except ValidationError as error:
        raise UserError(f"model {config.model['name']}: {explain(error, config_class)}") from None
    fields = Fields(schema, config.tables)
    torch.manual_seed(config.trainer.seed)
    model = model_class(fields, settings)
    fields.check_all_settings_used(model.tables)
    return model


def needed(config: RunConfig, schema: Schema, model: Recommender) -> Schema:
    """What of the schema a run reads: the model's features, and what its negatives are drawn from."""
    sampling = config.data.negatives
    return sampling.read_from(schema, model.features) if sampling else schema.subset(model.features)


def run_topology(config: RunConfig, environment: Environment | None = None) -> Topology:
    """This run's workers, with the memory and the rates that the run file says or that are found here."""
    if environment is None and choose_backend(config.launch) == "torchrun":
        environment = Environment.from_variables(config.launch.device)
    elif environment is None:
        device = resolve_device(config.launch.device)
        world_size = config.launch.workers or default_workers(device)
        environment = Environment(0, world_size, 0, world_size, device)
    local = environment.local_world_size
    topology = Topology.here(environment.world_size, local, "cuda" if environment.device.type == "cuda" else "cpu")
    if config.launch.memory is not None:
        topology = replace(topology, memory_per_rank=config.launch.memory // local)
    if topology.host_memory is not None:
        topology = replace(topology, host_memory=max(0, topology.host_memory - local * config.data.memory))
    topology = replace(topology, **config.launch.rates.model_dump(exclude_none=True))
    return topology.agreed() if dist.is_initialized() else topology


def plan_run(config: RunConfig, model: Recommender, environment: Environment | None = None) -> Plan:
    """Places the model's tables on this run's workers. Raises PlanError where they do not fit."""
    return plan_tables(model.inputs, config.optimizer.tables, run_topology(config, environment))


@dataclass
class Session:
    config: RunConfig
    schema: Schema
    environment: Environment
    model: Recommender
    plan: Plan
    distributed: Distributed
    tower: Tower

    @classmethod
    def build(
        cls, config: RunConfig, schema: Schema, environment: Environment, *, rows: RowKind | None = None
    ) -> "Session":
        """`rows`: how tables are held that are only read; None: as they are trained, with their optimizer state."""
        model = build_model(config, schema)
        if rows is not None:
            model.inputs = frozen_inputs(model.inputs)
        schema = needed(config, schema, model)
        plan = plan_run(config, model, environment)
        dense_names = tuple(f.name for f in schema.dense)
        weighted = tuple(f.name for f in schema.sparse if isinstance(f, IdListFeature) and f.weights)
        lookup = EmbeddingLookup(model.inputs, dense_names, weighted_names=weighted, device=torch.device("meta"))
        distributed = distribute(
            ForwardStep(lookup, model, config.trainer.precision),
            plan,
            optimizer=config.optimizer.tables,
            seed=config.trainer.seed,
            device=environment.device,
        )
        tower = Tower(distributed.tower_parameters(), config.optimizer.tower)
        return cls(config, schema, environment, model, plan, distributed, tower)

    @property
    def parameters(self) -> dict[str, int]:
        """Weights of the model: its tables' (rows x dim, without padding) and its tower's, each counted once."""
        tables = sum(table.num_embeddings * table.embedding_dim for table in self.model.tables.values())
        return {"tables": tables, "tower": sum(p.numel() for p in self.tower.parameters.values())}

    def loader(
        self, paths: Paths, *, training: bool = False, labelled: bool = True, keys: Sequence[str] = ()
    ) -> Loader:
        """Batches of some files: in the run's order for training, else in file order, without what only training reads.

        What is left out has keys, but no ids, so that lookups and exchanges are as in training.
        """
        data, environment = self.config.data, self.environment
        index = environment.broadcast(DataSet.open(paths).index if environment.leads else None)
        negatives = None
        if training and data.negatives:
            negatives = environment.broadcast(self._negatives(DataSet.from_index(index)) if environment.leads else None)
        batch_size = data.global_batch_size if training else data.evaluation_batch_size or data.global_batch_size
        lookup = self.distributed.lookup
        return Loader(
            DataSet.from_index(index),
            self.schema if labelled else self.schema.unlabelled(),
            folder=data.schema_folder,
            global_batch_size=batch_size,
            seed=self.config.trainer.seed,
            lanes=data.lanes if training else None,
            window=data.window,
            memory=data.memory,
            order=data.order if training else "file",
            rank=environment.rank,
            world_size=environment.world_size,
            prefetch=data.prefetch,
            class_weights=data.class_weights if training else None,
            extra_columns=tuple(keys),
            absent=() if training else self.model.training_features,
            id_order=lookup.id_names + lookup.weighted_id_names,
            negatives=negatives,
        )

    def _negatives(self, train: DataSet) -> Negatives:
        """What negatives are drawn from; reads the users and items of all training rows."""
        data = self.config.data
        assert data.negatives is not None
        return Negatives.read(data.negatives, train, self.schema, data.schema_folder)
