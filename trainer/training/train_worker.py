"""Training is one worker's function, which every launcher runs: on one process, or on many that do it alike."""

from functools import partial
from typing import Any

from shardrec.data_pipeline.files.file_errors import full_disk_named
from shardrec.data_pipeline.stores.retries import StoreError
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.leaving import Leaving, is_to_regroup
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.signals import termination_deferred
from shardrec.trainer.run_folder.stop_request import END, Request
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.training.trainer import Trainer


def train_worker(
    config: RunConfig,
    folder: RunFolder,
    environment: Environment,
    *,
    blueprint: Blueprint | None = None,
    is_finished: bool = False,
) -> dict[str, Any]:
    """Trains on one worker, from the newest complete checkpoint of the folder or from the start.

    blueprint: what inspection made of the run; None makes it anew. is_finished: there is nothing to do, as rank 0 has
    found; a worker elsewhere may see less of the run folder.
    """
    if environment.broadcast(is_finished):
        return {}
    with full_disk_named(folder.path, partial(_way_on, folder)):
        trainer = Trainer(config, folder, environment, blueprint)
        try:
            trainer.restore()
            with termination_deferred() as came:
                request = Request(folder.path, END, elsewhere=folder.elsewhere)
                trainer.fit(lambda: _asked(came() or (environment.leads and request.is_made())))
            return trainer.finish()
        except Exception as error:
            error.add_note(f"step {trainer.state.position.step + 1}")  # of which a worker's last words tell
            trainer.checkpoints.rescue()
            raise
        finally:
            trainer.checkpoints.give_up()
            trainer.reporter.close()


def _asked(to_end: bool) -> Leaving:
    if to_end:
        return Leaving.END
    return Leaving.REGROUP if is_to_regroup() else Leaving.NO


def _way_on(folder: RunFolder) -> str:
    try:
        last = max(folder.steps(), default=None)
    except StoreError:  # the full disk is what counts
        return "go on with --resume"
    return "start again" if last is None else f"go on with --resume: checkpoint step-{last} stays good"
