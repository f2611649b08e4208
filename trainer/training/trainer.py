"""A trainer builds, restores, then makes one step after another until the epochs are over or nothing improves."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.files.file_errors import NO_ROOM, about
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.models.tasks import Term
from shardrec.models.undefined import undefined_in
from shardrec.sharding.planning.plan_report import plan_text
from shardrec.sharding.tables.magnitudes import LARGEST_GRADIENT
from shardrec.sharding.updates.context import UpdateContext
from shardrec.trainer.checkpoints import checkpoint
from shardrec.trainer.checkpoints.damage import damage
from shardrec.trainer.checkpoints.manifest import read_manifest
from shardrec.trainer.checkpoints.position import Position
from shardrec.trainer.checkpoints.set_aside import moved_aside
from shardrec.trainer.checkpoints.unsound_values import UnsoundValuesError, check_sound
from shardrec.trainer.config.sections import SPLITS, RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.atomic import write_atomically
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.reporting import Reporter
from shardrec.trainer.run_folder.said import say
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.forward import loss_values, objective, stack_terms
from shardrec.trainer.session.session import Session
from shardrec.trainer.session.tower import learning_rate_factor
from shardrec.trainer.training.clock import Clock
from shardrec.trainer.training.divergence import DIVERGED, OUT_OF_PROPORTION, Evidence, proportion
from shardrec.trainer.training.evaluation import ProgressiveValidation, evaluate
from shardrec.trainer.training.hooks import (
    Hook,
    checkpoint_is_due,
    evaluation_is_due,
    log_is_due,
    progressive_is_due,
)
from shardrec.trainer.training.refusal import Refusal, some_of
from shardrec.trainer.training.selection import selecting_metric
from shardrec.trainer.training.split_files import FINGERPRINTS, other_fingerprints, take_up_files
from shardrec.trainer.training.state import TrainingState, last_step
from shardrec.trainer.training.warm_start import start_from


def train_worker(
    config: RunConfig, folder: RunFolder, environment: Environment, *, blueprint: Blueprint | None = None
) -> dict[str, Any]:
    """Trains on one worker, from the newest complete checkpoint of the folder or from the start.

    blueprint: what inspection made of the run; None makes it anew.
    """
    with _room(folder):
        trainer = Trainer(config, folder, environment, blueprint)
        try:
            trainer.restore()
            trainer.fit()
            return trainer.finish()
        finally:
            trainer.reporter.close()


@contextmanager
def _room(folder: RunFolder) -> Iterator[None]:
    """Makes a full disk a UserError, which no launcher tries again, and which names the file and the way on."""
    try:
        with about(folder.path):
            yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        last = max(folder.steps(), default=None)
        ahead = "start again" if last is None else f"go on with --resume: checkpoint step-{last} stays good"
        raise UserError(f"{error.filename}: {error.strerror}; make room, then {ahead}") from error


def _saved_order(at: Path) -> tuple[dict[str, Any] | None, str | None]:
    """Returns what a checkpoint says of the order of rows, or else what is wrong with its manifest."""
    try:
        return read_manifest(at)["order"], None
    except UserError as error:
        return None, str(error)


class Trainer:
    """A trainer is one worker's training loop: it acts, `state` says where the run stands, and hooks what is due."""

    def __init__(
        self, config: RunConfig, folder: RunFolder, environment: Environment, blueprint: Blueprint | None = None
    ) -> None:
        self.config, self.folder, self.environment = config, folder, environment
        self.reporter = Reporter(folder, leads=environment.leads, tensorboard=config.trainer.tensorboard)
        self.reporter.progress.phase("building tables")
        self.session = Session.build(blueprint or Blueprint(config), environment)
        if environment.leads:
            write_atomically(folder.path / "plan.txt", plan_text(self.session.plan) + "\n")
        self.not_scored: dict[str, str] = {}  # splits that are left out, and why
        self._make_loaders()
        self._other_files = other_fingerprints(self.session)
        self.state = TrainingState(self._total_steps())
        self.clock = Clock()
        self.evidence = Evidence()
        self.refusal = Refusal(folder, environment, config.optimizer)
        self._trained: Batch | None = None  # the last batch, whose loss tells whether it is rows or weights that broke
        self.progressive = ProgressiveValidation(self.session) if config.trainer.progressive_validation else None
        self._first_step = 0
        torch.manual_seed(checkpoint.generator_seed(config.trainer.seed, 0, environment.rank))

    def _make_loaders(self) -> None:
        train = self.config.data.split("train")
        assert train is not None
        self.loader = self.session.loader(train, training=True)
        self.validation = self._split("validation")
        self.test = self._split("test") if self.config.trainer.evaluation.test else None

    def _total_steps(self) -> int:
        return last_step(self.config.trainer, self.loader.steps_per_epoch)

    @property
    def hooks(self) -> list[Hook]:
        """Returns what happens between steps, in order: a checkpoint holds what its step's evaluation found."""
        settings = self.config.trainer
        every = settings.log_every_steps
        hooks = [
            Hook(partial(log_is_due, every_steps=every), self.log),
            Hook(partial(evaluation_is_due, config=settings.evaluation), self.evaluate),
        ]
        if self.progressive is not None:
            due = partial(progressive_is_due, every_steps=every, config=settings.checkpoint)
            hooks.append(Hook(due, self.log_progressive))
        return [*hooks, Hook(partial(checkpoint_is_due, config=settings.checkpoint), self.save_checkpoint)]

    # ------------------------------------------------------------ the run

    def restore(self) -> None:
        """Takes up the newest complete checkpoint; else starts from what `init_from` names, or fresh."""
        environment, session = self.environment, self.session
        steps = environment.broadcast(self.folder.steps() if environment.leads else None)
        self.refusal.resumed = bool(steps)
        if steps:
            position, steps = self._restored(steps)
            self._take_up(position, steps)
            self._check_restored(steps[-1])
        elif self.config.init_from:
            start_from(self.config.init_from, session)
            try:
                check_sound(session)
            except UnsoundValuesError as error:
                raise UserError(f"init_from: {error}; start from another step or run") from None
        if not steps:
            self._count_samples()
        self._first_step = self.state.position.step
        self.reporter.start(self._first_step)
        facts = {"resumed": bool(steps), "world_size": environment.world_size}
        self.reporter.record("start", self._first_step, facts)
        environment.barrier()  # a step does not wait as long as ranks may take to fill tables and write files

    def _check_restored(self, step: int) -> None:
        """Raises UserError, and sets the checkpoint aside, where training cannot go on from what it holds."""
        self.evidence.saved(step)
        try:
            check_sound(self.session)
        except UnsoundValuesError as error:
            self.evidence.judge(step, sound=False)
            raise self.refusal.because(f"checkpoint step-{step}: {error}", self.evidence) from None

    def _restored(self, steps: list[int]) -> tuple[Position, list[int]]:
        """Restores the newest of some checkpoints that is whole; returns its position, and the steps up to it.

        Those that are damaged are set aside, with a line each. Raises UserError, on all ranks and with nothing changed
        on disk, where none is whole, or the newest whole one is not this run's.
        """
        environment = self.environment
        damaged: dict[Path, str] = {}
        for count in range(len(steps), 0, -1):
            at, position = self.folder.checkpoint(steps[count - 1]), None
            order, problem = environment.broadcast(_saved_order(at) if environment.leads else None)
            if order is not None:
                self._check_order(order)
                try:
                    position = checkpoint.fill(at, self.session)
                except UserError as error:
                    problem = str(error)
            problem = next(filter(None, environment.gather(problem)), None)
            if problem is None:
                assert position is not None
                if environment.leads:
                    self._pass_over(damaged, steps[count - 1])
                return position, steps[:count]
            if environment.broadcast(damage(at) if environment.leads else None) is None:
                raise UserError(problem)
            damaged[at] = problem
        raise UserError(next(iter(damaged.values())) + "; no earlier checkpoint is whole")

    def _check_order(self, order: Mapping[str, Any]) -> None:
        """Raises UserError, on all ranks, where the batches would not be those of the run that saved a checkpoint."""
        if take_up_files(self.session, order):
            self._make_loaders()
            self._other_files = other_fingerprints(self.session)
        self.loader.check_state(order)

    def _pass_over(self, damaged: Mapping[Path, str], step: int) -> None:
        """Sets damaged checkpoints aside, where they would be taken for what this run is about to write."""
        for at, problem in damaged.items():
            aside = moved_aside(at)
            found = problem.partition("; ")[0]
            say(self.folder.logs, f"{found}; {at.name} is now {aside.name}, and the run goes on from step {step}")

    def _take_up(self, position: Position, steps: list[int]) -> None:
        """Puts a restored position in line with what is on disk and with today's settings."""
        self.state.take_up(position, steps, self.config.trainer.early_stopping)
        if self.environment.leads:
            self._mark_best()
            self.folder.describe(self.config)

    def _count_samples(self) -> None:
        """Counts, over the rows of the first epoch, what tables with `decay: frequency` divide by."""
        if self.session.distributed.counted_tables:
            on_batch = self.reporter.progress.counter("counting samples", self.loader.steps_per_epoch)
            self.session.distributed.count_samples(self._first_epoch(on_batch))

    def _first_epoch(self, on_batch: Callable[[int], None]) -> Iterator[Batch]:
        for step, batch in enumerate(self.loader.epoch(0), start=1):
            yield batch.to(self.environment.device)
            on_batch(step)

    def fit(self) -> None:
        """Trains until the last epoch or step, or until early stopping."""
        state, progress = self.state, self.reporter.progress
        self.session.distributed.module.train()
        hooks = self.hooks
        if self.config.trainer.evaluation.at_start and state.position.step == 0 and state.position.best is None:
            self.evaluate()
            if checkpoint_is_due(state, self.config.trainer.checkpoint):
                self.save_checkpoint()
        for batch in self._batches():
            self.train_step(batch)
            progress.step("training", state.position.step, state.total_steps, loss=state.loss, rate=self.clock.rate)
            for hook in hooks:
                if hook.due(state):
                    hook.act()

    def finish(self) -> dict[str, Any]:
        """Scores the best checkpoint on every other split and returns the summary.

        `undefined` says of metrics without a value why; `not_scored` why splits have no metrics at all, and that costs
        the summary nothing else. `zero_weights` is the share of exact zeros in each table with an L1, of the best
        checkpoint too; `data` tells the files of each split from others.
        """
        metrics = self._final_metrics()
        self._prune(is_over=True)
        position = self.state.position
        best_step = position.step if self.state.best_step is None else self.state.best_step
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
        if undefined := {split: reasons for split, of in metrics.items() if (reasons := undefined_in(of))}:
            summary["undefined"] = undefined
        if self.not_scored:
            summary["not_scored"] = self.not_scored
        paths = {split: path for split in SPLITS if (path := self.config.data.split(split)) is not None}
        if self.environment.leads:
            summary["data"] = {n: self.session.blueprint.data_set(p).index.fingerprint.value for n, p in paths.items()}
        if zeros := self.session.distributed.zero_shares():
            summary["zero_weights"] = zeros
        self.reporter.record("end", position.step, {f"{s}/{k}": v for s, m in metrics.items() for k, v in m.items()})
        self.reporter.close()
        self.environment.barrier()
        return summary

    def _final_metrics(self) -> dict[str, dict[str, float]]:
        metrics: dict[str, dict[str, float]] = {}
        best = self.state.best_metrics()
        if best is not None:
            metrics["validation"] = best
            if (step := self.state.best_step) not in (None, self.state.position.step):
                checkpoint.restore(self.folder.checkpoint(step), self.session)
        elif (found := self._scored_if_possible("validation", self.validation)) is not None:
            metrics["validation"] = found
        if self.test is None and "test" not in self.not_scored:
            self.test = self._split("test")
        if (found := self._scored_if_possible("test", self.test)) is not None:
            metrics["test"] = found
        return metrics

    def _split(self, name: str) -> Loader | None:
        """Returns the batches of a split; None where there is none, and where its rows have no labels."""
        paths = self.config.data.split(name)
        if paths is None:
            return None
        self.session.blueprint.share_footers(paths, self.environment)
        if missing := self.session.blueprint.missing_labels(paths, self.environment):
            self.not_scored[name] = f"its rows have no labels: {missing}"
            return None
        return self.session.loader(paths)

    # ------------------------------------------------------------ between steps

    def log(self) -> None:
        """Records the mean loss since the last line, samples/s and the learning rates."""
        state = self.state
        values = {
            **state.mean_losses(),
            "learning_rate_factor": state.learning_rate_factor,
            "rows": state.position.rows,
        }
        if self.clock.rate:
            values["samples_per_second"] = round(self.clock.rate, 1)
        self.reporter.record("train", state.position.step, values)

    def evaluate(self) -> None:
        """Scores the validation split; keeps the best step and stops when it has not improved for long enough.

        Where the run file asks for it, the test split is scored beside it, and where tables have an L1 the share of
        their weights that are exactly 0 is counted, for the record only.

        Raises UserError where validation rows cannot be scored or selected by, once what was trained is saved.
        """
        self._check_stopped()
        step = self.state.position.step
        if (found := self._scored_if_possible("test", self.test)) is not None:
            self.reporter.record("test", step, found)
        if self.validation is not None:
            try:
                metrics = self._scored("validation", self.validation)
                self.reporter.record("validation", step, metrics)
                self._judge(metrics)
            except UserError as error:
                if step == 0:
                    raise
                self.save_checkpoint()
                raise UserError(f"{error}; what was trained so far is saved as step-{step}") from error
        with self.clock.paused():
            zeros = self.session.distributed.zero_shares()
        if zeros:
            self.reporter.record("zero_weights", step, {f"table/{t}": s for t, s in zeros.items()})

    def _judge(self, metrics: dict[str, float]) -> None:
        """Keeps or stops by the metric that decides. Raises UserError where the rows do not define it."""
        state, settings = self.state, self.config.trainer
        directions = self.session.model.task.metrics().directions
        before = state.position.best["metric"] if state.position.best else None
        name = selecting_metric(metrics, directions, wanted=settings.selection_metric, before=before)
        if name is not None:
            state.judge(metrics, name, larger_is_better=directions[name], stopping=settings.early_stopping)

    def _scored_if_possible(self, split: str, loader: Loader | None) -> dict[str, float] | None:
        """Returns a split's metrics; None, and from then on, where there is none or its rows cannot be scored."""
        if loader is None or split in self.not_scored:
            return None
        try:
            return self._scored(split, loader)
        except UserError as error:
            self.not_scored[split] = str(error)
            return None

    def _scored(self, split: str, loader: Loader) -> dict[str, float]:
        on_batch = self.reporter.progress.counter(f"evaluating {split}", loader.steps_per_epoch)
        with self.clock.paused():
            return evaluate(self.session, loader, on_batch)

    def log_progressive(self) -> None:
        """Records the metrics of the rows since the last line, each scored before it was trained on."""
        assert self.progressive is not None
        self.reporter.record("progressive", self.state.position.step, self.progressive.metrics())

    def save_checkpoint(self) -> None:
        """Writes a checkpoint, marks the best, prunes.

        Raises UserError, and writes none, where training could not go on from it.
        """
        self._check_stopped()
        step = self.state.position.step
        self.state.improved = False
        with self.clock.paused():
            self.reporter.progress.phase("saving checkpoint")
            if self.environment.leads:
                self.folder.check_owned()
            order = {**self.loader.order_state(), FINGERPRINTS: self._other_files}
            try:
                checkpoint.save(self.folder, self.session, self.state.position, order)
            except UnsoundValuesError as error:
                raise self.refusal.because(f"step {step}: {error}, and are not saved", self.evidence) from None
        self.evidence.saved(step)
        if self.environment.leads:
            self._mark_best()
        self._prune()

    def _prune(self, *, is_over: bool = False) -> None:
        """Deletes old checkpoints, but the last good one not before a newer one has proved to be good.

        Once training is over nothing will prove it; that its last loss was in proportion has to do.
        """
        spared = self.evidence.sound
        if is_over and proportion(self.state.loss, self.state.position.first_loss) <= OUT_OF_PROPORTION:
            spared = None
        if self.environment.leads:
            checkpoint.prune(self.folder, self.config.trainer.checkpoint.keep, self.state.best_step, spared)

    def _mark_best(self) -> None:
        """Names the best step in the run folder, once its checkpoint is there."""
        best = self.state.best_step
        if best is not None and best in self.folder.steps() and best != self.folder.best_step():
            self.folder.mark_best(best)

    # ------------------------------------------------------------ one step

    def _batches(self) -> Iterator[Batch]:
        """Batches from the position on; moves the position behind a batch before it is trained on."""
        state = self.state
        while not state.is_finished:
            for batch in self.loader.epoch(state.position.epoch, state.position.step_in_epoch):
                state.moved_to_next_batch(self.loader.steps_per_epoch)
                self.session.model.task.check(batch)
                yield batch
                if state.is_finished:
                    return

    def train_step(self, batch: Batch) -> None:
        """Updates tables and tower by one global batch, of which `batch` is this worker's part.

        Raises UserError on all workers, with nothing updated, where the loss is not finite or out of all proportion,
        and where a gradient of the step before was not fit for an update.
        """
        session, state = self.session, self.state
        rows, weight = self._summed_over_workers(batch)
        batch = batch.to(self.environment.device)
        if self.progressive is not None:
            self.progressive.score(batch)
        factor = learning_rate_factor(self.config.optimizer.schedule, state.position.step, state.total_steps)
        session.distributed.begin(UpdateContext(state.position.step, factor, weight))
        output = session.distributed.module(batch)
        terms = session.model.task.loss(output, batch)
        sums = self._summed_terms(terms)
        losses = loss_values(terms, sums)
        self._check_loss(losses["loss"], output, batch)
        session.tower.zero_grad()
        objective(terms, sums, self.environment.world_size).backward()
        session.tower.step(factor)
        session.distributed.step()
        session.model.after_step()
        state.learning_rate_factor = factor
        state.stepped(losses, rows)
        self._trained = batch
        self.clock.step(rows)

    def _summed_terms(self, terms: dict[str, Term]) -> list[list[float]]:
        """Sums the loss's terms over all ranks. Raises UserError where the step before stopped a gradient."""
        summed = torch.cat([stack_terms(terms).view(-1), self.session.stopped_gradients()])
        dist.all_reduce(summed)
        numbers = summed.tolist()  # the one place where a GPU is waited for
        of_terms = 2 * len(terms)
        self._refuse_stopped(numbers[of_terms:])
        return [numbers[i : i + 2] for i in range(0, of_terms, 2)]

    def _summed_over_workers(self, batch: Batch) -> tuple[int, float]:
        """Live rows and their weights of the global batch: of the data alone, so known before any of it is computed."""
        weights = torch.where(batch.live, batch.weights, 0).double().sum()
        sums = self.environment.summed(torch.stack([batch.live.double().sum(), weights]))
        rows, weight = sums.tolist()
        return int(rows), weight

    # ------------------------------------------------------------ when it cannot go on

    def _check_stopped(self) -> None:
        """Raises UserError where a gradient of the last step was not fit for an update. All ranks call it alike."""
        stopped = self.session.stopped_gradients()
        dist.all_reduce(stopped)
        self._refuse_stopped(stopped.tolist())

    def _refuse_stopped(self, stopped: list[float]) -> None:
        """Raises UserError where any is not 0; stopped: as `Session.stopped_gradients`, of all ranks."""
        if not any(stopped):
            return
        *of_parts, of_tower = stopped
        tables = self.session.distributed.lookup.guard.tables
        names = [repr(name) for part, count in zip(tables, of_parts, strict=True) if count for name in part]
        whose = (f"tables {some_of(names)}", "the tower")
        of = " and ".join(w for w, found in zip(whose, (names, of_tower), strict=True) if found)
        what = f"gradients of {of} are not finite, or above {LARGEST_GRADIENT:g}, and are not used"
        raise self.refusal.because(f"step {self.state.position.step}: {what}", self.evidence)

    def _check_loss(self, loss: float, output: Any, batch: Batch) -> None:
        """Raises UserError where a loss is not finite or out of all proportion. It tells of the newest checkpoint."""
        position = self.state.position
        if position.first_loss is None and math.isfinite(loss):
            position.first_loss = loss
        times = proportion(loss, position.first_loss)
        if math.isinf(times):
            raise self._not_finite(output, batch)
        if times > DIVERGED:
            self.evidence.judge(position.step, sound=not self._weights_are_broken())
            what = f"step {position.step + 1}: the loss is {loss:.3g}, and was {position.first_loss:.3g} at the start"
            raise self.refusal.because(f"{what}; nothing was updated", self.evidence)
        if self.evidence.judge(position.step, sound=times <= OUT_OF_PROPORTION):
            self._prune()

    def _not_finite(self, output: Any, batch: Batch) -> UserError:
        """Returns the error for a loss that is not finite; all ranks stop here together, before anything is updated."""
        broken = batch.rows[self.session.model.task.broken_rows(output, batch)].tolist()
        parts = self.environment.gather((broken, batch.rows[batch.live].tolist()))
        blamed, live = ({r for part in parts for r in part[i]} for i in (0, 1))
        of_all = sorted(blamed or live)  # else none alone: their sum, say
        weights = self._weights_are_broken(otherwise=2 * len(of_all) > len(live))
        step = self.state.position.step
        self.evidence.judge(step, sound=not weights)
        rows = f"{len(of_all)} rows ({some_of(of_all)}) of the training data"
        what = f"step {step + 1}: the loss is not finite, from {rows}; nothing was updated"
        remedy = None if weights else "look at those rows (tables and tower give other rows a loss in proportion)"
        return self.refusal.because(what, self.evidence, remedy)

    def _weights_are_broken(self, otherwise: bool = True) -> bool:
        """Says whether the batch trained on last has a loss out of proportion now; `otherwise`, where there was none.

        All ranks call it alike.
        """
        if self._trained is None:
            return otherwise
        with torch.no_grad():
            terms = self.session.model.task.loss(self.session.distributed.module(self._trained), self._trained)
        summed = stack_terms(terms)
        dist.all_reduce(summed)
        loss = loss_values(terms, summed.tolist())["loss"]
        return proportion(loss, self.state.position.first_loss) > OUT_OF_PROPORTION
