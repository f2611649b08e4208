"""Training: build, restore, then one step after another until the epochs are over or nothing improves any more."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.models.metrics import MetricSet
from shardrec.sharding.tables.collective import ProcessGroupCollective
from shardrec.sharding.updates.context import UpdateContext
from shardrec.trainer.checkpoints import checkpoint
from shardrec.trainer.checkpoints.checkpoint import Position
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.atomic import write_atomically
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.reporting import Reporter, write_summary
from shardrec.trainer.session.forward import loss_values, objective, stack_terms
from shardrec.trainer.session.session import Session
from shardrec.trainer.session.tower import learning_rate_factor
from shardrec.trainer.training.clock import Clock
from shardrec.trainer.training.evaluation import evaluate
from shardrec.trainer.training.hooks import Checkpoints, Evaluation, Hook, Logging, ProgressiveValidation
from shardrec.trainer.training.warm_start import start_from

NAMED_ROWS = 5  # rows that an error line names


def train_worker(config: RunConfig, folder: RunFolder, environment: Environment) -> dict[str, Any]:
    """`shardrec train` on one worker: trains from the newest complete checkpoint of the folder, or from the start."""
    trainer = Trainer(config, folder, environment)
    trainer.restore()
    trainer.fit()
    return trainer.finish()


class Trainer:
    def __init__(self, config: RunConfig, folder: RunFolder, environment: Environment) -> None:
        self.config, self.folder, self.environment = config, folder, environment
        self.reporter = Reporter(folder, leads=environment.leads, tensorboard=config.trainer.tensorboard)
        self.reporter.progress.phase("building tables")
        schema = config.load_schema()
        self.session = Session.build(config, schema, environment)
        if environment.leads:
            write_atomically(folder.path / "plan.txt", self.session.plan.report() + "\n")
        train = config.data.split("train")
        assert train is not None
        self.loader = self.session.loader(train, training=True)
        self.validation = self._split("validation")
        self.test = self._split("test") if config.trainer.evaluation.test else None
        self.position = Position()
        self.clock = Clock()
        self.wants_checkpoint = False
        self.last_loss, self.last_factor = math.nan, 1.0
        self._progressive: MetricSet | None = None
        self._first_step = 0
        torch.manual_seed(checkpoint.generator_seed(config.trainer.seed, 0, environment.rank))

    @property
    def hooks(self) -> list[Hook]:
        every = self.config.trainer.log_every_steps
        progressive = [ProgressiveValidation(every)] if self.config.trainer.progressive_validation else []
        return [Logging(every), Evaluation(), *progressive, Checkpoints()]

    @property
    def total_steps(self) -> int:
        settings = self.config.trainer
        steps = settings.epochs * self.loader.steps_per_epoch
        return min(steps, settings.max_steps) if settings.max_steps else steps

    @property
    def is_finished(self) -> bool:
        return self.position.step >= self.total_steps or self.position.stopped

    @property
    def best_metric(self) -> str:
        return self.config.trainer.selection_metric or next(iter(self.session.model.task.metrics().directions))

    # ------------------------------------------------------------ the run

    def restore(self) -> None:
        """Takes up the newest complete checkpoint; else starts from what `init_from` names, or fresh."""
        environment, seed = self.environment, self.config.trainer.seed
        steps = environment.broadcast(self.folder.steps() if environment.leads else None)
        session = self.session
        if steps:
            at = self.folder.checkpoint(steps[-1])
            order = checkpoint.read_manifest(at)["order"]
            self.loader.check_state(order)
            self.position = checkpoint.restore(at, environment, session.distributed, session.tower, seed=seed)
            self._take_up()
        elif self.config.init_from:
            start_from(self.config.init_from, session, environment)
        if not steps:
            self._count_samples()
        self._first_step = self.position.step
        self.reporter.start(self.position.step)
        facts = {"resumed": bool(steps), "world_size": environment.world_size}
        self.reporter.record("start", self.position.step, facts)

    def _count_samples(self) -> None:
        """Counts, over the rows of the first epoch, what tables with `decay: frequency` divide by."""
        if self.session.distributed.counted_tables:
            counted = self.reporter.progress.counter("counting samples", self.loader.steps_per_epoch)
            self.session.distributed.count_samples(self._first_epoch(counted))

    def _first_epoch(self, on_batch: Callable[[int], None]) -> Iterator[Batch]:
        for step, batch in enumerate(self.loader.epoch(0), start=1):
            yield batch.to(self.environment.device)
            on_batch(step)

    def _take_up(self) -> None:
        """Puts a restored position in line with what is on disk and with today's settings."""
        position, stopping = self.position, self.config.trainer.early_stopping
        if position.best and position.best["step"] not in self.environment.broadcast(self.folder.steps()):
            position.best, position.stale = None, 0
        position.stopped = bool(stopping and position.stale >= stopping.patience)
        if self.environment.leads:
            self.mark_best()
            self.folder.describe(self.config)

    def mark_best(self) -> None:
        """Names the best step in the run folder, once its checkpoint is there."""
        best = self.position.best
        if best and best["step"] in self.folder.steps() and best["step"] != self.folder.best_step():
            self.folder.mark_best(best["step"])

    def fit(self) -> None:
        """Trains until the last epoch or step, or until early stopping."""
        self.session.distributed.module.train()
        hooks = self.hooks
        if self.config.trainer.evaluation.at_start and self.position.step == 0 and self.position.best is None:
            Evaluation().evaluate(self)
            Checkpoints().after_step(self)
        for batch in self._batches():
            self.train_step(batch)
            for hook in hooks:
                hook.after_step(self)

    def finish(self) -> dict[str, Any]:
        """Scores the best checkpoint on every other split; writes and returns the summary.

        `zero_weights` is the share of exact zeros in each table with an L1, of the best checkpoint too; `data` tells
        the files of each split from others.
        """
        test = self._split("test") if self.test is None else self.test
        metrics = self._final_metrics(test)
        position = self.position
        best_step = position.best["step"] if position.best else position.step
        summary = {
            "metrics": metrics,
            "parameters": self.session.parameters,
            "steps": position.step,
            "rows": position.rows,
            "samples_per_second": round(self.clock.rate, 1),
            "world_size": self.environment.world_size,
            "first_step": self._first_step,
            "first_step_at": self.clock.first_step_at,
            "best_step": best_step,
            "epochs_to_best": round(best_step / self.loader.steps_per_epoch, 2),
            "stopped_early": position.stopped,
        }
        loaders = {"train": self.loader, "validation": self.validation, "test": test}
        summary["data"] = {split: loader.index.fingerprint for split, loader in loaders.items() if loader is not None}
        if zeros := self.session.distributed.zero_shares():
            summary["zero_weights"] = zeros
        self.reporter.record("end", position.step, {f"{s}/{k}": v for s, m in metrics.items() for k, v in m.items()})
        self.reporter.close()
        if self.environment.leads:
            write_summary(self.folder, summary)
        self.environment.barrier()
        return summary

    def save_checkpoint(self) -> None:
        self.reporter.progress.phase("saving checkpoint")
        broken = [n for n, p in self.session.tower.parameters.items() if not bool(torch.isfinite(p).all())]
        if broken:
            raise UserError(
                f"step {self.position.step}: {broken[0]} is not finite, so no checkpoint is written and the last one "
                "stays; lower the learning rates or set optimizer.tower.clip_norm"
            )
        checkpoint.save(
            self.folder,
            self.environment,
            self.position,
            self.session.distributed,
            self.session.tower,
            self.loader.order_state(),
        )

    def progressive_metrics(self) -> dict[str, float]:
        """The metrics of the rows that were scored since the last call, before they were trained on."""
        assert self._progressive is not None
        found, self._progressive = self._progressive.compute(), None
        return found

    # ------------------------------------------------------------ one step

    def _batches(self) -> Iterator[Batch]:
        """Batches from the position on; moves the position behind a batch before it is trained on."""
        position = self.position
        while not self.is_finished:
            for batch in self.loader.epoch(position.epoch, position.step_in_epoch):
                position.step_in_epoch += 1
                if position.step_in_epoch == self.loader.steps_per_epoch:
                    position.epoch, position.step_in_epoch = position.epoch + 1, 0
                self.session.model.task.check(batch)
                yield batch
                if self.is_finished:
                    return

    def train_step(self, batch: Batch) -> None:
        """Trains on a batch, which is still on the host: what tables are to know of it is summed there."""
        session, position = self.session, self.position
        summed = torch.stack([batch.live.double().sum(), torch.where(batch.live, batch.weights, 0).double().sum()])
        dist.all_reduce(summed)
        live, weight = summed.tolist()
        self.last_factor = learning_rate_factor(self.config.optimizer.schedule, position.step, self.total_steps)
        batch = batch.to(self.environment.device)
        if self.config.trainer.progressive_validation:
            self._score(batch)
        session.distributed.begin(UpdateContext(position.step, self.last_factor, weight))
        output = session.distributed.module(batch)
        terms = session.model.task.loss(output, batch)
        summed = stack_terms(terms)
        dist.all_reduce(summed)
        sums = summed.tolist()  # the one place where a GPU is waited for
        losses = loss_values(terms, sums)
        if not math.isfinite(losses["loss"]):
            self._refuse(output, batch)
        session.tower.zero_grad()
        objective(terms, sums, self.environment.world_size).backward()
        session.tower.step(self.last_factor)
        session.distributed.step()
        session.model.after_step()
        position.step, position.rows = position.step + 1, position.rows + int(live)
        for name, value in {**losses, "count": 1}.items():
            position.losses[name] = position.losses.get(name, 0) + value
        self.last_loss = losses["loss"]
        self.clock.step(int(live))

    def _score(self, batch: Batch) -> None:
        module = self.session.distributed.module
        if self._progressive is None:
            self._progressive = self.session.model.task.metrics(ProcessGroupCollective(), down_sampled=True)
        module.eval()
        with torch.no_grad():
            self._progressive.update(module(batch), batch)
        module.train()

    def _refuse(self, output: Any, batch: Batch) -> None:
        """All ranks stop here together, before any row or parameter is updated. Raises UserError."""
        broken = batch.rows[self.session.model.task.broken_rows(output, batch)].tolist()
        parts = self.environment.gather((broken, batch.rows[batch.live].tolist()))
        found = {r for part, _ in parts for r in part}
        of_all = sorted(found or {r for _, live in parts for r in live})  # else none alone: their sum, say
        named = ", ".join(map(str, of_all[:NAMED_ROWS])) + (", ..." if len(of_all) > NAMED_ROWS else "")
        last = max(self.folder.steps(), default=None)
        kept = f"checkpoint step-{last} stays good" if last is not None else "no checkpoint was written yet"
        raise UserError(
            f"step {self.position.step + 1}: the loss is not finite, from {len(of_all)} rows ({named}) of the training "
            f"data; nothing was updated and {kept}; lower the learning rates, clip, or look at those rows"
        )

    # ------------------------------------------------------------ the end

    def _final_metrics(self, test: Loader | None) -> dict[str, dict[str, float]]:
        position, session = self.position, self.session
        found: dict[str, dict[str, float]] = {}
        if position.best is not None:
            found["validation"] = position.best["metrics"]
            if position.best["step"] != position.step:
                at = self.folder.checkpoint(position.best["step"])
                checkpoint.restore(
                    at, self.environment, session.distributed, session.tower, seed=self.config.trainer.seed
                )
        if test is not None:
            on_batch = self.reporter.progress.counter("evaluating test", test.steps_per_epoch)
            found["test"] = evaluate(session, test, on_batch)
        return found

    def _split(self, name: str) -> Loader | None:
        paths = self.config.data.split(name)
        return self.session.loader(paths) if paths is not None else None
