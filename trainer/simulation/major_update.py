"""A major update is an ordinary sharded training run on the log so far, from where the last one ended.

It runs in this process and is what `shardrec train` makes of its run folder's config.yaml: all that a training has
(checkpoints, logs, plan) is in that folder, and any other workers may train, resume or load it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from shardrec.data_pipeline.files.owned_files import remove_if_empty
from shardrec.trainer.checkpoints import removal
from shardrec.trainer.config.init_from import InitFrom
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.train_run import train_run


def major_run(
    config: RunConfig,
    run: Path,
    log: Path,
    files: Sequence[Path],
    *,
    model: Mapping[str, Any],
    seed: int,
    start: Path | None,
) -> RunConfig:
    """Returns the run file of a major update: `config`'s, with data, model settings, seed and start of its own.

    log: the folder with the schema; files: the days that are trained on. start: the last major update's run folder, of
    which all is taken over: tables, tower, target network and optimizers. One worker trains, in the process that asks.
    """
    data = config.data.model_copy(
        update={
            "path": None,
            "schema_path": str(log / "schema.yaml"),
            "train": tuple(map(str, files)),
            "validation": None,
            "test": None,
        }
    )
    settings = {name: getattr(config, name) for name in RunConfig.model_fields}
    return RunConfig(
        **settings
        | {
            "run": str(run),
            "data": data,
            "model": {**config.model, **model},
            "trainer": config.trainer.model_copy(update={"seed": seed}),
            "launch": config.launch.model_copy(update={"workers": 1, "backend": "in_process", "address": None}),
            "init_from": (InitFrom(run=str(start)),) if start else (),
            "stages": (),
            "variants": {},
        }
    )


def train_major(config: RunConfig) -> RunFolder:
    """Trains a major update in this process and returns its run folder, made anew where one was there.

    The generators of this process are afterwards as they were. Raises UserError as any training does.
    """
    discard_run(RunFolder(config.run_folder))
    with torch.random.fork_rng(devices=()):
        train_run(config, quiet=True, embedded=True)
    return RunFolder(config.run_folder)


def discard_run(folder: RunFolder) -> None:
    """Removes what a major update wrote, that nothing goes on from any more; what else lies there stays."""
    if not folder.path.exists():
        return
    for step in folder.steps():
        removal.remove(folder.checkpoint(step))
    (folder.checkpoints / "best").unlink(missing_ok=True)
    folder.discard()
    remove_if_empty(folder.path)
