"""Training from Python is the command's run, with nothing taken from the process that asks for it."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.api.door import door
from shardrec.trainer.api.load import load
from shardrec.trainer.api.summary import Summary
from shardrec.trainer.config.model_settings import check_models
from shardrec.trainer.config.paths import located
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.config.stages import resolve_stages
from shardrec.trainer.launch.cores import cluster_address
from shardrec.trainer.launch.early_start import started_early
from shardrec.trainer.launch.torchrun import leads
from shardrec.trainer.reports.after_training import reported
from shardrec.trainer.training.resuming import Resume, resumes


@door
def train(
    config: RunConfig | str | Path | Mapping[str, Any],
    *,
    resume: Resume = False,
    step: int | None = None,
    quiet: bool = False,
) -> Summary | None:
    """Trains as a configuration says, on the workers that it names, and returns what came of it.

    config: as `load` gives it, or what `load` takes. resume: True goes on from the newest checkpoint of the run folder
    that is whole, and is an error where no run is; "auto" goes on with the run that is there, else starts it, and says
    which. step: the checkpoint to go on from, instead of the newest; later ones are set aside. quiet: shows no
    progress. Progress goes to stderr, in a notebook too. The generators and the number of threads of this process are
    afterwards as they were. On the further ranks of a torchrun the result is None.

    Raises UserError for what is wrong with the run, before anything is written where that can be known.

        summary = shardrec.train("run.yaml")
        print(summary.metrics["test"]["auc"])
    """
    began = time.time()
    config = located(config) if isinstance(config, RunConfig) else load(config)
    _check_importable(config)
    goes_on = resumes(config, resume, step) if leads() else bool(resume)
    runs = list(resolve_stages(config).values()) or [config]
    check = partial(check_models, runs)
    with started_early([run.launch for run in runs], "shardrec.trainer.training.train_run", check):
        import torch  # only now that the configuration is in order

        from shardrec.trainer.launch.backends import choose_backend
        from shardrec.trainer.launch.freed_memory import give_back_freed_memory
        from shardrec.trainer.training.train_run import train_run

        elsewhere = all(choose_backend(run.launch) == "ray" for run in runs)  # then no GPU is this process's to ask
        forked = torch.random.fork_rng(devices=() if elsewhere else range(torch.cuda.device_count()))
        with reported(config) as report, forked:
            values = train_run(
                config, resume=goes_on, step=step, quiet=quiet, embedded=True, began=began, at_end=report
            )
        give_back_freed_memory()  # this process's next run needs it
    return None if values is None else Summary.of(config.run_folder, values)


def _check_importable(config: RunConfig) -> None:
    """Raises UserError for a model of this notebook or script that other processes are to train."""
    name, launch = str(config.model.get("name")), config.launch
    elsewhere = launch.backend == "ray" or (launch.most_workers or 1) > 1 or cluster_address(launch)
    if name.startswith("__main__:") and elsewhere and launch.backend != "in_process":
        raise UserError(
            f"model {name.partition(':')[2]} is defined in this notebook or script, which workers elsewhere cannot "
            "import; put it into a module, or set launch.workers to 1"
        )
