"""A blueprint is a run before its tables exist: its schema, model, plan and footers, each made once.

Inspection makes it and training takes it over. It travels to workers in other processes as its run file and footers;
they make the rest again, the same from the same seed.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.files.sealed_parquet import footer_digest
from shardrec.data_pipeline.loading.loader import Drawn, Loader
from shardrec.data_pipeline.reading.index import DataSet, Index
from shardrec.data_pipeline.reading.labels import missing_labels
from shardrec.data_pipeline.sampling.negatives import Negatives
from shardrec.data_pipeline.sampling.settings import NegativeSampling
from shardrec.data_pipeline.sampling.shared import SharedNegatives
from shardrec.models.base import Recommender
from shardrec.models.fields import Fields
from shardrec.sharding.distribution.frozen_rows import RowKind, frozen_inputs
from shardrec.sharding.planning.plan import Plan
from shardrec.sharding.planning.planner import PlanError, plan_tables
from shardrec.sharding.planning.topology import Topology
from shardrec.trainer.config.model_settings import model_settings
from shardrec.trainer.config.sections import Paths, RunConfig
from shardrec.trainer.launch.agreement import check_together
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.session.expected_workers import expected_environment, run_topology
from shardrec.trainer.session.loaders import loader_for
from shardrec.trainer.session.tower_size import check_tower_size


def build_model(config: RunConfig, schema: Schema) -> Recommender:
    """Builds the model with its tower initialised from the run's seed.

    Raises UserError for unknown models and settings, PlanError for a tower that no memory here holds.
    """
    model_class, settings = model_settings(config)
    check_tower_size(lambda: model_class(Fields(schema, config.tables), settings), config.optimizer.tower)
    fields = Fields(schema, config.tables)
    with torch.random.fork_rng(devices=[]):  # whoever asks has draws of their own
        torch.manual_seed(config.trainer.seed)
        model = model_class(fields, settings)
    fields.check_all_settings_used(model.tables)
    return model


def needed(config: RunConfig, schema: Schema, model: Recommender) -> Schema:
    """Returns what of the schema a run reads: the model's features, and what its negatives are drawn from."""
    sampling = config.data.negatives
    features = (*model.features, *model.item_of.values())
    return sampling.read_from(schema, features) if sampling else schema.subset(features)


class Blueprint:
    """A blueprint holds what a run file stands for, made on first use and kept.

    schema: of the features that the run may use; None reads it from where the run file says.
    rows: how tables are held that are only read; None: as they are trained, with their optimizer state.
    """

    def __init__(self, config: RunConfig, schema: Schema | None = None, *, rows: RowKind | None = None) -> None:
        self.config = config
        self.rows = rows
        self._schema = schema
        self._footers: dict[Paths, Index] = {}
        self._unlabelled: dict[Paths, str | None] = {}
        self._plan: Plan | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the model and the plan behind: another process has its own device and memory."""
        return {**{k: v for k, v in vars(self).items() if k.startswith("_") or k in ("config", "rows")}, "_plan": None}

    @cached_property
    def schema(self) -> Schema:
        """Returns the features that the run may use. Raises UserError as `RunConfig.load_schema` does."""
        return self.config.load_schema() if self._schema is None else self._schema

    @cached_property
    def model(self) -> Recommender:
        """Returns the model, its tower initialised from the seed. Raises UserError for unknown models and settings."""
        model = build_model(self.config, self.schema)
        if self.rows is not None:
            model.inputs = frozen_inputs(model.inputs)
        return model

    @cached_property
    def read(self) -> Schema:
        """Returns what of the schema is read: the model's features, and what its negatives are drawn from."""
        return needed(self.config, self.schema, self.model)

    def data_set(self, paths: Paths) -> DataSet:
        """Returns some files' rows; footers are read once. Raises UserError for files that are missing or differ."""
        if paths not in self._footers:
            self._footers[paths] = DataSet.open(paths).index
        return DataSet.from_index(self._footers[paths])

    def forget_files(self) -> None:
        """Forgets what is known of files, which may have changed; for who keeps a blueprint longer than one command."""
        self._footers.clear()
        self._unlabelled.clear()

    def share_footers(self, paths: Paths, environment: Environment) -> Index:
        """Gives all workers the leading one's view of some files, and returns it. All workers call it alike.

        Raises UserError, on all workers, where one of them cannot read the files, or sees others.
        """
        index, problem = None, None
        if environment.leads:
            try:
                index = self.data_set(paths).index
            except UserError as error:
                problem = str(error)
        index, problem = environment.broadcast((index, problem))
        if index is None:
            raise UserError(problem)
        check_together(environment, lambda: self._see(paths, index))
        return self._footers[paths]

    def _see(self, paths: Paths, index: Index) -> None:
        """Takes over an index, unless this worker has made one. Raises UserError where it sees other files."""
        if paths not in self._footers:
            index.check_files()
        mine = self._footers.setdefault(paths, index)
        if mine.fingerprint != index.fingerprint:
            raise UserError(
                f"{mine.files[0].path}: this and the files beside it are not those of rank 0 (names, sizes or footers "
                "differ); give all workers the same files"
            )

    def take_up_files(self, paths: Paths, environment: Environment, saved: object) -> bool:
        """Takes files in the order in which a checkpoint's fingerprint has them; tells whether it is another one.

        The order is that of plain strings, where the fingerprint is of that one. Files that came or went since they
        were first looked at are not taken: what was made for the run knows the first. All workers call it alike.
        """
        index = self.share_footers(paths, environment)
        if index.fingerprint.matches(saved):
            return False
        by_name = environment.broadcast(DataSet.open(paths, by_number=False).index if environment.leads else None)
        if not (by_name.fingerprint.matches(saved) and by_name.is_of_the_files_of(index)):
            return False
        self._footers[paths] = by_name
        return True

    def read_by_name(self, paths: Paths, environment: Environment) -> None:
        """Takes files in the order of their names as plain strings. All workers call it alike."""
        index = environment.broadcast(DataSet.open(paths, by_number=False).index if environment.leads else None)
        self._footers[paths] = index

    def check_schema(self, environment: Environment) -> None:
        """Raises UserError, on all workers, where one of them reads another schema or other vocabularies."""
        if environment.world_size == 1:
            return
        folder = self.config.data.schema_folder
        mine: dict[str, Any] = {"the schema": self.schema.model_dump(mode="json")}
        mine |= {path: footer_digest(f"{folder.rstrip('/')}/{path}") for path in self.schema.vocabularies}
        first = environment.broadcast(mine)

        def check() -> None:
            for name, content in mine.items():
                if content != first.get(name):
                    raise UserError(f"{name} under {folder} is another than on rank 0; give all workers the same data")

        check_together(environment, check)

    def missing_labels(self, paths: Paths, environment: Environment | None = None) -> str | None:
        """Says in a line why some files cannot be learned from or measured: a label has no values. None where all do.

        All workers that have met call it alike; the leading one looks, once. Raises UserError as `data_set` does.
        """
        if (environment is None or environment.leads) and paths not in self._unlabelled:
            self._unlabelled[paths] = missing_labels(self.data_set(paths), self.read)
        return self._unlabelled[paths] if environment is None else environment.broadcast(self._unlabelled.get(paths))

    def plan(self, environment: Environment | None = None) -> Plan:
        """Places the model's tables on the run's workers. Raises PlanError where they do not fit.

        Several workers that have met agree on the least memory that any of them has; before, and for one, the plan is
        made once.
        """
        if self._plan is None or (dist.is_initialized() and dist.get_world_size() > 1):
            topology = run_topology(self.config, environment)
            if self.config.launch.is_elastic:
                self._check_fewest(topology)
            self._plan = plan_tables(self.model.inputs, self.config.optimizer.tables, topology)
        return self._plan

    def _check_fewest(self, topology: Topology) -> None:
        """Raises PlanError where tables would not fit the fewest workers that the run may go on with."""
        fewest = self.config.launch.fewest_workers or 1
        local = min(topology.local_world_size, fewest)
        fewer = replace(topology, world_size=min(topology.world_size, fewest), local_world_size=local)
        try:
            plan_tables(self.model.inputs, self.config.optimizer.tables, fewer)
        except PlanError as error:
            raise PlanError(f"with {fewest} worker(s), the fewest of launch.workers: {error}") from None

    def loader(
        self,
        paths: Paths,
        environment: Environment | None = None,
        *,
        training: bool = False,
        labelled: bool = True,
        keys: Sequence[str] = (),
        id_order: Sequence[str] | None = None,
        negatives: Drawn | NegativeSampling | None = None,
        absent: Sequence[str] = (),
        raw: bool = False,
        skips_bad: bool = False,
    ) -> Loader:
        """Makes batches of some files, by default as the first of the expected workers does. See `loader_for`.

        absent: features that are not read beside those that the model does not read outside of training.
        raw: rows are as they were before preparation.
        """
        if id_order is None:
            features = set(self.model.features)
            id_order = [feature.name for feature in self.read.sparse if feature.name in features]
        return loader_for(
            self.config,
            self.read.raw() if raw else self.read,
            self.data_set(paths),
            environment or expected_environment(self.config.launch),
            training=training,
            labelled=labelled,
            keys=keys,
            absent=(*self.model.unread_features(labelled=labelled), *absent),
            id_order=id_order,
            negatives=self.config.data.negatives if negatives is None else negatives,
            item_of=self.model.item_of,
            skips_bad=skips_bad,
        )

    def negatives(self) -> Drawn | None:
        """Reads what negatives are drawn from, out of all training rows; None where none are drawn."""
        data, train = self.config.data, self.config.data.split("train")
        if data.negatives is None or train is None:
            return None
        kind = SharedNegatives if data.negatives.of_the_batch else Negatives
        skips_bad = data.max_bad_fraction > 0
        return kind.read(data.negatives, self.data_set(train), self.read, data.schema_folder, skips_bad=skips_bad)
