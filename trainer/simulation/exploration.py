"""What a run file says of how policies explore."""

from typing import Annotated, Literal

from pydantic import Field

from shardrec.trainer.config.sections import Section


class DuelSettings(Section):
    """Says how far dueling bandits perturb a net, and how far it moves; the defaults are the DRN paper's.

    update: `along` is W += eta (W~ - W). `printed` is the paper's equation 8 as it is printed, W += eta W~, by which
    every win also makes W larger by 1 + eta.
    """

    alpha: float = Field(default=0.1, gt=0, lt=1, description="largest relative change of a weight")
    eta: float = Field(default=0.05, gt=0, le=1, description="how far W moves when W~ wins")
    update: Literal["along", "printed"] = "along"
    tau: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="interleaved lists draw by 1 / rank^tau; null: the best that is left"
    )


class ExplorationSettings(Section):
    """Says how policies explore: `epsilon` is the share of places that epsilon-greedy ones fill at random."""

    epsilon: float = Field(default=0.1, ge=0, le=1)
    duel: DuelSettings = DuelSettings()
