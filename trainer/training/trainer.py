"""A trainer builds, restores, then makes one step after another until the epochs are over or nothing improves."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

import torch

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import ResumableError, UserError
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.models.layers.kernels.library import tower_form
from shardrec.models.undefined import undefined_in
from shardrec.sharding.planning.plan_facts import plan_facts
from shardrec.sharding.planning.plan_report import plan_text
from shardrec.trainer.checkpoints.checkpoint import generator_seed
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.leaving import Leaving, RegroupError
from shardrec.trainer.run_folder.atomic import write_atomically
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.progress import TRAINING, steps_done
from shardrec.trainer.run_folder.reporting import Reporter
from shardrec.trainer.run_folder.stop_request import STOP, Request
from shardrec.trainer.run_folder.worker_lines import say
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.precision import settled
from shardrec.trainer.session.prepared import Prepared
from shardrec.trainer.session.session import Session
from shardrec.trainer.session.stopwatch import Stopwatch
from shardrec.trainer.training.clock import Clock
from shardrec.trainer.training.divergence import MOST_ROLLBACKS, SLOWER
from shardrec.trainer.training.evaluation import ProgressiveValidation
from shardrec.trainer.training.feed import Feed
from shardrec.trainer.training.hooks import (
    Hook,
    checkpoint_is_due,
    evaluation_is_due,
    log_is_due,
    progressive_is_due,
    stop_is_looked_for,
)
from shardrec.trainer.training.left_out import LeftOut
from shardrec.trainer.training.pace import Pace
from shardrec.trainer.training.refusal import DivergedError
from shardrec.trainer.training.run_checkpoints import RunCheckpoints
from shardrec.trainer.training.scores import Scores
from shardrec.trainer.training.splits import Splits
from shardrec.trainer.training.state import TrainingState, last_step
from shardrec.trainer.training.stepping import Stepping
from shardrec.trainer.training.warm_start import start_from
from shardrec.trainer.training.watch import Watch


class Trainer:
    """A trainer is one worker's training loop: it acts, `state` says where the run stands, and hooks what is due."""

    def __init__(
        self, config: RunConfig, folder: RunFolder, environment: Environment, blueprint: Blueprint | None = None
    ) -> None:
        self.config, self.folder, self.environment = config, folder, environment
        self._steps_before = steps_done(folder.logs)  # of this launch, by an earlier group of workers
        self.reporter = Reporter(folder, leads=environment.leads, tensorboard=config.trainer.tensorboard)
        self.reporter.progress.phase("building tables")
        blueprint = blueprint or Blueprint(config)
        begun = folder.as_begun(blueprint.config)
        blueprint.config = settled(begun, environment, partial(say, folder.logs))
        self.session = Session.build(blueprint, environment)
        if environment.leads:
            if begun.trainer.precision == "auto":
                folder.settle(self.session.config)
            write_atomically(folder.path / "plan.txt", plan_text(self.session.plan) + "\n")
            write_atomically(folder.plan_file, json.dumps(plan_facts(self.session.plan)) + "\n")
        self.splits = Splits(self.session)
        self.state = TrainingState(last_step(config.trainer, self.loader.steps_per_epoch))
        self.watch = Watch(folder, self.session, self.state)
        self.checkpoints = RunCheckpoints(folder, self.session, self.splits, self.state, self.watch)
        self.clock = Clock()
        self.pace = Pace(environment, folder.logs)
        self.progressive = ProgressiveValidation(self.session) if config.trainer.progressive_validation else None
        self._stop_request = Request(folder.path, STOP, elsewhere=folder.elsewhere, every=0)
        self._first_step = 0
        self._saved_step: int | None = None
        self._checkpoint_time = Stopwatch()
        self.left_out = LeftOut(folder, self.session, self.splits, self.state)
        self._scores = Scores(folder, self.session, self.splits, self.state, self.reporter, self.clock, self.left_out)
        self._stepping = Stepping(
            self.session,
            self.state,
            self.watch,
            self.clock,
            self.left_out,
            on_evidence=self.checkpoints.prune,
            written=lambda: self.checkpoints.is_written,
        )
        if environment.signs is not None:
            environment.signs.doing = lambda: f"step {self.state.position.step + 1}, {self.reporter.progress.current}"
        torch.manual_seed(generator_seed(config.trainer.seed, 0, environment.rank))

    @property
    def loader(self) -> Loader:
        """Returns the batches that are trained on."""
        return self.splits.train

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
        hooks.append(Hook(partial(checkpoint_is_due, config=settings.checkpoint), self.save_checkpoint))
        return [*hooks, Hook(partial(stop_is_looked_for, every_steps=every, config=settings.evaluation), self.stop)]

    # ------------------------------------------------------------ the run

    def restore(self) -> None:
        """Takes up the newest complete checkpoint; else starts from what `init_from` names, or fresh."""
        resumed = self.checkpoints.restore_newest()
        self._saved_step = None
        if not resumed:
            if self.config.init_from:
                start_from(self.config.init_from, self.session)
            self._count_samples()
        self._first_step = self.state.position.step
        self._stepping.start_anew()
        self.pace.begin(self._first_step)
        forms = {"rows": self.session.distributed.row_form, "tower": tower_form(self.environment.device)}
        again = 0
        if resumed and self.environment.leads:
            again, self._steps_before = max(0, self._steps_before - self._first_step), 0
            self._tell_of_changes(forms, again)
        self.reporter.start(self._first_step, is_evaluated=not self.state.position.owes_evaluation)
        facts = {
            **forms,
            "precision": self.session.config.trainer.precision,
            "resumed": resumed,
            "steps_again": again,
            "world_size": self.environment.world_size,
            "device": self.environment.device.type,
            "steps_per_epoch": self.loader.steps_per_epoch,
            "total_steps": self.state.total_steps,
        }
        self.reporter.record("start", self._first_step, facts)
        self.environment.barrier()  # a step does not wait as long as ranks may take to fill tables and write files

    def _tell_of_changes(self, forms: dict[str, str | None], again: int) -> None:
        """Says so where the run goes on otherwise than before: results agree to rounding alone.

        again: steps that this launch has made before, and makes again.
        """
        starts = [record for record in self.folder.records() if record["kind"] == "start"]
        workers = self.environment.world_size
        if starts and (before := starts[-1]["world_size"]) != workers:
            line = f"goes on from step {self._first_step} with {workers} worker(s) instead of {before}"
            say(self.folder.logs, f"shardrec: {line}" + (f"; {again} step(s) are done again" if again else ""))
        for name, subject in (("rows", "rows of tables are updated"), ("tower", "the tower is computed")):
            before, now = next((r[name] for r in reversed(starts) if r.get(name)), None), forms[name]
            if before and now and before != now:
                line = f"{subject} by the {now} kernel, until here by the {before} one"
                say(self.folder.logs, f"shardrec: {line}: the run goes on equal to rounding, not bit for bit")

    def _count_samples(self) -> None:
        """Counts, over the rows of the first epoch, what tables with `decay: frequency` divide by."""
        if self.session.distributed.counted_tables:
            on_batch = self.reporter.progress.counter("counting samples", self.loader.steps_per_epoch)
            self.session.distributed.count_samples(self._first_epoch(on_batch))

    def _first_epoch(self, on_batch: Callable[[int], None]) -> Iterator[Batch]:
        for step, batch in enumerate(self.loader.epoch(0), start=1):
            yield batch.to(self.environment.device)
            on_batch(step)

    def fit(self, asked: Callable[[], Leaving] = lambda: Leaving.NO) -> None:
        """Trains until the last epoch or step, or until early stopping; where the run file says so, again and again.

        asked: says whether this worker is to leave, upon which all make their step and a checkpoint, and raise
        ResumableError or RegroupError. Raises DivergedError where the run diverges, and does not go back to a good
        checkpoint.
        """
        self._stepping.asked = asked
        while True:
            try:
                self._train()
                return
            except DivergedError as error:
                wanted = self.config.trainer.on_divergence == "rollback"
                if not wanted or error.good is None or self.state.position.rollbacks == MOST_ROLLBACKS:
                    raise
                diverged = error
            self._roll_back(diverged)

    def _roll_back(self, error: DivergedError) -> None:
        """Goes back to the last good checkpoint, from which the run goes on with lower rates. All workers call it."""
        first_step, rollbacks = self._first_step, self.state.position.rollbacks + 1
        if self.progressive is not None:
            self.progressive = ProgressiveValidation(self.session)
        self.restore()
        self._first_step, self.state.position.rollbacks = first_step, rollbacks
        self.reporter.record("rollback", self.state.position.step, {"rollbacks": rollbacks})
        if self.environment.leads:
            rates = f"{SLOWER**rollbacks:g} of the learning rates ({rollbacks} of {MOST_ROLLBACKS} times)"
            say(self.folder.logs, f"shardrec: {error.what}; went back to step-{error.good}, and goes on with {rates}")

    def _train(self) -> None:
        state = self.state
        self.session.distributed.module.train()
        at_start = self.config.trainer.evaluation.at_start and state.position.step == 0 and state.position.best is None
        if at_start or state.position.owes_evaluation:
            self.evaluate()
            if checkpoint_is_due(state, self.config.trainer.checkpoint):
                self.save_checkpoint()
        if state.is_finished:
            return
        feed = self.feed(state.position.epoch, state.position.step_in_epoch, state.total_steps - state.position.step)
        try:
            self._train_on(feed)
        except DivergedError:
            feed.close()
            raise
        except Exception:
            if self.environment.world_size == 1:  # whoever leaves others has to leave at once, whatever is being read
                feed.stop_reading()
            raise
        feed.close()

    def _train_on(self, feed: Feed) -> None:
        state, progress, hooks = self.state, self.reporter.progress, self.hooks
        for prepared in feed:
            state.moved_to_next_batch(self.loader.steps_per_epoch)
            self.step(prepared, meanwhile=feed.prepare)
            if self._stepping.all_written:
                self.complete_checkpoint()
            progress.step(TRAINING, state.position.step, state.total_steps, loss=state.loss, rate=self.clock.rate)
            for hook in hooks:
                if hook.due(state):
                    self.read_losses()
                    hook.act()
            if state.is_finished:
                return
            if self._stepping.leaving:
                self._leave(self._stepping.leaving)

    def finish(self) -> dict[str, Any]:
        """Scores the best checkpoint on every other split and returns the summary.

        `undefined` says of metrics without a value why; `not_scored` why splits have no metrics at all, and that costs
        the summary nothing else. `zero_weights` is the share of exact zeros in each table with an L1, of the best
        checkpoint too; `data` tells the files of each split from others.
        """
        metrics = self._scores.at_the_end(self.checkpoints.restore_best)
        self.checkpoints.prune(is_over=True)
        position = self.state.position
        best_step = position.step if self.state.best_step is None else self.state.best_step
        summary = {
            "metrics": metrics,
            "parameters": self.session.parameters,
            "steps": position.step,
            "rows": position.rows,
            "samples_per_second": round(self.clock.rate, 1),
            "checkpoint_seconds": round(self._checkpoint_time.seconds, 2),
            "world_size": self.environment.world_size,
            "first_step": self._first_step,
            "first_step_at": self.clock.first_step_at,
            "best_step": best_step,
            "epochs_to_best": round(best_step / self.loader.steps_per_epoch, 2),
            "stopped_early": position.stopped,
        }
        if left_out := self.left_out.by_split():
            summary["left_out"] = left_out
        if position.rollbacks:
            summary["rollbacks"] = position.rollbacks
        if undefined := {split: reasons for split, of in metrics.items() if (reasons := undefined_in(of))}:
            summary["undefined"] = undefined
        if self.splits.not_scored:
            summary["not_scored"] = self.splits.not_scored
        if self.environment.leads:
            summary["data"] = self.splits.fingerprints()
        if zeros := self.session.distributed.zero_shares():
            summary["zero_weights"] = zeros
        self.reporter.record("end", position.step, {f"{s}/{k}": v for s, m in metrics.items() for k, v in m.items()})
        self.reporter.close()
        self.environment.barrier()
        return summary

    # ------------------------------------------------------------ between steps

    def log(self) -> None:
        """Records the mean loss since the last line, samples/s in all and since then, and the learning rates."""
        state = self.state
        self.left_out.tell()
        values = {
            **state.mean_losses(),
            "learning_rate_factor": state.learning_rate_factor,
            "rows": state.position.rows,
            **self.left_out.of("train"),
        }
        if self.clock.rate:
            values["samples_per_second"] = round(self.clock.rate, 1)
            values["recent_samples_per_second"] = round(self.clock.recent_rate(), 1)
        self.reporter.record("train", state.position.step, values)
        self.pace.look(state.position.step, self.session.forward.tower_seconds)

    def evaluate(self) -> None:
        """Scores what is to be scored between steps.

        Raises UserError where validation rows cannot be scored or selected by, once what was trained is saved; a run
        that goes on from there begins with this evaluation.
        """
        self.watch.check_gradients()
        self.state.position.owes_evaluation = False
        step = self.state.position.step
        try:
            self._scores.between_steps()
        except UserError as error:
            if step == 0:
                raise
            self.state.position.owes_evaluation = True
            self.log_progressive()  # as at each checkpoint
            self.save_checkpoint(at_once=True)
            raise UserError(f"{error}; what was trained so far is saved as step-{step}") from error

    def log_progressive(self) -> None:
        """Records the metrics of the rows since the last line, if any, each scored before it was trained on."""
        if self.progressive is not None and self.progressive.has_rows:
            self.reporter.record("progressive", self.state.position.step, self.progressive.metrics())

    def save_checkpoint(self, *, at_once: bool = False) -> None:
        """Writes a checkpoint. Raises UserError, and writes none, where training could not go on from it.

        at_once: as `RunCheckpoints.save`.
        """
        self.watch.check_gradients()
        with self.clock.paused(), self._checkpoint_time.running():
            self.reporter.progress.phase("saving checkpoint")
            self.checkpoints.save(at_once=at_once)
        self._saved_step = self.state.position.step

    def complete_checkpoint(self) -> None:
        """Completes the checkpoint that is written in the background, if there is one: waits for what is missing."""
        with self.clock.paused(), self._checkpoint_time.running():
            self.checkpoints.complete()

    def stop(self) -> None:
        """Raises UserError, on all workers, where somebody asked this run to stop; this step's checkpoint is done."""
        if self.environment.broadcast(self._stop_request.is_made() if self.environment.leads else None):
            self.complete_checkpoint()
            raise UserError(f"{self.folder.address}: was asked to stop, after step {self.state.position.step}")

    def _leave(self, leaving: Leaving) -> NoReturn:
        """Saves what was trained since the last checkpoint, and raises what ends all workers."""
        step = self.state.position.step
        if self._saved_step != step:
            self.read_losses()
            self.log_progressive()
            self.save_checkpoint(at_once=True)
        self.complete_checkpoint()
        if leaving == Leaving.REGROUP:
            raise RegroupError(step)
        raise ResumableError(f"{self.folder.address}: was told to end, after step {step}; go on with --resume")

    # ------------------------------------------------------------ one step

    def feed(self, epoch: int, step: int, count: int) -> Feed:
        """Returns what hands out the run's batches, so many, from batch `step` of an epoch on."""
        return self._stepping.feed(self.loader, epoch, step, count)

    def prepared(self, batch: Batch) -> Prepared:
        """Starts to prepare a batch for its step. All workers call it alike."""
        return self._stepping.prepared(batch)

    def train_step(self, batch: Batch) -> None:
        """Makes a step by a batch that was not prepared before."""
        self.step(self.prepared(batch))

    def step(self, prepared: Prepared, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Updates tables and tower by one global batch, once it is scored where the run asks for it.

        meanwhile: is called where the device has most to do. Raises UserError as `Stepping.step`.
        """
        if self.progressive is not None:
            self.progressive.score(prepared.batch())
        self._stepping.step(prepared, meanwhile)

    def read_losses(self) -> None:
        """Reads the losses of all steps that were made. Raises UserError as `Stepping.step`."""
        self._stepping.read_losses()
