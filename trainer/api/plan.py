"""A plan says where tables would live, here or on machines that are described, and what a step would take there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.api.door import at_least, door
from shardrec.trainer.api.load import load
from shardrec.trainer.config.paths import located
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.planning.machines import Machines
from shardrec.trainer.planning.report import PlannedRun, planned_runs


@door
def plan(
    config: RunConfig | str | Path | Mapping[str, Any],
    machines: Machines | None = None,
    *,
    stage: str | None = None,
    mean_length: float | None = None,
) -> PlannedRun:
    """Plans a run's tables for the machines described, or for this one. Allocates no table.

    config: as `load` gives it, or what `load` takes. machines: hosts, their devices, memory and rates, as text:
    `Machines(hosts=16, devices=8, device_memory="80GB")`. stage: which one, of a run of stages. mean_length: ids a row
    of lists and sequences. The result prints as the command's report; `record()` has all numbers.

    Raises UserError for what is missing or contradicts, PlanError where tables do not fit.

        print(shardrec.plan("run.yaml", shardrec.Machines(hosts=2, devices=8, device_memory="80GB")))
    """
    machines = machines or Machines()
    at_least(0, mean_length=mean_length)
    at_least(1, hosts=machines.hosts, devices=machines.devices)
    config = located(config) if isinstance(config, RunConfig) else load(config)
    planned = {run.stage: run for run in planned_runs(config, machines, mean_length)}
    if stage is None and len(planned) == 1:
        return next(iter(planned.values()))
    if stage not in planned:
        names = ", ".join(planned) if config.stages else "none"
        raise UserError(f"plan: expected `stage` to name one of the run's stages ({names}), found {stage!r}")
    return planned[stage]
