"""A watch looks at every step's loss and gradients, and ends a run that they show not to be worth going on with."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.models.tasks import Term
from shardrec.sharding.tables.magnitudes import LARGEST_GRADIENT
from shardrec.trainer.checkpoints.unsound_values import UnsoundValuesError, check_sound
from shardrec.trainer.launch.leaving import Leaving
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.session.forward import loss_values, stack_terms
from shardrec.trainer.session.session import Session
from shardrec.trainer.training.divergence import DIVERGED, OUT_OF_PROPORTION, Evidence, proportion
from shardrec.trainer.training.refusal import Refusal, some_of
from shardrec.trainer.training.state import TrainingState
from shardrec.trainer.training.unread_losses import StepLoss

WISHES = (Leaving.REGROUP, Leaving.END)
"""What workers may be asked for."""

SAID = len(WISHES) + 1
"""So many numbers end a step's sums: how many workers were asked for each wish, and how many have written their share.

That is their share of the checkpoint that is under way.
"""


class Seen(NamedTuple):
    """A step's mean terms, whether they are the first evidence on a checkpoint, and what workers said beside them.

    leaving: what some worker was asked for. all_written: each has written its share of the checkpoint under way.
    """

    losses: dict[str, float]
    is_evidence: bool
    leaving: Leaving
    all_written: bool


class Watch:
    """A watch has the evidence on a run's checkpoints, the refusal that a run ends with, and the last batch.

    All workers call its methods alike, and raise the same.
    """

    def __init__(self, folder: RunFolder, session: Session, state: TrainingState) -> None:
        self._session, self._state = session, state
        self._evidence = Evidence()
        self._refusal = Refusal(folder, session.environment, session.config.optimizer, self._evidence)
        self._trained: Batch | None = None  # its loss tells whether it is rows or weights that broke
        said = [[[*(wish == leaving for wish in WISHES), written] for written in (False, True)] for leaving in Leaving]
        self._said = torch.tensor(said, dtype=torch.float64, device=session.environment.device)

    def before_refusal(self, complete: Callable[[], None]) -> None:
        """Has `complete` called before it is looked which checkpoints there are to go on from."""
        self._refusal.complete = complete

    # ------------------------------------------------------------ checkpoints

    def check_restored(self, step: int) -> None:
        """Raises UserError, and sets the checkpoint aside, where training cannot go on from what it gave the session.

        step: of the checkpoint that the run goes on from.
        """
        self._refusal.resumed = True
        self._evidence.restored(step)
        self._trained = None
        try:
            check_sound(self._session)
        except UnsoundValuesError as error:
            self._evidence.judge(step, sound=False)
            raise self._refusal.because(f"checkpoint step-{step}: {error}") from None

    def saved(self) -> None:
        """Takes up that there is a checkpoint of this step, which the next loss is computed from."""
        self._evidence.saved(self._state.position.step)

    def not_saved(self, error: UnsoundValuesError) -> UserError:
        """Returns the error for a checkpoint that would hold unsound values."""
        return self._refusal.because(f"step {self._state.position.step}: {error}, and are not saved")

    def spared(self, *, is_over: bool) -> int | None:
        """Returns the step of the last good checkpoint, which stays until a newer one has proved to be good.

        Once training is over nothing will prove it; that its last loss was in proportion has to do.
        """
        in_proportion = self._proportion(self._state.loss) <= OUT_OF_PROPORTION
        return None if is_over and in_proportion else self._evidence.sound

    # ------------------------------------------------------------ gradients

    def check_gradients(self) -> None:
        """Raises UserError where a gradient of the last step was not fit for an update."""
        stopped = self._session.stopped_gradients()
        dist.all_reduce(stopped)
        self._refuse_stopped(stopped.tolist(), self._state.position.step)

    def summed(self, terms: Mapping[str, Term], leaving: Leaving = Leaving.NO, *, written: bool = False) -> Tensor:
        """Sums over all workers a step's loss terms, and in the same exchange which gradients were stopped before it.

        leaving: what this worker was asked for. written: its share of the checkpoint under way is. Returns
        [2 terms + parts of the lookup + 1 + SAID] on the device: total and count of each, `Session.stopped_gradients`,
        and what workers say.
        """
        said = self._said[leaving, int(written)]
        summed = torch.cat([stack_terms(terms).view(-1), self._session.stopped_gradients(), said])
        if self._session.environment.world_size > 1:
            dist.all_reduce(summed)
        return summed

    def read(self, loss: StepLoss) -> Seen:
        """Returns what is seen of a step's loss.

        Raises UserError where a gradient of the step before was stopped, and as `_checked`.
        """
        numbers, of_terms = loss.numbers(), 2 * len(loss.terms)
        self._refuse_stopped(numbers[of_terms:-SAID], loss.step)
        losses = loss_values(loss.terms, [numbers[i : i + 2] for i in range(0, of_terms, 2)])
        is_evidence = self._checked(losses["loss"], loss)
        self._trained = loss.batch
        *asked, written = numbers[-SAID:]
        wished = (wish for wish, count in zip(WISHES, asked, strict=True) if count)
        all_written = written == self._session.environment.world_size
        return Seen(losses, is_evidence, max(wished, default=Leaving.NO), all_written)

    def _refuse_stopped(self, stopped: list[float], step: int) -> None:
        """Raises UserError where any is not 0; stopped: as `Session.stopped_gradients`, of all ranks."""
        if not any(stopped):
            return
        *of_parts, of_tower = stopped
        tables = self._session.distributed.lookup.guard.tables
        names = [repr(name) for part, count in zip(tables, of_parts, strict=True) if count for name in part]
        whose = (f"tables {some_of(names)}", "the tower")
        of = " and ".join(w for w, found in zip(whose, (names, of_tower), strict=True) if found)
        what = f"gradients of {of} are not finite, or above {LARGEST_GRADIENT:g}, and are not used"
        raise self._refusal.because(f"step {step}: {what}")

    # ------------------------------------------------------------ the loss

    def _checked(self, loss: float, of: StepLoss) -> bool:
        """Says whether a step's loss is the first evidence on the newest checkpoint.

        Raises UserError where it is not finite or out of all proportion; then it must not have been trained on.
        """
        position = self._state.position
        if position.first_loss is None and math.isfinite(loss):
            position.first_loss = loss
        times = self._proportion(loss)
        if math.isinf(times):
            raise self._not_finite(of)
        if times > DIVERGED:
            self._evidence.judge(of.step, sound=not self._weights_are_broken())
            what = f"step {of.step + 1}: the loss is {loss:.3g}, and was {position.first_loss:.3g} at the start"
            raise self._refusal.because(f"{what}; nothing was updated")
        return self._evidence.judge(of.step, sound=times <= OUT_OF_PROPORTION)

    def _not_finite(self, of: StepLoss) -> UserError:
        """Returns the error for a loss that is not finite: it names the rows, and tells whether it is they or weights.

        Those are blamed whose own loss is not finite.
        """
        batch = of.batch
        broken = batch.rows[self._session.model.task.broken_rows(of.output, batch)].tolist()
        parts = self._session.environment.gather((broken, batch.rows[batch.live].tolist()))
        blamed, live = ({r for part in parts for r in part[i]} for i in (0, 1))
        of_all = sorted(blamed or live)  # else none alone: their sum, say
        weights = self._weights_are_broken(otherwise=2 * len(of_all) > len(live))
        self._evidence.judge(of.step, sound=not weights)
        rows = f"{len(of_all)} rows ({some_of(of_all)}) of the training data"
        what = f"step {of.step + 1}: the loss is not finite, from {rows}; nothing was updated"
        remedy = None if weights else "look at those rows (tables and tower give other rows a loss in proportion)"
        return self._refusal.because(what, remedy)

    def _weights_are_broken(self, otherwise: bool = True) -> bool:
        """Says whether the batch trained on last has a loss out of proportion now; `otherwise`: where there is none."""
        if self._trained is None:
            return otherwise
        with torch.no_grad():
            terms = self._session.model.task.loss(self._session.distributed.module(self._trained), self._trained)
        summed = stack_terms(terms)
        dist.all_reduce(summed)
        loss = loss_values(terms, summed.tolist())["loss"]
        return self._proportion(loss) > OUT_OF_PROPORTION

    def _proportion(self, loss: float) -> float:
        return proportion(loss, self._state.position.first_loss)
