"""Policies that choose by a net of values, and train it by major updates: DQN, double DQN and DRN, whole and in part.

| policy | learns | explores |
|---|---|---|
| `dqn` | clicks, by the largest value of the target network | epsilon-greedy |
| `ddqn` | clicks, by the target network's value of the online network's choice | epsilon-greedy |
| `drn` | as `ddqn`, clicks and activeness | dueling bandits |
| `drn_no_activeness` | as `ddqn` | dueling bandits |
| `drn_no_dbgd` | as `drn` | not at all (the paper's "DDQN + U") |
| `drn_epsilon` | as `drn` | epsilon-greedy (the paper's "DDQN + U + EG") |

Before the first major update all of them show what is drawn from all candidates.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from shardrec.data_pipeline.declared.declaration import first_problem
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.checkpoints import removal
from shardrec.trainer.checkpoints.moved_tower import save_moved_tower
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.session.blueprint import build_model
from shardrec.trainer.simulation.draws import draws
from shardrec.trainer.simulation.dueling_bandit import DuelingBandit
from shardrec.trainer.simulation.epsilon_greedy import epsilon_greedy
from shardrec.trainer.simulation.interleaving import interleave
from shardrec.trainer.simulation.log import day_file
from shardrec.trainer.simulation.log_schema import log_schema
from shardrec.trainer.simulation.major_update import discard_run, major_run, train_major
from shardrec.trainer.simulation.policies import PolicyContext, best
from shardrec.trainer.simulation.run_file import SimulationConfig
from shardrec.trainer.simulation.value_net import ValueNet
from shardrec.trainer.simulation.world import Requests, Shown

POLICY_NET = "net.safetensors"
ACTIVENESS = "activeness"
"""The label of the log that is left out of the reward where a policy learns from clicks alone."""


@dataclass(frozen=True)
class Kind:
    """A kind of policy is what it learns and how it explores."""

    explores: Literal["epsilon", "duel", "never"]
    double: bool = True
    activeness: bool = False

    def settings(self, model: dict[str, Any]) -> dict[str, Any]:
        """Returns what of the run file's model settings is this kind's own."""
        rewards = dict(model.get("rewards", {"click": 1.0}))
        if not self.activeness:
            rewards.pop(ACTIVENESS, None)
        return {"double": self.double, "rewards": rewards}


KINDS = {
    "dqn": Kind("epsilon", double=False),
    "ddqn": Kind("epsilon"),
    "drn": Kind("duel", activeness=True),
    "drn_no_activeness": Kind("duel"),
    "drn_no_dbgd": Kind("never", activeness=True),
    "drn_epsilon": Kind("epsilon", activeness=True),
}


class _State(BaseModel):
    """A state is which major update is in use, and how far the duels on it have come."""

    model_config = ConfigDict(strict=True)

    run: str | None
    wins: int
    step: int | None = None
    period: int = 0
    clicks: list[float] = []


def check_nets(config: SimulationConfig, names: Iterable[str]) -> None:
    """Raises UserError for model settings with which a policy of these names could not train, before it begins."""
    schema, file = log_schema(config.simulation), day_file(Path("log"), 1)
    for name in names:
        model = KINDS[name].settings(config.model)
        if not model["rewards"]:
            raise UserError(
                f"simulation.policies: {name} learns from all of model.rewards but {ACTIVENESS}, and there is no "
                "other; add one (click: 1), or leave the policy out"
            )
        run = major_run(config, Path("major"), file.parent, [file], model=model, seed=0, start=None)
        build_model(run, schema)


class Neural:
    """A neural policy shows what its net values most, but for what it shows to explore.

    Its major updates are run folders in a folder of its own; the last one's newest checkpoint is the net.
    """

    def __init__(self, context: PolicyContext) -> None:
        self.name, self.seed, self.settings = context.name, context.seed, context.settings
        self.kind, self._config, self._folder = KINDS[context.name], context.config, context.folder
        self._net: ValueNet | None = None
        self._duel: DuelingBandit | None = None
        self._run: str | None = None
        self._wins = 0
        self._kept: tuple[str | None, ...] = ()

    # ------------------------------------------------------------ a tick

    def choose(self, requests: Requests) -> Shown:
        """Returns what is shown, with exact propensities."""
        length, draw = self.settings.shown, draws(self.seed, f"policy {self.name}", round(requests.time))
        if self._net is None:
            return epsilon_greedy(np.zeros(requests.candidates.shape), length, 1.0, draw)
        if self._duel is not None:
            values, others = self._net.values(requests, self._duel.perturbed)
            first, second = (np.argsort(-of, axis=1, kind="stable") for of in (values, others))
            return Shown(*interleave(first, second, length, draw, tau=self.settings.exploration.duel.tau))
        (values,) = self._net.values(requests)
        if self.kind.explores == "never":
            return best(values, length)
        return epsilon_greedy(values, length, self.settings.exploration.epsilon, draw)

    def learn(self, requests: Requests, shown: Shown, clicks: np.ndarray) -> None:
        """Credits clicks to the two nets of a duel."""
        if self._duel is not None and shown.source is not None:
            self._duel.credit(shown.source, clicks)

    def minor_update(self) -> None:
        """Ends a duel's period."""
        if self._duel is not None:
            self._wins += self._duel.decide()

    # ------------------------------------------------------------ a major update

    def major_update(self, log: Path, day: int) -> None:
        """Trains on the log's last days, from where the last major update and the duels since have come to.

        Days without rows are left out; where all are, the net stays what it is.
        """
        days = sorted(log.glob("day-*.parquet"))[-(self.settings.major_log_days or day) :]
        days = [file for file in days if pq.read_metadata(file).num_rows]
        if not days:  # nobody has come back yet: there is nothing to learn from
            return
        run, last = self._folder / f"major-{day}", self._last_run()
        config = major_run(
            self._config,
            run,
            log,
            days,
            model=self.kind.settings(self._config.model),
            seed=int(draws(self.seed, "major", day).integers(2**31)),
            start=None if last is None else last.path,
        )
        train_major(config)
        self._use(run.name, period=0 if self._duel is None else self._duel.period)
        for old in self._folder.glob("major-*"):
            if old.name not in (self._run, *self._kept):
                discard_run(RunFolder(old))

    def _last_run(self) -> RunFolder | None:
        """Returns the last major update's run folder; its newest checkpoint has the tower as duels have moved it."""
        if self._run is None or self._net is None:
            return None
        folder = RunFolder(self._folder / self._run)
        if self._wins:
            saved, step = self._net.saved, self._net.saved.step + self._wins
            for later in (s for s in folder.steps() if s > saved.step):  # of a simulation that was killed here
                removal.remove(folder.checkpoint(later))
            save_moved_tower(folder, saved, self._net.parameters, step)
        return folder

    def _use(self, run: str, period: int, step: int | None = None) -> None:
        """Chooses by the net of a major update from now on, as its training left it at its last step."""
        self._run, self._wins = run, 0
        self._net = ValueNet(RunFolder(self._folder / run), step)
        if self.kind.explores == "duel":
            self._duel = DuelingBandit(self._net.parameters, self.settings.exploration.duel, seed=self.seed)
            self._duel.period = period

    # ------------------------------------------------------------ kept

    def save(self, folder: Path) -> None:
        """Writes which major update is in use, how far the duels have come, and the net as they have moved it."""
        state: dict[str, Any] = {"run": self._run, "wins": self._wins}
        if self._net is not None:
            state["step"] = self._net.saved.step
        if self._net is not None and self._duel is not None:
            state |= {"period": self._duel.period, "clicks": self._duel.clicks.tolist()}
            moved = {name: p.detach().contiguous() for name, p in self._net.parameters.items()}
            (folder / POLICY_NET).write_bytes(save(moved))
        (folder / "state.json").write_text(json.dumps(state))
        self._kept = (*self._kept[-1:], self._run)  # whoever is killed may go on from this one or the one before

    def load(self, folder: Path) -> None:
        """Takes up what `save` wrote; the major update's run folder is where it was.

        Raises OSError, ValueError or KeyError for what it cannot have written, UserError where that run folder is gone.
        """
        try:
            state = _State.model_validate_json((folder / "state.json").read_text())
        except ValidationError as error:
            raise ValueError(f"state.json: {first_problem(error)}") from None
        self._kept = (state.run,)
        if state.run is None:
            return
        self._use(state.run, state.period, state.step)
        self._wins = state.wins
        if self._duel is not None and self._net is not None:
            self._duel.clicks[:] = state.clicks
            try:
                moved = load((folder / POLICY_NET).read_bytes())
            except SafetensorError as error:
                raise ValueError(f"{POLICY_NET}: {error}") from error
            with torch.no_grad():
                for name, parameter in self._net.parameters.items():
                    parameter.copy_(moved[name])
