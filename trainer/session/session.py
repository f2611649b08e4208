"""A session is a model with its tables, ready to step: what training, evaluation and prediction share."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch

from shardrec.data_pipeline.features.feature_kinds import IdFeature, IdListFeature
from shardrec.data_pipeline.loading.loader import Drawn, Loader
from shardrec.models.base import Recommender
from shardrec.sharding.distribution.distribute import Distributed, distribute
from shardrec.sharding.lookup.lookup import EmbeddingLookup
from shardrec.sharding.planning.plan import Plan
from shardrec.trainer.config.sections import Paths, RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.forward import ForwardStep
from shardrec.trainer.session.precision import settled
from shardrec.trainer.session.tower import Tower


@dataclass
class Session:
    """A session is one worker's share of a run: its part of the tables, its replica of the tower, their batches."""

    blueprint: Blueprint
    environment: Environment
    plan: Plan
    distributed: Distributed
    tower: Tower
    _drawn: Drawn | None = field(default=None, init=False, repr=False)

    @classmethod
    def build(cls, blueprint: Blueprint, environment: Environment) -> "Session":
        """Makes tables and tower with the first values of the run's seed. All workers call it alike.

        A precision that is still `auto` is settled here.
        """
        blueprint.config = settled(blueprint.config, environment)
        blueprint.check_schema(environment)
        config, model, read = blueprint.config, blueprint.model, blueprint.read
        plan = blueprint.plan(environment)
        dense_names = tuple(f.name for f in read.dense)
        weighted = tuple(f.name for f in read.sparse if isinstance(f, IdListFeature) and f.weighted)
        single = tuple(f.name for f in read.sparse if isinstance(f, IdFeature))
        lookup = EmbeddingLookup(model.inputs, dense_names, weighted_names=weighted, single_names=single)
        forward = ForwardStep(lookup, model, config.trainer.precision)
        distributed = distribute(
            forward,
            plan,
            optimizer=config.optimizer.tables,
            seed=config.trainer.seed,
            device=environment.device,
        )
        tower = Tower(distributed.tower_parameters(), config.optimizer.tower)
        return cls(blueprint, environment, plan, distributed, tower)

    @property
    def config(self) -> RunConfig:
        """Returns the run's configuration."""
        return self.blueprint.config

    @property
    def model(self) -> Recommender:
        """Returns the model, whose tower is trained in place."""
        return self.blueprint.model

    @property
    def forward(self) -> ForwardStep:
        """Returns the step without replicas around it, for models that explain themselves."""
        forward = self.distributed.step_module
        assert isinstance(forward, ForwardStep)
        return forward

    def moving(self) -> AbstractContextManager[None]:
        """Has workers wait for one another for as long as tables take to be read or written; all call it alike."""
        shards = (shard for live in self.distributed.tables.values() for shard in live.shards)
        return self.environment.moving(sum(tensor.nbytes for shard in shards for tensor in shard.tensors.values()))

    @property
    def parameters(self) -> dict[str, int]:
        """Counts the model's weights: its tables' (rows x dim, without padding) and its tower's, each once."""
        tables = sum(table.num_embeddings * table.embedding_dim for table in self.model.tables.values())
        return {"tables": tables, "tower": sum(p.numel() for p in self.tower.parameters.values())}

    def tower_tensors(self) -> dict[str, torch.Tensor]:
        """Returns the tower's live parameters, buffers and optimizer state, by plan-independent names."""
        named: dict[str, torch.Tensor] = {f"tower/{k}": p.detach() for k, p in self.tower.parameters.items()}
        named |= {f"tower_buffer/{k}": b for k, b in self.distributed.tower_buffers().items()}
        for name, state in self.tower.state().items():
            named |= {f"tower_optimizer/{name}/{key}": tensor for key, tensor in state.items()}
        return named

    def stopped_gradients(self) -> torch.Tensor:
        """Returns [parts of the lookup + 1] float64 on the device, not 0 where a gradient was kept from an update.

        They are this rank's: of the tables that `distributed.lookup.guard.tables` names, and of the tower.
        """
        device = self.environment.device
        return torch.cat([self.distributed.lookup.guard.stopped(device), self.tower.stopped(device)]).double()

    def forget_stopped_gradients(self) -> None:
        """Starts anew to note which gradients are kept from an update, once what they came of is restored."""
        for stopped in (self.distributed.lookup.guard.stopped, self.tower.stopped):
            stopped(self.environment.device).zero_()

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """Sets evaluation mode, without gradients, and what was set before afterwards."""
        module = self.distributed.module
        was_training = module.training
        module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            module.train(was_training)

    def loader(
        self,
        paths: Paths,
        *,
        training: bool = False,
        labelled: bool = True,
        keys: Sequence[str] = (),
        absent: Sequence[str] = (),
        told_apart: bool = False,
        raw: bool = False,
        skips_bad: bool = False,
    ) -> Loader:
        """Makes this worker's batches of some files, as `loader_for` does. All workers call it alike.

        absent: further features that are not read; files need not have their columns.
        told_apart: with what a task that learns to retrieve takes a loss against.
        raw: rows are as they were before preparation.
        skips_bad: as in `loader_for`.
        The leading worker's footers, and what it read to draw negatives from, are everyone's.
        """
        environment, blueprint, lookup = self.environment, self.blueprint, self.distributed.lookup
        blueprint.share_footers(paths, environment)
        settings = self.config.data.negatives
        drawn = settings is not None and (training or (told_apart and settings.of_the_batch))
        if drawn and self._drawn is None:
            (self._drawn,) = environment.broadcast((blueprint.negatives() if environment.leads else None,))
        return blueprint.loader(
            paths,
            environment,
            training=training,
            labelled=labelled,
            keys=keys,
            id_order=lookup.id_names + lookup.weighted_id_names,
            negatives=self._drawn if drawn else None,
            absent=absent,
            raw=raw,
            skips_bad=skips_bad,
        )
