"""The tower's optimizers and the learning-rate schedule that tables and tower share.

Optimizer state is kept by parameter name ({name: {state: tensor}}), never by position, and exists before the first
step, so that a checkpoint of step 0 restores like any other.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from shardrec.sharding.tables.magnitudes import LARGEST_GRADIENT
from shardrec.trainer.config.sections import ParameterOptimizer, Schedule, TowerOptimizer
from shardrec.trainer.session.parameter_optimizers import FtrlOptimizer, build, optimizers_of, start

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


class Tower:
    """The tower's parameters, by name, with their optimizers."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: TowerOptimizer) -> None:
        self.parameters = dict(parameters)
        self.config = config
        self._optimizers = _built(self.parameters, config)
        self._stopped: Tensor | None = None
        for optimizer in self._optimizers:
            start(optimizer)

    def start_from_parameters(self) -> None:
        """Sets the state that follows from parameters (FTRL's z) to what goes with those that were copied into them."""
        for optimizer in self._optimizers:
            if isinstance(optimizer, FtrlOptimizer):
                optimizer.start()

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def step(self, factor: float, loss_weight: float = 1.0, halted: Tensor | None = None) -> None:
        """Makes one update at `factor` times the learning rates, the gradient's norm clipped as configured.

        loss_weight: what the mean loss divides by, which FTRL's gradients are multiplied by, once clipped. halted: as
        of `UpdateContext`.

        A gradient that is not finite, or absurdly large, is remembered in `stopped`, and not used. On CPU no update is
        made then. A GPU is not waited for: there Adam makes none, and other optimizers one by zeros.
        """
        if not self._optimizers:
            return
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters.values() if p.grad is not None])
        sound = norm <= LARGEST_GRADIENT  # False for NaN
        self.stopped(norm.device).logical_or_(~sound)
        used = sound if halted is None else sound & ~halted
        if norm.device.type == "cpu":
            if not bool(used):
                return
        else:
            self._pass_over(~used)
        if self.config.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters.values(), self.config.clip_norm, norm)
        for optimizer, learning_rate in self._optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * factor
            if isinstance(optimizer, FtrlOptimizer):
                optimizer.loss_weight = loss_weight
            optimizer.step()

    def _pass_over(self, unused: Tensor) -> None:
        """Leaves to the device whether gradients are used. unused: one bool."""
        for optimizer in self._optimizers:
            if isinstance(optimizer, torch.optim.Adam):
                optimizer.found_inf = unused.float().view(())  # type: ignore[attr-defined]  # which its kernel looks at
                continue
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.masked_fill_(unused, 0)

    def stopped(self, device: torch.device) -> Tensor:
        """Returns [1] bool on the device: whether a gradient was ever not finite, or absurdly large."""
        if self._stopped is None:
            self._stopped = torch.zeros(1, dtype=torch.bool, device=device)
        return self._stopped

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Returns {parameter name: {state name: live tensor}}."""
        kept = {p: state for optimizer in self._optimizers for p, state in optimizer.state.items() if state}
        return {name: kept[p] for name, p in self.parameters.items() if p in kept}


def _built(parameters: Mapping[str, nn.Parameter], config: TowerOptimizer) -> dict[torch.optim.Optimizer, float]:
    """Returns the optimizers that the parameters have, each with its learning rate."""
    settings = optimizers_of((name.removeprefix(MODEL) for name in parameters), config)
    groups: dict[ParameterOptimizer, dict[float, list[nn.Parameter]]] = {}
    for parameter, its in zip(parameters.values(), settings.values(), strict=True):
        of_one = groups.setdefault(its.model_copy(update={"weight_decay": 0.0}), {})
        of_one.setdefault(its.weight_decay, []).append(parameter)
    return {
        build([{"params": params, "weight_decay": decay} for decay, params in of_one.items()], its): its.learning_rate
        for its, of_one in groups.items()
    }
