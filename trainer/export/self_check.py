"""A bundle checks itself: its scores of rows are set beside those of the trained model.

Both read the same rows of Parquet: the bundle as a service would, the model through loader, lookup and tower of a run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.models.inputs import Jagged
from shardrec.models.tasks import BinaryClassification
from shardrec.trainer.checkpoints.restored import restored
from shardrec.trainer.export.loader import Bundle
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.launch.worker import computing
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.session.agreed_batches import AgreedBatches
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session

CHECKED_ROWS = 10_000

BOUNDS = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 2e-2, "int8": 0.1}
"""The largest difference of a prediction, in shares of the larger of 1 and its magnitude.

It is that of the coarsest of: how tables' rows are stored beside how they were trained, and the precision in which the
tower was trained (`bf16`), as a bundle's is fp32.
"""


@contextmanager
def opened_run(blueprint: Blueprint, folder: RunFolder, step: int) -> Iterator[Session]:
    """Opens a checkpoint in this process, on the CPU, as it was trained."""
    environment = Environment(0, 1, 0, 1, torch.device("cpu"))
    with environment.group(blueprint.config.launch.timeout), computing(blueprint.config, environment):
        with torch.random.fork_rng(devices=[]):  # whoever asks has draws of their own
            session = restored(blueprint, folder, environment, step)
        session.distributed.module.eval()
        yield session


def split_to_check(blueprint: Blueprint) -> str:
    """Returns the rows by which a bundle is checked: test rows, else validation rows, else training rows.

    Raises UserError where these cannot be read.
    """
    try:
        for name in ("test", "validation", "train"):
            if (paths := blueprint.config.data.split(name)) is not None:
                blueprint.data_set(paths)
                return name
    except UserError as error:
        raise UserError(
            f"{error}; it has the rows by which a bundle is checked: put them back, or export unchecked by --check 0"
        ) from None
    raise AssertionError("a run without training rows is refused")


def check_bundle(made: Path, session: Session, split: str | None, rows: int) -> dict[str, Any]:
    """Scores up to `rows` rows of a split with the bundle in `made` and with the trained model; returns what it found.

    Raises UserError where scores differ by more than the bound.
    """
    blueprint = session.blueprint
    if split is None:
        return {"rows": 0, "why": "as asked for"}
    bundle, paths = Bundle(made, prepared=True), blueprint.config.data.split(split)
    assert paths is not None
    task = getattr(session.model.task, "task", session.model.task)  # below one that adds a loss
    label = task.label if isinstance(task, BinaryClassification) and blueprint.missing_labels(paths) is None else None
    loader = session.loader(paths, labelled=label is not None, keys=tuple(bundle.columns))
    ours, theirs, labelled = _scores(bundle, session, loader, rows, label)
    a, b = (np.concatenate([np.atleast_1d(score) for score in scores]) for scores in (ours, theirs))
    bound, kind = _bound(session, bundle)
    difference = float(np.max(np.abs(a - b) / np.maximum(1, np.abs(b)), initial=0))
    if not difference <= bound:
        raise UserError(
            f"the bundle's scores of {split} rows differ from the trained model's by up to {difference:.3g}, where "
            f"{kind} may move them by {bound:g}; nothing was kept"
        )
    found = {"split": split, "rows": len(ours), "largest_difference": difference, "bound": bound}
    labels, weights = np.array(labelled).reshape(-1, 2).T
    if 0 < (labels * weights).sum() < weights.sum():
        found |= {"auc": auc(a, labels, weights), "trained_auc": auc(b, labels, weights)}
    return found


def _scores(
    bundle: Bundle, session: Session, loader: Loader, rows: int, label: str | None
) -> tuple[list[Any], list[Any], list[tuple[float, float]]]:
    """Returns the bundle's scores of up to `rows` rows, the trained model's, and (label, weight) if there is one."""
    ours: list[Any] = []
    theirs: list[Any] = []
    labelled: list[tuple[float, float]] = []
    batches = AgreedBatches(session, loader)
    for batch, columns in batches:
        with torch.no_grad():
            prediction = session.model.task.prediction(session.forward(batch))
        theirs += _by_row(prediction, len(columns))
        ours += list(bundle.score(columns))
        if label is not None:
            pairs = torch.stack([batch.labels[label], batch.weights], 1)[: len(columns)]
            labelled += [tuple(pair) for pair in pairs.tolist()]
        if len(ours) >= rows:
            break
    batches.raise_error()
    return ours[:rows], theirs[:rows], labelled[:rows]


def _by_row(prediction: Tensor | Jagged, live: int) -> list[np.ndarray]:
    """Returns the predictions of the live rows, each a number, or an array of them; padding rows come last."""
    if isinstance(prediction, Tensor):
        return list(prediction[:live].float().numpy())
    return np.split(prediction.values.float().numpy(), prediction.offsets[1:-1].numpy())[:live]


def _bound(session: Session, bundle: Bundle) -> tuple[float, str]:
    """Returns the bound, and what it is that moves scores."""
    trained = {name: table.dtype for name, table in session.model.tables.items()}
    stored = {name: table["dtype"] for name, table in bundle.manifest["tables"].items()}
    kinds = {"fp32", session.config.trainer.precision} | {d for name, d in stored.items() if d != trained[name]}
    kind = max(kinds, key=lambda kind: BOUNDS[kind])
    return BOUNDS[kind], kind


def auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Returns the area under the ROC curve: the weight of pairs of both classes that scores order rightly, of all.

    Ties count half. scores, weights: [n]; labels: [n] from 0 to 1, the share of a row's weight that is positive.
    """
    _, place = np.unique(scores, return_inverse=True)
    positives, negatives = (np.bincount(place, weights * share) for share in (labels, 1 - labels))
    below = np.cumsum(negatives) - negatives / 2
    return float((positives * below).sum() / (positives.sum() * negatives.sum()))
