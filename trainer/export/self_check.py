"""A bundle checks itself: its scores of rows are set beside those of the trained model."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.models.inputs import Jagged
from shardrec.trainer.checkpoints.checkpoint import restore
from shardrec.trainer.export.loader import Bundle
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.worker import computing
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.session.agreed_batches import AgreedBatches
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session

CHECKED_ROWS = 10_000
BOUNDS = {"fp32": 1e-5, "fp16": 2e-2, "int8": 0.2}
"""The largest difference of a score, relative to max(1, its magnitude), by the coarsest rows of any table."""


def check_bundle(made: Path, folder: RunFolder, blueprint: Blueprint, step: int, rows: int) -> dict[str, Any]:
    """Scores up to `rows` rows with the bundle in `made` and with the trained model; returns what that found.

    Raises UserError where they differ by more than the bound.
    """
    split = next((s for s in ("test", "validation", "train") if _paths(blueprint, s)), None)
    if split is None or rows == 0:
        return {"rows": 0, "why": "as asked for" if split else "there were no rows"}
    bundle = Bundle(made, prepared=True)
    environment = Environment(0, 1, 0, 1, torch.device("cpu"))
    scores: list[np.ndarray] = []
    trained: list[np.ndarray] = []
    with environment.group(blueprint.config.launch.timeout), computing(blueprint.config, environment):
        with torch.random.fork_rng(devices=[]):
            session = Session.build(blueprint, environment)
            restore(folder.checkpoint(step), session)
        session.distributed.module.eval()
        loader = session.loader(_paths(blueprint, split), labelled=False, keys=tuple(bundle.columns))
        batches, count = AgreedBatches(session, loader), 0
        for batch, columns in batches:
            with torch.no_grad():
                prediction = session.model.task.prediction(session.forward(batch))
            trained += _by_row(prediction, len(columns))
            scores += list(bundle.score(columns))
            if (count := count + len(columns)) >= rows:
                break
        batches.raise_error()
    count = len(scores[:rows])
    ours, theirs = (np.concatenate([np.atleast_1d(x) for x in found[:rows]]) for found in (scores, trained))
    kinds = {table["dtype"] for table in bundle.manifest["tables"].values()}
    bound = max(BOUNDS[kind] for kind in kinds)
    difference = float(np.max(np.abs(ours - theirs) / np.maximum(1, np.abs(theirs)), initial=0))
    if not difference <= bound:
        raise UserError(
            f"the bundle's scores of {split} rows differ from the model's by {difference:g}, more than {bound:g}"
        )
    return {"split": split, "rows": count, "largest_difference": difference, "bound": bound}


def _by_row(prediction: Tensor | Jagged, live: int) -> list[np.ndarray]:
    """Returns the predictions of the live rows, each a number, or an array of them; padding rows come last."""
    if isinstance(prediction, Tensor):
        return list(prediction[:live].float().numpy())
    values = prediction.values.float().numpy()
    return np.split(values, prediction.offsets[1:-1].numpy())[:live]


def _paths(blueprint: Blueprint, split: str) -> Any:
    try:
        return blueprint.config.data.split(split)
    except UserError:
        return None
