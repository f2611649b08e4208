"""Steps change tables and tower by one batch after another; their losses are read at once, or a little later."""

from collections.abc import Callable, Iterable

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.sharding.updates.context import UpdateContext
from shardrec.trainer.launch.leaving import Leaving
from shardrec.trainer.session.forward import objective
from shardrec.trainer.session.pipeline import pipeline
from shardrec.trainer.session.prepared import Preparation, Prepared
from shardrec.trainer.session.session import Session
from shardrec.trainer.session.tower import learning_rate_factor
from shardrec.trainer.training.brake import Brake
from shardrec.trainer.training.clock import Clock
from shardrec.trainer.training.divergence import SLOWER
from shardrec.trainer.training.feed import Feed
from shardrec.trainer.training.left_out import LeftOut
from shardrec.trainer.training.state import TrainingState
from shardrec.trainer.training.unread_losses import StepLoss, UnreadLosses
from shardrec.trainer.training.watch import SAID, Watch


class Stepping:
    """Stepping moves a run's state and session on. All workers use it alike.

    on_evidence: is called when a loss is the first evidence on the newest checkpoint. asked: says what this worker was
    asked for; leaving: what some worker was, as of the losses that are read. written: says whether this worker has
    written its share of the checkpoint under way; all_written: all have, as of the losses that were read last.
    """

    def __init__(
        self,
        session: Session,
        state: TrainingState,
        watch: Watch,
        clock: Clock,
        left_out: LeftOut,
        on_evidence: Callable[[], None],
        written: Callable[[], bool],
    ) -> None:
        self._left_out = left_out
        self._session, self._state, self._watch, self._clock = session, state, watch, clock
        self._on_evidence, self._written = on_evidence, written
        self._pipeline = pipeline(session.config, session.environment)
        self._preparation = Preparation(session.environment, session.distributed.lookup)
        self.asked: Callable[[], Leaving] = lambda: Leaving.NO
        self.start_anew()

    def start_anew(self) -> None:
        """Forgets what steps have left to be read: the state is another one's."""
        first_loss, late = self._state.position.first_loss, self._pipeline.late
        self._unread = UnreadLosses(late)
        self._brake = Brake(self._session.environment.device, first_loss) if late else None
        self._session.forget_stopped_gradients()
        self.leaving, self.all_written = Leaving.NO, False

    def feed(self, loader: Loader, epoch: int, step: int, count: int) -> Feed:
        """Returns what hands out so many batches, from batch `step` of an epoch on."""
        return Feed(self._session, loader, self._pipeline.ahead, epoch=epoch, step=step, count=count)

    def prepared(self, batch: Batch) -> Prepared:
        """Starts to prepare a batch for its step."""
        return self._preparation.start(batch)

    def step(self, prepared: Prepared, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Updates tables and tower by one global batch, of which `prepared` is this worker's part.

        meanwhile: is called where the device has most to do.

        Raises UserError on all workers where a loss that is due to be read is not finite or out of all proportion, and
        where a gradient of the step before it was not fit for an update; no such loss has changed anything.
        Likewise where too many rows cannot be read.
        """
        session, state = self._session, self._state
        step, (rows, weight), batch = state.position.step, prepared.rows_and_weight(), prepared.batch()
        self._left_out.count(prepared, rows)
        if not rows:  # none can be read: a step of an optimizer without any would still move weights
            meanwhile()
            state.stepped(0)
            return
        factor = learning_rate_factor(session.config.optimizer.schedule, step, state.total_steps)
        factor *= SLOWER**state.position.rollbacks
        halted = None if self._brake is None else self._brake.halted
        session.distributed.begin(UpdateContext(step, factor, weight, halted))
        output = session.distributed.module(batch, prepared.started)
        terms = session.model.task.loss(output, batch)
        sums = self._watch.summed(terms, self.asked(), written=self._written())
        summed, stopped = sums[: 2 * len(terms)].view(-1, 2), sums[2 * len(terms) : -SAID]
        if self._brake is not None:
            self._brake.look(summed, stopped)
        self._unread.add(StepLoss.leaving(step, tuple(terms), output, batch, sums))
        self._read(self._unread.due())
        meanwhile()
        session.tower.zero_grad()
        objective(terms, summed, session.environment.world_size).backward()
        session.tower.step(factor, weight, halted)
        session.distributed.step()
        session.model.after_step()
        state.learning_rate_factor = factor
        state.stepped(rows)
        self._clock.step(rows)

    def read_losses(self) -> None:
        """Reads the losses of all steps that were made. Raises UserError as `step`."""
        self._read(self._unread.all())

    def _read(self, losses: Iterable[StepLoss]) -> None:
        self.all_written = False
        for loss in losses:
            seen = self._watch.read(loss)
            self._state.lost(seen.losses)
            self.leaving, self.all_written = max(self.leaving, seen.leaving), self.all_written or seen.all_written
            if seen.is_evidence:
                self._on_evidence()
