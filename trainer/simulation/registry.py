"""Policies by name: each is imported, and with it what it needs, only when it is asked for."""

import importlib
from collections.abc import Iterable

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.simulation.policies import Policy, PolicyContext
from shardrec.trainer.simulation.run_file import SimulationConfig

_HERE = "shardrec.trainer.simulation"
NEURAL = ("dqn", "ddqn", "drn", "drn_no_activeness", "drn_no_dbgd", "drn_epsilon")
"""The policies that train a net, which the run file's `model` is of."""

POLICIES = {
    "random": f"{_HERE}.policies:Random",
    "popularity": f"{_HERE}.policies:Popularity",
    "linucb": f"{_HERE}.linucb:LinUCB",
    "ideal": f"{_HERE}.policies:Ideal",
    **dict.fromkeys(NEURAL, f"{_HERE}.neural:Neural"),
}
"""Name -> the class, which takes a `PolicyContext`."""


def check_policies(names: Iterable[str], model: str | None) -> None:
    """Raises UserError for a policy that is not known, with the nearest one that is, or needs another `model`."""
    for name in names:
        if name not in POLICIES:
            raise UserError(f"simulation.policies: {unknown('policy', name, list(POLICIES))}")
        if name in NEURAL and model != "drn":
            found = "names no model" if model is None else f"has model {model}"
            raise UserError(
                f"simulation.policies: {name} trains model drn, but the run file {found}; set model.name to drn, or "
                "leave the policy out"
            )


def check_nets(config: SimulationConfig, names: Iterable[str]) -> None:
    """Raises UserError where policies of these names train a net that the run file's settings do not make."""
    if neural := [name for name in names if name in NEURAL]:
        importlib.import_module(f"{_HERE}.neural").check_nets(config, neural)


def make_policy(context: PolicyContext) -> Policy:
    """Returns the policy that the context names, which is known."""
    module, _, kind = POLICIES[context.name].partition(":")
    policy: Policy = getattr(importlib.import_module(module), kind)(context)
    return policy
