"""Policies by name: each is imported, and with it what it needs, only when it is asked for."""

import importlib
from collections.abc import Iterable

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.simulation.policies import Policy, PolicyContext

_HERE = "shardrec.trainer.simulation"
POLICIES = {
    "random": f"{_HERE}.policies:Random",
    "popularity": f"{_HERE}.policies:Popularity",
    "linucb": f"{_HERE}.linucb:LinUCB",
    "ideal": f"{_HERE}.policies:Ideal",
}
"""Name -> the class, which takes a `PolicyContext`."""


def check_policies(names: Iterable[str]) -> None:
    """Raises UserError for a policy that is not known, with the nearest one that is."""
    for name in names:
        if name not in POLICIES:
            raise UserError(f"simulation.policies: {unknown('policy', name, list(POLICIES))}")


def make_policy(context: PolicyContext) -> Policy:
    """Returns the policy that the context names, which is known."""
    module, _, kind = POLICIES[context.name].partition(":")
    policy: Policy = getattr(importlib.import_module(module), kind)(context)
    return policy
