"""The tower's optimizer and the learning-rate schedule that tables and tower share.

Optimizer state is kept by parameter name ({name: {state: tensor}}), never by position, and exists before the first
step, so that a checkpoint of step 0 restores like any other.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.declared.name_patterns import matches
from shardrec.data_pipeline.errors import UserError
from shardrec.sharding.tables.magnitudes import LARGEST_GRADIENT
from shardrec.trainer.config.sections import Schedule, TowerOptimizer

MODEL = "model."
"""What precedes a tower parameter's own name, the one that its model gives it, inside a training step."""


def learning_rate_factor(schedule: Schedule, step: int, total_steps: int) -> float:
    """Returns the factor on every learning rate for the update that follows `step` updates."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.decay == "none":
        return 1.0
    done = min(1.0, (step - schedule.warmup_steps) / max(1, total_steps - schedule.warmup_steps))
    left = 1 - done if schedule.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return schedule.final_factor + (1 - schedule.final_factor) * left


def weight_decays(names: Iterable[str], patterns: Mapping[str, float]) -> dict[str, float]:
    """Returns the L2 factor of each parameter; later patterns win, and what none matches has 0.

    Raises UserError for a pattern that matches no parameter.
    """
    names = tuple(names)
    found = dict.fromkeys(names, 0.0)
    for pattern, factor in patterns.items():
        matching = [name for name in names if matches(name, pattern)]
        if not matching and pattern != "*":
            parts = dict.fromkeys(f"{name.partition('.')[0]}.*" for name in names if "." in name)
            raise UserError("optimizer.tower.weight_decay: " + unknown("tower parameter", pattern, [*parts, *names]))
        found |= dict.fromkeys(matching, factor)
    return found


class Tower:
    """The tower's parameters, by name, with their optimizer."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: TowerOptimizer) -> None:
        self.parameters = dict(parameters)
        self.config = config
        self.optimizer = _build(self.parameters, config) if self.parameters else None
        self._stopped: Tensor | None = None
        self._initialise_state()

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def step(self, factor: float) -> None:
        """Makes one update at `factor` times the learning rate, the gradient's norm clipped as configured.

        A gradient that is not finite, or absurdly large, is remembered in `stopped`. On CPU its update is not made; a
        GPU is not waited for, and the caller must not go on from what it comes to.
        """
        if self.optimizer is None:
            return
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters.values() if p.grad is not None])
        sound = norm <= LARGEST_GRADIENT  # False for NaN
        self.stopped(norm.device).logical_or_(~sound)
        if norm.device.type == "cpu" and not bool(sound):
            return
        if self.config.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters.values(), self.config.clip_norm, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * factor
        self.optimizer.step()

    def stopped(self, device: torch.device) -> Tensor:
        """Returns [1] bool on the device: whether a gradient was ever not finite, or absurdly large."""
        if self._stopped is None:
            self._stopped = torch.zeros(1, dtype=torch.bool, device=device)
        return self._stopped

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Returns {parameter name: {state name: live tensor}}."""
        if self.optimizer is None:
            return {}
        return {name: self.optimizer.state[p] for name, p in self.parameters.items() if self.optimizer.state.get(p)}

    def _initialise_state(self) -> None:
        """Gives every parameter the state that its first step would make, without taking a step."""
        if self.optimizer is None or isinstance(self.optimizer, torch.optim.Adagrad):
            return  # Adagrad makes its state when built
        for parameter in self.parameters.values():
            state = self.optimizer.state[parameter]
            zeros = torch.zeros_like(parameter, memory_format=torch.preserve_format).detach()
            if isinstance(self.optimizer, torch.optim.Adam):
                fused = parameter.device if self.optimizer.defaults["fused"] else "cpu"
                state.update(step=torch.zeros((), dtype=torch.float32, device=fused))
                state.update(exp_avg=zeros, exp_avg_sq=zeros.clone())
            elif isinstance(self.optimizer, torch.optim.RMSprop):
                state.update(step=torch.zeros((), dtype=torch.float32), square_avg=zeros)
                if self.config.momentum:
                    state.update(momentum_buffer=zeros.clone())
            elif self.config.momentum:
                state.update(momentum_buffer=zeros)


def _build(parameters: Mapping[str, nn.Parameter], config: TowerOptimizer) -> torch.optim.Optimizer:
    decays = weight_decays((name.removeprefix(MODEL) for name in parameters), config.weight_decay)
    groups = [
        {"params": [p for p, its in zip(parameters.values(), decays.values(), strict=True) if its == decay],
         "weight_decay": decay}
        for decay in dict.fromkeys(decays.values())
    ]  # fmt: skip
    rate, eps = config.learning_rate, config.eps
    match config.name:
        case "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=config.momentum)
        case "adagrad":
            return torch.optim.Adagrad(groups, lr=rate, eps=eps)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=rate, eps=eps, momentum=config.momentum)
        case "adam":
            return torch.optim.Adam(groups, lr=rate, eps=eps, betas=config.betas, fused=True)
