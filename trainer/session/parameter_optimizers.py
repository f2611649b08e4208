"""Each tower parameter has an optimizer: the tower's, or one of its own that a name pattern gives it.

All of them are torch.optim's but FTRL-Proximal, which is the one that tables have.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.declared.name_patterns import matches
from shardrec.data_pipeline.errors import UserError
from shardrec.sharding.updates.ftrl import Ftrl
from shardrec.trainer.config.sections import ParameterOptimizer, TowerOptimizer

V = TypeVar("V")

MOMENTS = {"sgd": 0, "adagrad": 1, "rmsprop": 1, "adam": 2, "ftrl": 2}
"""How many numbers an optimizer keeps for each weight, without momentum's."""


def weight_decays(names: Iterable[str], patterns: Mapping[str, float]) -> dict[str, float]:
    """Returns the L2 factor of each parameter; later patterns win, and what none matches has 0.

    Raises UserError for a pattern that matches no parameter.
    """
    return _by_name(names, patterns, "weight_decay", 0.0)


def optimizers_of(names: Iterable[str], tower: TowerOptimizer) -> dict[str, ParameterOptimizer]:
    """Returns the optimizer of each parameter, by the names that the model gives them.

    Raises UserError for a pattern that matches no parameter, and for a weight decay of none but those that have
    optimizers, and so weight decays, of their own.
    """
    names = tuple(names)
    own = own_optimizers(names, tower)
    rest = [name for name in names if own[name] is None]
    decays = weight_decays(names, tower.weight_decay)
    for pattern, factor in tower.weight_decay.items():
        if factor and names and pattern != "*" and not any(matches(name, pattern) for name in rest):
            raise UserError(
                f"optimizer.tower.weight_decay: {pattern!r} matches only parameters that `parameters` gives optimizers "
                "of their own; give it to those (of ftrl, l2 is it)"
            )
    common = tower.model_dump(exclude={"weight_decay", "clip_norm", "parameters"})
    of_rest = {d: ParameterOptimizer.model_construct(**common, weight_decay=d) for d in set(decays.values())}
    return {name: own[name] or of_rest[decays[name]] for name in names}


def own_optimizers(names: Iterable[str], tower: TowerOptimizer) -> dict[str, ParameterOptimizer | None]:
    """Returns the optimizer that each parameter has of its own. Raises UserError for a pattern that matches none."""
    return _by_name(names, dict[str, ParameterOptimizer | None](tower.parameters), "parameters", None)


def kind_of(settings: ParameterOptimizer | TowerOptimizer) -> str:
    """Returns in words what decides which state an optimizer keeps."""
    return settings.name + (" with momentum" if settings.has_momentum else "")


def _by_name(names: Iterable[str], patterns: Mapping[str, V], key: str, default: V) -> dict[str, V]:
    names = tuple(names)
    found = dict.fromkeys(names, default)
    for pattern, value in patterns.items():
        matching = [name for name in names if matches(name, pattern)]
        if not matching and pattern != "*":
            parts = dict.fromkeys(f"{name.partition('.')[0]}.*" for name in names if "." in name)
            raise UserError(f"optimizer.tower.{key}: " + unknown("tower parameter", pattern, [*parts, *names]))
        found |= dict.fromkeys(matching, value)
    return found


class FtrlOptimizer(torch.optim.Optimizer):
    """FTRL-Proximal updates parameters as it does tables, of any shape, weight by weight.

    loss_weight: what the mean loss divided by; gradients are multiplied by it.
    """

    def __init__(self, parameters: Iterable[Any], *, lr: float, beta: float, l1: float, l2: float) -> None:
        super().__init__(parameters, {"lr": lr})
        self._rule = Ftrl(learning_rate=lr, beta=beta, l1=l1, l2=l2)
        self.loss_weight = 1.0

    def start(self) -> None:
        """Sets n to 0, and z to what the parameters follow from."""
        for parameter in self._parameters():
            state = self.state[parameter]
            for name in self._rule.rule_shapes(1, 1):
                state.setdefault(name, torch.zeros_like(parameter, memory_format=torch.contiguous_format).detach())
            columns = {name: tensor.view(-1, 1) for name, tensor in state.items()}
            self._rule.warm_start(parameter.detach().reshape(-1, 1), columns)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates the parameters that have gradients."""
        for parameter in self._parameters():
            if parameter.grad is not None:
                gradient, learning_rate = parameter.grad * self.loss_weight, self.param_groups[0]["lr"]
                self._rule.change(parameter.detach(), self.state[parameter], gradient, learning_rate)

    def _parameters(self) -> Iterable[nn.Parameter]:
        return (parameter for group in self.param_groups for parameter in group["params"])


def build(parameters: Iterable[Any], settings: ParameterOptimizer) -> torch.optim.Optimizer:
    """Returns the optimizer of some parameters, or groups of them, without its state."""
    rate, eps = settings.learning_rate, settings.eps
    match settings.name:
        case "sgd":
            return torch.optim.SGD(parameters, lr=rate, momentum=settings.momentum)
        case "adagrad":
            return torch.optim.Adagrad(parameters, lr=rate, eps=eps)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, lr=rate, eps=eps, momentum=settings.momentum)
        case "adam":
            return torch.optim.Adam(parameters, lr=rate, eps=eps, betas=settings.betas, fused=True)
        case "ftrl":
            return FtrlOptimizer(parameters, lr=rate, beta=settings.beta, l1=settings.l1, l2=settings.l2)


def start(optimizer: torch.optim.Optimizer) -> None:
    """Gives every parameter the state that its first step would make, without taking a step."""
    if isinstance(optimizer, FtrlOptimizer):
        optimizer.start()
    if isinstance(optimizer, FtrlOptimizer | torch.optim.Adagrad):
        return  # Adagrad makes its state when built
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            zeros = torch.zeros_like(parameter, memory_format=torch.preserve_format).detach()
            if isinstance(optimizer, torch.optim.Adam):
                fused = parameter.device if optimizer.defaults["fused"] else "cpu"
                state.update(step=torch.zeros((), dtype=torch.float32, device=fused))
                state.update(exp_avg=zeros, exp_avg_sq=zeros.clone())
            elif isinstance(optimizer, torch.optim.RMSprop):
                state.update(step=torch.zeros((), dtype=torch.float32), square_avg=zeros)
                if group["momentum"]:
                    state.update(momentum_buffer=zeros.clone())
            elif group["momentum"]:
                state.update(momentum_buffer=zeros)
