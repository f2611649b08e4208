"""A whole training run from its checked configuration: inspected, launched, summed up in its run folder."""

from typing import Any

from data_pipeline.errors import UserError
from trainer.config import RunConfig
from trainer.inspection import inspect_run
from trainer.reporting import write_summary
from trainer.run_folder import RunFolder
from trainer.supervision import leads, supervised
from trainer.trainer import train_worker


def train_run(config: RunConfig, *, resume: bool = False, quiet: bool = False) -> dict[str, Any] | None:
    """Trains as `config` says; returns the summary, or None on the further ranks of a torchrun.

    Raises UserError for what is wrong with the run, before anything is written where that can be known; a folder whose
    run failed before its first checkpoint is removed.
    """
    inspect_run(config)
    folder = RunFolder.create(config, resume=resume) if leads() else RunFolder.awaited(config)
    try:
        summary = supervised(train_worker, config, folder, quiet=quiet)
    except UserError:
        if leads() and not resume and folder.failure() and not folder.steps():
            folder.discard()
        raise
    if summary:
        write_summary(folder, summary)
    return summary
