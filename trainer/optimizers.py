"""The tower's optimizer and the learning-rate schedule that tables and tower share.

Optimizer state is kept by parameter name ({name: {state: tensor}}), never by position, and exists before the first
step, so that a checkpoint of step 0 restores like any other.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainer.config import Schedule, TowerOptimizer


def learning_rate_factor(schedule: Schedule, step: int, total_steps: int) -> float:
    """The factor on every learning rate for the update that follows `step` updates."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.decay == "none":
        return 1.0
    done = min(1.0, (step - schedule.warmup_steps) / max(1, total_steps - schedule.warmup_steps))
    left = 1 - done if schedule.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return schedule.final_factor + (1 - schedule.final_factor) * left


class Tower:
    """The tower's parameters, by name, with their optimizer."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: TowerOptimizer) -> None:
        self.parameters = dict(parameters)
        self.config = config
        self.optimizer = _build(list(self.parameters.values()), config) if self.parameters else None
        self._initialise_state()

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def step(self, factor: float) -> None:
        """One update at `factor` times the configured learning rate, its gradient's norm clipped as configured."""
        if self.optimizer is None:
            return
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * factor
        self.optimizer.step()

    def state(self) -> dict[str, dict[str, Tensor]]:
        """{parameter name: {state name: live tensor}}."""
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


def _build(parameters: list[nn.Parameter], config: TowerOptimizer) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    match config.name:
        case "sgd":
            return torch.optim.SGD(parameters, lr=rate, momentum=config.momentum, weight_decay=decay)
        case "adagrad":
            return torch.optim.Adagrad(parameters, lr=rate, eps=config.eps, weight_decay=decay)
        case "rmsprop":
            return torch.optim.RMSprop(
                parameters, lr=rate, eps=config.eps, momentum=config.momentum, weight_decay=decay
            )
        case "adam":
            return torch.optim.Adam(
                parameters, lr=rate, eps=config.eps, betas=config.betas, weight_decay=decay, fused=True
            )
