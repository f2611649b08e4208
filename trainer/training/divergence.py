"""A run diverges when its loss leaves all proportion; its losses are evidence of what its checkpoints hold.

A checkpoint of step N is made before anybody has computed a loss from what it holds. The loss of step N + 1 is: only
where that is in proportion is the checkpoint one to go on from.
"""

import math

OUT_OF_PROPORTION = 1e2
"""A loss so many times the run's first (or 1, where that is more) says nothing good of what it was computed from."""

DIVERGED = 1e6
"""A loss so many times that is the end of a run: no learning rate brings such weights back."""


MOST_ROLLBACKS, SLOWER = 3, 0.5
"""How often a run that diverges may go back to a checkpoint, and what all rates are multiplied by each time."""


def proportion(loss: float, first_loss: float | None) -> float:
    """Returns how many times the magnitude of a run's first loss (1, if that is more) a loss has; infinity for NaN."""
    return abs(loss) / max(1.0, abs(first_loss or 0.0)) if math.isfinite(loss) else math.inf


class Evidence:
    """Evidence is what a run's losses, as far as this process has seen them, say of its checkpoints.

    sound: the newest checkpoint with a loss in proportion after it. unsound: those since then with another loss.
    unproven: the newest one, while no loss has been computed from it.
    """

    def __init__(self) -> None:
        self.sound: int | None = None
        self.unsound: list[int] = []
        self.unproven: int | None = None

    def saved(self, step: int) -> None:
        """Takes up that the checkpoint of a step is there, and is what the next loss is computed from."""
        self.unproven = step

    def restored(self, step: int) -> None:
        """Takes up that the next loss is computed from a checkpoint; later ones, if there were any, are made anew."""
        self.unproven, self.unsound = step, []

    def judge(self, step: int, *, sound: bool) -> bool:
        """Judges the checkpoint of `step` by what came of it; says whether there is one that was unproven."""
        if step != self.unproven:
            return False
        self.unproven = None
        if sound:
            self.sound, self.unsound = step, []
        else:
            self.unsound.append(step)
        return True
